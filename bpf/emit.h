/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From "this call moved so many bytes" to events: what user space still wants of them, where they lie in the process's
 * memory, in pieces that fit an event.
 */
#ifndef SIDETAP_EMIT_H
#define SIDETAP_EMIT_H

#include "infer.h"
#include "socket.h"

static __always_inline struct scratch *scratch(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&scratches, &cpu);
}

/* Whether `size` more bytes make a buffer so full that its reader is woken: never for each event, once a filling. */
static __always_inline bool is_filling(void *buffer, __u64 size)
{
	__u64 unread = bpf_ringbuf_query(buffer, BPF_RB_AVAIL_DATA);

	return unread < settings.watermark && unread + size >= settings.watermark;
}

/* `lost` and `given`: what is counted. `urgent`: the reader is woken at once, which only rare events may ask for. */
static __always_inline bool output_as(void *event, __u64 size, __u32 lost, __u32 given, bool urgent)
{
	__u32 cpu = bpf_get_smp_processor_id();
	void *buffer = bpf_map_lookup_elem(&buffers, &cpu);

	if (!buffer ||
	    bpf_ringbuf_output(buffer, event, size,
	                       urgent || is_filling(buffer, size) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP)) {
		count(lost);
		return false;
	}
	count(given);
	return true;
}

static __always_inline bool output(void *event, __u64 size, __u32 lost)
{
	return output_as(event, size, lost, COUNT_EVENTS, false);
}

static __always_inline void fill_head(struct event_head *head, __u32 kind, __u32 pid)
{
	head->time = bpf_ktime_get_boot_ns();
	head->kind = kind;
	head->pid = pid;
}

/* A call on its way into events; how far it is, is in the scratch. */
struct walk {
	struct scratch *scratch;
	__u64 socket;
};

/* The connection of a socket that was met before. */
static __always_inline struct connection *known_connection(__u64 socket)
{
	struct connection *c = bpf_map_lookup_elem(&connections, &socket);

	return c ? c : bpf_map_lookup_elem(&unix_connections, &socket);
}

/* Where nothing follows an event that found no room, this is how user space learns of it. */
static __always_inline void note_loss(__u64 socket, __u8 direction, __u32 end)
{
	struct connection *c = known_connection(socket);

	if (!c)
		return;
	c->lost[direction & 1] = end;
	c->flags |= CONNECTION_LOST;
}

/* Hands out the event under construction: `moved` bytes of the stream, the first `fill` of them attached. */
static __always_inline void flush(const struct walk *w, __u32 moved, __u8 flags)
{
	struct data_event *event = &w->scratch->data;
	struct progress *p = &w->scratch->progress;
	__u64 attached = p->fill;

	event->position = p->position;
	event->moved = moved;
	event->flags = (event->flags & DATA_CALL_START) | flags;
	/* Clamp, barrier, mask: proves the length to the verifier without the compiler undoing it. */
	if (attached > PAYLOAD_MAX)
		attached = PAYLOAD_MAX;
	barrier_var(attached);
	attached &= PAYLOAD_MAX;
	event->attached = attached;
	if (!output(event, sizeof(*event) + attached, COUNT_LOST_DATA))
		note_loss(w->socket, event->direction, p->position + moved);
	event->flags = 0;
	p->position += moved;
	p->left -= moved;
	p->fill = 0;
}

/* Copies from one buffer what fits; hands the event out when it is full or all is copied. Non-zero: done. */
static __always_inline long walk_on(const struct walk *w)
{
	struct progress *p = &w->scratch->progress;
	__u64 offset, length;

	if (p->left == p->fill)
		return 1;
	if (!p->from.span) {
		struct iovec iov;

		if (p->from.next >= p->from.entries ||
		    bpf_probe_read_user(&iov, sizeof(iov), &p->from.iov[p->from.next]))
			return 1;
		p->from.next++;
		p->from.base = (__u64)iov.iov_base;
		p->from.span = iov.iov_len;
	}
	if (p->unwanted) {
		length = p->unwanted < p->from.span ? p->unwanted : p->from.span;
		p->unwanted -= length;
		p->from.base += length;
		p->from.span -= length;
		return 0;
	}

	length = p->left - p->fill;
	if (length > p->from.span)
		length = p->from.span;
	if (length > PAYLOAD_MAX - p->fill)
		length = PAYLOAD_MAX - p->fill;
	/* Proves both bounds of the copy: neither reaches beyond half of `payload`. */
	barrier_var(length);
	length &= PAYLOAD_MAX;
	offset = p->fill & PAYLOAD_MAX;
	if (bpf_probe_read_user(&w->scratch->payload[offset], length, (void *)p->from.base)) {
		count(COUNT_FAULTS);
		return 1;
	}
	p->from.base += length;
	p->from.span -= length;
	p->fill += length;
	if (p->fill == PAYLOAD_MAX || p->fill == p->left)
		flush(w, p->fill, 0);
	return 0;
}

static long walk_step(__u32 index, void *context)
{
	return walk_on(context);
}

/* A call that moved `moved` bytes from `position` on; `from` is empty where they are out of reach. */
struct call {
	__u64 socket; /* key of its connection, and that one's id */
	__u64 connection;
	struct source from;
	__u32 pid;
	__u32 position;
	__u32 moved;
	__u8 direction;
	__u8 role;
	__u8 bounded; /* the kernel has no bpf_loop() */
};

/* User space doubts that the connection speaks HTTP: whether a call that begins like a message was seen since. */
static __always_inline bool has_found_message(const struct call *call)
{
	struct connection *c = known_connection(call->socket);

	if (!c)
		return false;
	if (!(c->flags & CONNECTION_FOUND) && looks_like_message(&call->from))
		c->flags |= CONNECTION_FOUND;
	return c->flags & CONNECTION_FOUND;
}

/* What user space still wants of a call: false for nothing, else how many bytes to step over first. */
static __always_inline bool is_wanted(struct call *call, __u32 *unwanted)
{
	__u32 slot = (call->connection >> 10) & (ORDERS - 1);
	struct order *order = bpf_map_lookup_elem(&orders, &slot);
	__s32 ahead;

	*unwanted = 0;
	if (!order || order->connection != call->connection)
		return true;
	if (order->verdict == VERDICT_DROP || order->verdict == VERDICT_PLAIN)
		return false;
	if (order->verdict == VERDICT_LOOK && !has_found_message(call))
		return false;
	if (!order->skips[call->direction & 1])
		return true;
	ahead = order->skip_to[call->direction & 1] - call->position;
	if (ahead <= 0)
		return true;
	/* A call that ends just there is reported without bytes, for its time. */
	if ((__u32)ahead > call->moved)
		return false;
	*unwanted = ahead;
	return true;
}

static __always_inline void emit_call(struct call *call)
{
	struct walk walk = { .scratch = scratch(), .socket = call->socket };
	struct data_event *event;
	struct progress *p;
	__u32 i, unwanted;

	if (!walk.scratch)
		return;
	count(COUNT_CALLS);
	if (!is_wanted(call, &unwanted)) {
		count(COUNT_SKIPPED);
		return;
	}
	event = &walk.scratch->data;
	fill_head(&event->head, EVENT_DATA, call->pid);
	event->connection = call->connection;
	event->socket = call->socket;
	event->direction = call->direction;
	event->role = call->role;
	event->flags = unwanted ? 0 : DATA_CALL_START;
	event->library = 0;
	p = &walk.scratch->progress;
	p->from = call->from;
	p->position = call->position + unwanted;
	p->left = call->moved - unwanted;
	p->unwanted = unwanted;
	p->fill = 0;
	if (!p->left) {
		flush(&walk, 0, DATA_UNOBSERVABLE);
		return;
	}

	/* Nearly every call: one buffer, one event. */
	if (walk_on(&walk))
		goto rest;
	if (p->left == 0)
		return;
	if (!call->bounded)
		bpf_loop(WALK_STEPS, walk_step, &walk, 0);
	else
		for (i = 0; i < WALK_STEPS_BOUNDED; i++)
			if (walk_on(&walk))
				break;
rest:
	if (p->fill)
		flush(&walk, p->fill, 0);
	if (p->left)
		flush(&walk, p->left, DATA_UNOBSERVABLE);
}

/* Tells user space of a connection at its first call; again at the next one where the buffer was full. */
static __always_inline void announce(struct connection *c, const struct sock *sk, __u32 pid)
{
	struct scratch *s = scratch();
	struct open_event *event;

	if (!s)
		return;
	event = &s->open;
	c->pid = pid;
	fill_current_owner(&c->owner);
	fill_head(&event->head, EVENT_OPEN, pid);
	event->connection = *c;
	event->local_path_len = 0;
	event->remote_path_len = 0;
	if (c->family == AF_UNIX) {
		const struct unix_sock *u = (const struct unix_sock *)sk;
		const struct unix_sock *peer = (const struct unix_sock *)BPF_CORE_READ(u, peer);

		event->local_path_len = read_unix_path(event->local_path, u);
		if (peer)
			event->remote_path_len = read_unix_path(event->remote_path, peer);
	}
	if (output(event, sizeof(*event), COUNT_LOST_OPEN))
		c->flags |= CONNECTION_ANNOUNCED;
}

#endif
