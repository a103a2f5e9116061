/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket path (kernels from 6.3 on): one program run per send or receive of a socket, after it happened. No other
 * system call pays anything.
 */
#include "datagram.h"
#include "io.h"
#include "plain.h"

/* Whether what was found out at an earlier call holds for this one; then that is all there is to find out. */
static __always_inline bool recall(struct call *call, const struct remembered *known, const struct owner *now)
{
	if (!known || known->generation != settings.generation || known->started != now->started ||
	    known->exec_id != now->exec_id)
		return false;
	call->connection = known->connection;
	call->socket = known->socket;
	call->role = known->role;
	return true;
}

/*
 * For the calls that follow. `c`: where the call is to be captured. `generation`: read before it was asked whether it
 * is, so that no later answer can be taken for an earlier one. Positions that we count, and Unix sockets, stay in the
 * tables.
 */
static __always_inline void remember(struct sock *sk, const struct connection *c, __u32 pid, const struct owner *now,
                                     __u32 generation)
{
	struct remembered new = { .started = now->started, .exec_id = now->exec_id, .generation = generation }, *known;
	__u8 verdict = process_verdict(pid);

	/* Where user space's word has come since the call was let through, the next one asks anew. */
	if (verdict != (c ? PROCESS_TAPPED : PROCESS_LEFT_OUT) || !is_tcp(sk))
		return;
	if (c && (c->flags & CONNECTION_COUNTED || !(c->flags & CONNECTION_ANNOUNCED)))
		return;
	if (c) {
		new.connection = c->id;
		new.socket = c->socket;
		new.role = c->role;
	}
	known = bpf_sk_storage_get(&remembered, sk, &new, BPF_SK_STORAGE_GET_F_CREATE);
	if (known)
		*known = new;
}

/* The connection of a call of that task that moved so many bytes is in `call`; answers false where it is not to be
 * captured. */
static __always_inline bool find_call(struct call *call, struct sock *sk, const struct task_struct *task)
{
	__u32 generation = settings.generation;
	struct connection *c;
	struct owner now;

	fill_known_owner(&now, task);
	if (recall(call, bpf_sk_storage_get(&remembered, sk, NULL, 0), &now)) {
		if (!call->connection) {
			count(COUNT_LEFT_OUT);
			return false;
		}
		call->position = position_of(sk, call->direction) - call->moved;
		return true;
	}
	c = tapped_connection(sk, call->pid, call->direction, call->moved);
	if (c)
		fill_call(call, c, sk);
	remember(sk, c, call->pid, &now, generation);
	return c;
}

static __always_inline void on_length(struct sock *sk, __s32 moved, int flags, __u8 direction)
{
	struct task_struct *task;
	struct call call = {};

	if (moved <= 0 || settings.empty)
		return;
	if (direction == RECEIVED && flags & MSG_NO_CONSUMPTION)
		return;
	call.pid = current_pid();
	call.direction = direction;
	call.moved = moved;
	task = bpf_get_current_task_btf();
	if (!find_call(&call, sk, task)) {
		/* Most calls of processes that are left out end here. */
		if (sk->sk_protocol == IPPROTO_UDP && has_syscall(task) &&
		    !(direction == RECEIVED && flags & MSG_TRUNC))
			on_datagram(sk, call.pid, (struct pt_regs *)bpf_task_pt_regs(task), moved, direction);
		return;
	}
	if (has_syscall(task) && !(direction == RECEIVED && flags & MSG_TRUNC))
		source_of_call(&call.from, (struct pt_regs *)bpf_task_pt_regs(task), moved);
	emit_call(&call);
	if (has_syscall(task))
		look_within(&call, (struct pt_regs *)bpf_task_pt_regs(task));
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	take_call();
	on_length(sk, moved, flags, SENT);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent_again, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	if (!was_taken())
		on_length(sk, moved, flags, SENT);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	take_call();
	on_length(sk, moved, flags, RECEIVED);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received_again, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	if (!was_taken())
		on_length(sk, moved, flags, RECEIVED);
	release_cpu();
	return 0;
}

/* A spliced receive does not pass above, but makes room like any other (tcp_read_sock): says where the stream stands.
 */
static __always_inline void on_spliced(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call call = { .direction = RECEIVED };

	if (!has_syscall(task))
		return;
	if (syscall_number((struct pt_regs *)bpf_task_pt_regs(task)) != NR_splice)
		return;
	call.pid = current_pid();
	if (!settings.empty && find_call(&call, sk, task))
		emit_call(&call);
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(socket_spliced, struct sock *sk)
{
	hold_cpu();
	take_call();
	on_spliced(sk);
	release_cpu();
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(socket_spliced_again, struct sock *sk)
{
	hold_cpu();
	if (!was_taken())
		on_spliced(sk);
	release_cpu();
	return 0;
}
