/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers of DNS servers: what a process receives from port 53 over UDP. User space learns from them which names its
 * addresses have. Over TCP they are connections like any other.
 */
#ifndef SIDETAP_DNS_H
#define SIDETAP_DNS_H

#include "io.h"

#define DNS_PORT 53

static __always_inline bool is_udp(const struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_UDP;
}

/* The sender that a call on an unconnected socket was told of; NULL where it did not ask. */
static __always_inline const void *told_sender(struct pt_regs *regs)
{
	struct user_msghdr header = {};

	switch (syscall_number(regs)) {
	case NR_recvfrom:
		return (const void *)PT_REGS_PARM5_SYSCALL(regs);
	case NR_recvmsg:
		bpf_probe_read_user(&header, sizeof(header), (const void *)PT_REGS_PARM2_SYSCALL(regs));
		return header.msg_name;
	}
	return NULL;
}

/* Fills in the sender's address from that; the socket may be of IPv6 and the sender of either family. */
static __always_inline void read_sender(struct connection *c, const void *told)
{
	const struct sockaddr_in6 *six = told;
	const struct sockaddr_in *four = told;
	__be16 port = 0;

	bpf_probe_read_user(&port, sizeof(port), &four->sin_port);
	c->remote_port = bpf_ntohs(port);
	if (c->family == AF_INET)
		bpf_probe_read_user(c->remote, 4, &four->sin_addr);
	else
		bpf_probe_read_user(c->remote, sizeof(c->remote), &six->sin6_addr);
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

/* A call has received `moved` bytes on a socket that is no connection. */
static __always_inline void on_datagram(struct sock *sk, __u32 pid, struct pt_regs *regs, __u32 moved)
{
	struct source from = {};
	struct connection *c;
	struct scratch *s;
	__u64 length;

	if (!is_udp(sk) || settings.empty || is_process_left_out(pid))
		return;
	s = scratch();
	if (!s)
		return;
	c = &s->dns.connection;
	__builtin_memset(c, 0, sizeof(*c));
	c->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	read_addresses(c, sk);
	if (!c->remote_port) {
		const void *told = told_sender(regs);

		if (!told)
			return;
		read_sender(c, told);
	}
	if (c->remote_port != DNS_PORT)
		return;
	c->id = new_id();
	c->pid = pid;
	c->netns = netns_of(sk);
	c->role = ROLE_CLIENT;
	c->opened = bpf_ktime_get_boot_ns();
	fill_owner(&c->owner, (struct task_struct *)bpf_get_current_task());
	fill_head(&s->dns.head, EVENT_DNS, pid);

	source_of_call(&from, regs, moved);
	first_buffer(&from);
	length = from.span < moved ? from.span : moved;
	if (length > DNS_MAX)
		length = DNS_MAX;
	/* Clamp, barrier, mask, as in flush(). */
	barrier_var(length);
	length &= DNS_MAX;
	if (!length || bpf_probe_read_user(s->message, length, (void *)from.base))
		return;
	s->dns.moved = moved;
	s->dns.attached = length;
	output(&s->dns, sizeof(s->dns) + length, COUNT_LOST_DNS);
}

#endif
