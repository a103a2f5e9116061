/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections begin, stop carrying bytes one way, and end. These programs may run in a network interrupt, on behalf of
 * no process: they keep off the scratch buffer.
 */
#include "compat.h"
#include "emit.h"
#include "plain.h"

/* The process is in connect(): its end of the connection has no port yet. */
static __always_inline void on_connect(const struct sock *sk)
{
	struct connection c = { .role = ROLE_CLIENT, .pid = current_pid() };

	if (is_process_left_out(c.pid))
		return;
	init_tcp(&c, sk);
	fill_current_owner(&c.owner);
	c.opened = bpf_ktime_get_boot_ns();
	insert_connection(&connections, &c);
}

/* A socket may be connected again after a connection of its was dissolved (tcp_disconnect). */
static __always_inline void forget_remembered(struct sock *sk)
{
	if (remembers)
		bpf_sk_storage_delete(&remembered, sk);
}

static __always_inline void on_established(const struct sock *sk, bool accepted)
{
	struct connection *c, accepting = { .role = ROLE_SERVER };
	__u64 key = (__u64)sk;

	if (accepted) {
		/* With TCP Fast Open it may have been read and written before. */
		c = bpf_map_lookup_elem(&connections, &key);
		if (c && !(c->flags & CONNECTION_CLOSED))
			return;
		init_tcp(&accepting, sk);
		accepting.opened = bpf_ktime_get_boot_ns();
		c = insert_connection(&connections, &accepting);
	} else {
		c = bpf_map_lookup_elem(&connections, &key);
		if (c)
			read_addresses(c, sk);
	}
	if (!c)
		return;
	c->base[SENT] = position_of(sk, SENT);
	c->base[RECEIVED] = position_of(sk, RECEIVED);
}

/* Not for sockets whose positions are ours: the kernel's would mean nothing. */
static __always_inline void on_end(const struct connection *c, __u8 direction, __u32 position)
{
	struct end_event event = {};

	if (!(c->flags & CONNECTION_ANNOUNCED) || c->flags & CONNECTION_COUNTED)
		return;
	fill_head(&event.head, EVENT_END, 0);
	event.connection = c->id;
	event.position = position;
	event.direction = direction;
	output(&event, sizeof(event), COUNT_LOST_END);
}

/* Where both directions stand; once. */
static __always_inline void set_final(struct connection *c, const struct sock *sk)
{
	if (c->flags & CONNECTION_CLOSED)
		return;
	if (c->flags & CONNECTION_COUNTED) {
		c->final[SENT] = c->counted[SENT];
		c->final[RECEIVED] = c->counted[RECEIVED];
	} else {
		if (!(c->flags & CONNECTION_SHUT))
			c->final[SENT] = position_of(sk, SENT);
		c->final[RECEIVED] = position_of(sk, RECEIVED);
	}
	c->flags |= CONNECTION_CLOSED;
}

static __always_inline void on_state(struct sock *sk, int from, int to)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;
	__u64 key = (__u64)sk;
	struct connection *c;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	switch (to) {
	case TCP_LISTEN:
		remember_listening_port(sk);
		return;
	case TCP_SYN_SENT:
		forget_remembered(sk);
		on_connect(sk);
		return;
	case TCP_ESTABLISHED:
		on_established(sk, from == TCP_SYN_RECV);
		return;
	}
	c = bpf_map_lookup_elem(&connections, &key);
	if (!c)
		return;
	switch (to) {
	case TCP_FIN_WAIT1:
	case TCP_LAST_ACK:
		/* A close() after a shutdown() comes by here once more (tcp_close_state). */
		if (c->flags & CONNECTION_SHUT)
			break;
		/* Before tcp_send_fin(): write_seq does not count the FIN yet. */
		c->final[SENT] = BPF_CORE_READ(tp, write_seq);
		c->flags |= CONNECTION_SHUT;
		on_end(c, SENT, c->final[SENT]);
		break;
	case TCP_CLOSE_WAIT:
		/* After tcp_rcv_nxt_update(): rcv_nxt counts the FIN. The process may still have to read up to it. */
		on_end(c, RECEIVED, BPF_CORE_READ(tp, rcv_nxt) - 1);
		break;
	case TCP_CLOSE:
		/* The process may take the error off the socket before the socket is gone, and tcp_disconnect() is
		 * about to move both positions. */
		c->error = BPF_CORE_READ(sk, sk_err);
		set_final(c, sk);
		break;
	}
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_changed, struct sock *sk, int from, int to)
{
	hold_cpu();
	on_state(sk, from, to);
	release_cpu();
	return 0;
}

/* Some libraries ask for it on every socket, in case that they will use it (inet_csk(sk)->icsk_ulp_ops). */
static __always_inline bool has_kernel_tls(const struct sock *sk)
{
	const struct tcp_ulp_ops *layer = BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_ops);
	char name[4] = {};

	if (!layer)
		return false;
	bpf_probe_read_kernel(name, sizeof(name), &layer->name);
	return name[0] == 't' && name[1] == 'l' && name[2] == 's' && !name[3];
}

/* No call can follow; after a half-close, receives may well follow TCP_CLOSE. */
static __always_inline void on_destroyed(const struct sock *sk)
{
	struct close_event event = {};
	__u64 key = (__u64)sk;
	struct connection *c = bpf_map_lookup_elem(&connections, &key);

	if (!c)
		return;
	if (reads_plain && c->flags & CONNECTION_BOUND)
		unbind(c);
	/* One that moved nothing is told of only where it failed, or was ours to begin. */
	if (!is_left_out(c) && (c->pid || c->flags & CONNECTION_ANNOUNCED)) {
		fill_head(&event.head, EVENT_CLOSE, c->pid);
		set_final(c, sk);
		if (has_kernel_tls(sk))
			c->flags |= CONNECTION_KTLS;
		event.connection = *c;
		output(&event, sizeof(event), COUNT_LOST_CLOSE);
	}
	bpf_map_delete_elem(&connections, &key);
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(socket_destroyed, const struct sock *sk)
{
	hold_cpu();
	on_destroyed(sk);
	release_cpu();
	return 0;
}
