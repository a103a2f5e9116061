/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Plaintext of TLS connections that are older than we are: at the entry and the return instructions of OpenSSL's read
 * and write functions, in processes that user space chooses. A kernel that refuses these programs costs nothing else.
 *
 * On kernels that let other tasks onto the CPU in the midst of such a program: nothing here is shared by CPU.
 */
#include "io.h"
#include "plain.h"

/* Events of one call: half a MiB. */
#define PLAIN_STEPS 16

static __always_inline void enter(struct pt_regs *ctx, __u8 direction, __u64 told_at)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tls_object_key key = { .address = PT_REGS_PARM1(ctx), .pid = thread >> 32 };
	struct tls_call *outer, call = {
		.object = key.address,
		.data = PT_REGS_PARM2(ctx),
		.length = PT_REGS_PARM3(ctx),
		.told_at = told_at,
		.stack = PT_REGS_SP(ctx),
		.direction = direction,
	};

	if (settings.empty || is_process_left_out(key.pid))
		return;
	outer = bpf_map_lookup_elem(&tls_calls, &thread);
	if (outer) {
		struct tls_object_key other = { .address = outer->object, .pid = key.pid };

		/* One within the other: whose system calls are those? Or a return that was not seen, and its bytes. */
		contradict(&other);
		if (outer->stack > call.stack)
			contradict(&key);
	}
	if (bpf_map_update_elem(&tls_calls, &thread, &call, BPF_ANY))
		contradict(&key);
}

SEC("uprobe/plain")
int openssl_read(struct pt_regs *ctx)
{
	enter(ctx, RECEIVED, 0);
	return 0;
}

SEC("uprobe/plain")
int openssl_read_ex(struct pt_regs *ctx)
{
	enter(ctx, RECEIVED, PT_REGS_PARM4(ctx));
	return 0;
}

SEC("uprobe/plain")
int openssl_write(struct pt_regs *ctx)
{
	enter(ctx, SENT, 0);
	return 0;
}

SEC("uprobe/plain")
int openssl_write_ex(struct pt_regs *ctx)
{
	enter(ctx, SENT, PT_REGS_PARM4(ctx));
	return 0;
}

/* Since OpenSSL 3.3, where SSL_write_ex() leaves all to this one. */
SEC("uprobe/plain")
int openssl_write_ex2(struct pt_regs *ctx)
{
	enter(ctx, SENT, PT_REGS_PARM5(ctx));
	return 0;
}

/*
 * Hands out the next `length` bytes of what a call moved, in an event with room for `most`: what it has more than
 * needed means nothing. How far the call is stays in the map: what is in memory does not multiply the verifier's
 * states.
 */
static __always_inline void send_part(struct tls_call *call, const struct connection *c, __u32 length, const __u32 most)
{
	__u32 cpu = bpf_get_smp_processor_id();
	void *buffer = bpf_map_lookup_elem(&buffers, &cpu);
	const __u64 size = sizeof(struct data_event) + most + 1;
	struct data_event *event = NULL;
	__u64 attached = length, flags;

	if (buffer) {
		flags = is_filling(buffer, size) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
		event = bpf_ringbuf_reserve(buffer, size, 0);
	}
	if (event) {
		fill_head(&event->head, EVENT_PLAIN, current_pid());
		event->connection = c->id;
		event->socket = c->socket;
		event->position = call->position;
		event->moved = length;
		event->direction = call->direction;
		event->role = c->role;
		event->flags = call->flags;
		event->pad = 0;
		/* Clamp, barrier, mask, as in flush(). */
		if (attached > most)
			attached = most;
		barrier_var(attached);
		attached &= most;
		event->attached = attached;
		if (bpf_probe_read_user(event + 1, attached, (void *)call->data)) {
			event->attached = 0;
			count(COUNT_FAULTS);
		}
		bpf_ringbuf_submit(event, flags);
		count(COUNT_EVENTS);
	} else {
		count(COUNT_LOST_DATA);
	}
	call->data += length;
	call->position += length;
	call->left -= length;
	call->flags = 0;
}

/* What is left of a call as an event without bytes. */
static __always_inline void tell_rest(const struct tls_call *call, const struct connection *c)
{
	struct data_event event = {};

	fill_head(&event.head, EVENT_PLAIN, current_pid());
	event.connection = c->id;
	event.socket = c->socket;
	event.position = call->position;
	event.moved = call->left;
	event.direction = call->direction;
	event.role = c->role;
	event.flags = DATA_UNOBSERVABLE;
	output(&event, sizeof(event), COUNT_LOST_DATA);
}

/* The next part of a long call; whether there is more. Global: the verifier looks at it once, and not for each part. */
__noinline int send_large(__u64 address)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &thread);
	struct connection *c = bpf_map_lookup_elem(&connections, &address);
	__u32 length;

	if (!call || !c || !call->left)
		return 0;
	length = call->left;
	send_part(call, c, length < PAYLOAD_MAX ? length : PAYLOAD_MAX, PAYLOAD_MAX);
	return call->left > 0;
}

static __always_inline void send_all(struct tls_call *call, const struct connection *c)
{
	__u32 length = call->left;
	int i;

	/* Nearly every call: one event, of a size near to what it needs. */
	if (length <= 0x1ff)
		return send_part(call, c, length, 0x1ff);
	if (length <= 0xfff)
		return send_part(call, c, length, 0xfff);
	if (length <= 0x3fff)
		return send_part(call, c, length, 0x3fff);
	for (i = 0; i < PLAIN_STEPS; i++)
		if (!send_large(c->socket))
			return;
	tell_rest(call, c);
}

/* Nothing of the connection is wanted, within TLS or not. */
static __always_inline bool is_dropped(const struct connection *c)
{
	__u32 slot = (c->id >> 10) & (ORDERS - 1);
	const struct order *order = bpf_map_lookup_elem(&orders, &slot);

	return order && order->connection == c->id && order->verdict == VERDICT_DROP;
}

/* The function has moved so many bytes of plaintext. */
static __always_inline void on_plain(struct tls_call *call, __u32 pid, __u32 moved)
{
	struct tls_object_key key = { .address = call->object, .pid = pid };
	struct tls_object *object = bpf_map_lookup_elem(&tls_objects, &key);
	struct tls_socket *socket;
	struct connection *c;
	__u64 address;

	if (!object || !object->connection)
		return;
	if (moved > call->length) {
		contradict(&key);
		return;
	}
	address = object->socket;
	socket = bpf_map_lookup_elem(&tls_sockets, &address);
	c = bpf_map_lookup_elem(&connections, &address);
	if (!socket || socket->connection != object->connection || !c || c->id != object->connection)
		return;
	call->position = socket->position[call->direction & 1];
	call->left = moved;
	call->flags = DATA_CALL_START;
	socket->position[call->direction & 1] += moved;
	if (!is_dropped(c))
		send_all(call, c);
}

/* How many bytes the function says it has moved; more than a call can move where that cannot be told. */
static __always_inline __u32 moved_by(const struct tls_call *call, __s32 returned)
{
	__u64 moved = 0;

	if (returned <= 0)
		return 0;
	if (!call->told_at)
		return returned;
	if (bpf_probe_read_user(&moved, sizeof(moved), (void *)call->told_at) || moved > 0x7fffffff)
		return 0x80000000;
	return moved;
}

/* At a return instruction of any of the functions. */
SEC("uprobe/plain")
int openssl_returns(struct pt_regs *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &thread);
	struct tls_object_key key = {};
	__u32 moved;

	if (!call)
		return 0;
	key.address = call->object;
	key.pid = thread >> 32;
	if (call->stack != PT_REGS_SP(ctx)) {
		contradict(&key);
	} else {
		moved = moved_by(call, PT_REGS_RC(ctx));
		if (moved)
			on_plain(call, key.pid, moved);
	}
	bpf_map_delete_elem(&tls_calls, &thread);
	return 0;
}

/* The object ends, or is about to be used for another connection or another socket. */
SEC("uprobe/plain")
int openssl_ends(struct pt_regs *ctx)
{
	struct tls_object_key key = { .address = PT_REGS_PARM1(ctx), .pid = current_pid() };

	bpf_map_delete_elem(&tls_objects, &key);
	return 0;
}

/* Lists the connections that are older than we are: those whose first bytes were not seen, whatever goes on in them. */
SEC("iter/task_file")
int older_connections(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct older_connection older = {};
	struct connection *c;
	struct sock *sk;

	if (!file || !task)
		return 0;
	sk = sock_of_file(file);
	if (!sk || !is_tcp(sk) || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED)
		return 0;
	c = connection_of(sk);
	if (!c || is_left_out(c))
		return 0;
	if (!(c->flags & CONNECTION_MET) && was_in_use(c, sk, SENT, 0))
		c->flags |= CONNECTION_OLDER;
	if (!(c->flags & CONNECTION_OLDER))
		return 0;
	older.connection = c->id;
	older.socket = c->socket;
	older.pid = task->tgid;
	bpf_seq_write(ctx->meta->seq, &older, sizeof(older));
	return 0;
}
