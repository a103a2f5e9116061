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

/* Where a call on an unconnected socket sends to; NULL where it does not say. Of several messages the first one's. */
static __always_inline const void *told_receiver(struct pt_regs *regs)
{
	struct user_msghdr header = {};

	switch (syscall_number(regs)) {
	case NR_sendto:
		return (const void *)PT_REGS_PARM5_SYSCALL(regs);
	case NR_sendmsg:
	case NR_sendmmsg:
		/* struct mmsghdr begins with the message. */
		bpf_probe_read_user(&header, sizeof(header), (const void *)PT_REGS_PARM2_SYSCALL(regs));
		return header.msg_name;
	}
	return NULL;
}

static __always_inline void on_dns_sent(const struct sock *sk, struct pt_regs *regs)
{
	struct name_server server = {};
	const struct sockaddr_in6 *six;
	const struct sockaddr_in *four;
	__u64 key = (__u64)sk;
	__be16 port = 0;

	if (BPF_CORE_READ(sk, __sk_common.skc_dport))
		return;
	four = told_receiver(regs);
	six = (const void *)four;
	if (!four || bpf_probe_read_user(&port, sizeof(port), &four->sin_port) || port != bpf_htons(DNS_PORT))
		return;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
		bpf_probe_read_user(server.address, 4, &four->sin_addr);
	else
		bpf_probe_read_user(server.address, sizeof(server.address), &six->sin6_addr);
	bpf_map_update_elem(&name_servers, &key, &server, BPF_ANY);
}

static __always_inline void on_dns_received(struct sock *sk, __u32 pid, struct pt_regs *regs, __u32 moved)
{
	__u64 length, key = (__u64)sk;
	struct source from = {};
	struct connection *c;
	struct scratch *s;

	s = scratch();
	if (!s)
		return;
	c = &s->dns.connection;
	__builtin_memset(c, 0, sizeof(*c));
	c->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	read_addresses(c, sk);
	if (!c->remote_port) {
		struct name_server *server = bpf_map_lookup_elem(&name_servers, &key);

		if (!server)
			return;
		__builtin_memcpy(c->remote, server->address, sizeof(c->remote));
		c->remote_port = DNS_PORT;
	}
	if (c->remote_port != DNS_PORT)
		return;
	c->id = new_id();
	c->pid = pid;
	c->netns = netns_of(sk);
	c->role = ROLE_CLIENT;
	c->opened = bpf_ktime_get_boot_ns();
	fill_current_owner(&c->owner);
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
