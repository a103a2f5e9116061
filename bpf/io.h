/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both capture paths share: from a socket and the system call that moved its bytes to a call and its buffers.
 */
#ifndef SIDETAP_IO_H
#define SIDETAP_IO_H

#include "compat.h"
#include "emit.h"

#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000

/* These receive nothing from the stream: a look, an error report, the urgent byte beside it. */
#define MSG_NO_CONSUMPTION (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB)

/* The first program says that it has taken in this thread's call, where there is a second. */
static __always_inline void take_call(void)
{
	__u32 thread, slot, *taker;

	/* Not behind the call of a helper, which would stay where there is only one program. */
	if (!is_preemptible)
		return;
	thread = bpf_get_current_pid_tgid();
	slot = thread & (TAKEN - 1);
	taker = bpf_map_lookup_elem(&taken, &slot);
	if (taker)
		*taker = thread;
}

/*
 * Where tasks can lose the CPU in the midst of a program, hold_cpu() leaves a few instructions before it, and
 * release_cpu() some behind it, in which they still do. The runs of that program for the tasks that come next on the
 * CPU are left out then. So there are two programs, one after the other: the second takes in what the first could not,
 * and tells so by this. Both are left out only where two tasks were stopped so, each in another program.
 */
static __always_inline bool was_taken(void)
{
	__u32 thread = bpf_get_current_pid_tgid(), slot = thread & (TAKEN - 1);
	__u32 *taker = bpf_map_lookup_elem(&taken, &slot);

	if (taker && *taker == thread) {
		*taker = 0;
		return true;
	}
	count(COUNT_AGAIN);
	return false;
}

static __always_inline void source_of_message(struct source *from, const void *message)
{
	struct user_msghdr header;

	if (bpf_probe_read_user(&header, sizeof(header), message))
		return;
	from->iov = header.msg_iov;
	from->entries = header.msg_iovlen;
}

/* Where the bytes of this system call lie; nothing for calls that move them past the process's memory. */
static __always_inline void source_of_call(struct source *from, struct pt_regs *regs, __u32 moved)
{
	switch (syscall_number(regs)) {
	case NR_read:
	case NR_write:
	case NR_recvfrom:
	case NR_sendto:
		from->base = PT_REGS_PARM2_SYSCALL(regs);
		from->span = moved;
		return;
	case NR_readv:
	case NR_writev:
	case NR_preadv2:
	case NR_pwritev2:
		from->iov = (const struct iovec *)PT_REGS_PARM2_SYSCALL(regs);
		from->entries = PT_REGS_PARM3_SYSCALL(regs);
		return;
	case NR_recvmsg:
	case NR_sendmsg:
		source_of_message(from, (const void *)PT_REGS_PARM2_SYSCALL(regs));
		return;
	case NR_recvmmsg:
	case NR_sendmmsg:
		/* Which message of several this is cannot be told here: only a single one is. */
		if (PT_REGS_PARM3_SYSCALL(regs) == 1)
			source_of_message(from, (const void *)PT_REGS_PARM2_SYSCALL(regs));
		return;
	}
}

/* The first buffer of the call: a message is rarely put together from several. */
static __always_inline void first_buffer(struct source *from)
{
	struct iovec iov;

	if (from->span || !from->entries || bpf_probe_read_user(&iov, sizeof(iov), from->iov))
		return;
	from->base = (__u64)iov.iov_base;
	from->span = iov.iov_len;
}

static __always_inline struct connection *connection_of(const struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct connection *c = bpf_map_lookup_elem(&connections, &key);
	__u32 inode;

	if (c)
		return c;
	if (is_tcp(sk))
		return older_tcp_connection(sk);
	if (!is_unix_stream(sk))
		return NULL;
	inode = inode_of(sk);
	c = bpf_map_lookup_elem(&unix_connections, &key);
	return c && c->inode == inode ? c : new_unix_connection(sk, inode, 0);
}

/*
 * At a connection's first call that is to be captured, of `moved` bytes: whether there were calls before it, which went
 * by while the programs were being attached, or while filters left out the process.
 */
static __always_inline bool was_in_use(const struct connection *c, const struct sock *sk, __u8 direction, __u32 moved)
{
	if (c->flags & (CONNECTION_OLDER | CONNECTION_COUNTED))
		return false;
	return position_of(sk, SENT) - (direction == SENT ? moved : 0) != c->base[SENT] ||
	       position_of(sk, RECEIVED) - (direction == RECEIVED ? moved : 0) != c->base[RECEIVED];
}

/*
 * The connection of a call that moved so many bytes, if it is to be captured, and user space told of it. NULL for
 * others.
 */
static __always_inline struct connection *tapped_connection(const struct sock *sk, __u32 pid, __u8 direction,
                                                            __u32 moved)
{
	struct connection *c;

	if (settings.empty)
		return NULL;
	if (is_process_left_out(pid)) {
		count(COUNT_LEFT_OUT);
		return NULL;
	}
	c = connection_of(sk);
	if (!c)
		return NULL;
	if (is_left_out(c)) {
		count(COUNT_LEFT_OUT);
		return NULL;
	}
	if (!(c->flags & CONNECTION_MET)) {
		if (was_in_use(c, sk, direction, moved))
			c->flags |= CONNECTION_OLDER;
		c->flags |= CONNECTION_MET;
	}
	if (!(c->flags & CONNECTION_ANNOUNCED))
		announce(c, sk, pid);
	return c;
}

/* Position of the first of `moved` bytes that a call has just moved. */
static __always_inline __u32 position_before(struct connection *c, const struct sock *sk, __u8 direction, __u32 moved)
{
	__u32 position;

	if (!(c->flags & CONNECTION_COUNTED))
		return position_of(sk, direction) - moved;
	position = c->counted[direction & 1];
	c->counted[direction & 1] = position + moved;
	return position;
}

/* A call of the connection has moved `call->moved` bytes. */
static __always_inline void fill_call(struct call *call, struct connection *c, const struct sock *sk)
{
	call->connection = c->id;
	call->socket = c->socket;
	call->role = c->role;
	call->position = position_before(c, sk, call->direction, call->moved);
}

#endif
