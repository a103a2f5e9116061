/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Plaintext of TLS connections that are older than we are: at the entry and the return instructions of read and write
 * functions of OpenSSL, GnuTLS and Go, in processes that user space chooses. A kernel that refuses these programs costs
 * nothing else.
 *
 * On kernels that let other tasks onto the CPU in the midst of such a program: nothing here is shared by CPU.
 */
#include "io.h"
#include "plain.h"

/* Events of one call: two MiB. */
#define PLAIN_STEPS 64

/* Says who is in a function with an object; of two in one direction nothing tells whose bytes go first. */
static __always_inline void claim(const struct tls_object_key *key, __u32 side, __u64 caller)
{
	struct tls_object *object = bpf_map_lookup_elem(&tls_objects, key);

	if (!object || !object->connection)
		return;
	if (object->caller[side & 1] && object->caller[side & 1] != caller)
		contradict(key);
	object->caller[side & 1] = caller;
}

/* Enters a read or write function. */
static __always_inline void enter(const struct tls_caller *caller, const struct tls_call *call)
{
	struct tls_object_key key = { .address = call->object, .pid = caller->pid };
	struct tls_call *outer;

	if (settings.empty || is_process_left_out(key.pid))
		return;
	outer = bpf_map_lookup_elem(&tls_calls, caller);
	if (outer) {
		struct tls_object_key other = { .address = outer->object, .pid = key.pid };

		/* One within the other: whose system calls are those? Or a return that was not seen, and its bytes. */
		contradict(&other);
		if (!call->stack || outer->stack > call->stack)
			contradict(&key);
	}
	claim(&key, call->direction, caller->id);
	if (bpf_map_update_elem(&tls_calls, caller, call, BPF_ANY))
		contradict(&key);
}

static __always_inline void thread_enters(struct pt_regs *ctx, __u8 library, __u8 direction, __u64 told_at)
{
	struct tls_caller caller = this_thread();
	struct tls_call call = {
		.object = PT_REGS_PARM1(ctx),
		.data = PT_REGS_PARM2(ctx),
		.length = PT_REGS_PARM3(ctx),
		.told_at = told_at,
		.stack = PT_REGS_SP(ctx),
		.entered = direction == SENT ? bpf_ktime_get_boot_ns() : 0,
		.direction = direction,
		.library = library,
	};

	enter(&caller, &call);
}

#define ENTRY_PROGRAM(name, library, direction, told_at)         \
	SEC("uprobe/plain")                                      \
	int name(struct pt_regs *ctx)                            \
	{                                                        \
		thread_enters(ctx, library, direction, told_at); \
		return 0;                                        \
	}

ENTRY_PROGRAM(openssl_read, LIBRARY_OPENSSL, RECEIVED, 0)
ENTRY_PROGRAM(openssl_read_ex, LIBRARY_OPENSSL, RECEIVED, PT_REGS_PARM4(ctx))
ENTRY_PROGRAM(openssl_write, LIBRARY_OPENSSL, SENT, 0)
ENTRY_PROGRAM(openssl_write_ex, LIBRARY_OPENSSL, SENT, PT_REGS_PARM4(ctx))
/* Since OpenSSL 3.3, where SSL_write_ex() leaves all to this one. */
ENTRY_PROGRAM(openssl_write_ex2, LIBRARY_OPENSSL, SENT, PT_REGS_PARM5(ctx))
ENTRY_PROGRAM(gnutls_read, LIBRARY_GNUTLS, RECEIVED, 0)
ENTRY_PROGRAM(gnutls_write, LIBRARY_GNUTLS, SENT, 0)

/* At a function that moves plaintext of an object, and from which it cannot be had: nothing more is. */
SEC("uprobe/plain")
int object_in_doubt(struct pt_regs *ctx)
{
	struct tls_object_key key = { .address = PT_REGS_PARM1(ctx), .pid = current_pid() };

	if (!settings.empty)
		contradict(&key);
	return 0;
}

/*
 * crypto/tls.(*Conn).Read(b), behind where Go makes room on the stack and begins anew. Of the call nothing is kept: a
 * server has as many goroutines in it as it has connections.
 */
SEC("uprobe/plain")
int go_read(struct pt_regs *ctx)
{
	struct tls_caller caller = { .id = GO_ROUTINE(ctx), .pid = current_pid() };
	struct tls_object_key key = { .address = GO_WORD_0(ctx), .pid = caller.pid };

	bpf_map_delete_elem(&go_received, &caller);
	claim(&key, RECEIVED, caller.id);
	return 0;
}

/* crypto/tls.(*Conn).Write(b), behind the same. */
SEC("uprobe/plain")
int go_write(struct pt_regs *ctx)
{
	struct tls_caller caller = { .id = GO_ROUTINE(ctx), .pid = current_pid() };
	struct tls_call call = {
		.object = GO_WORD_0(ctx),
		.data = GO_WORD_1(ctx),
		.length = GO_WORD_2(ctx),
		.entered = bpf_ktime_get_boot_ns(),
		.direction = SENT,
		.library = LIBRARY_GO,
	};

	bpf_map_delete_elem(&go_received, &caller);
	enter(&caller, &call);
	return 0;
}

static __always_inline void fill_plain(struct data_event *event, const struct tls_call *call,
                                       const struct connection *c)
{
	if (call->entered)
		event->head.time = call->entered;
	event->connection = c->id;
	event->socket = c->socket;
	event->position = call->position;
	event->direction = call->direction;
	event->role = c->role;
	event->library = call->library;
}

/*
 * Hands out the next `length` bytes of what a call moved, in an event with room for `most`: what it has more than
 * needed means nothing. How far the call is stays in the map: what is in memory does not multiply the verifier's
 * states.
 */
static __always_inline void send_part(struct tls_call *call, const struct connection *c, __u32 length, const __u32 most)
{
	__u64 attached = length, submit = 0;
	struct data_event *event = reserve_plain(sizeof(*event) + most + 1, &submit);

	if (event) {
		fill_plain(event, call, c);
		event->moved = length;
		event->flags = call->flags;
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
		bpf_ringbuf_submit(event, submit);
	}
	call->data += length;
	call->position += length;
	call->left -= length;
	call->flags = 0;
}

/* What is left of a call as an event without bytes. */
static __always_inline void tell_rest(const struct tls_call *call, const struct connection *c)
{
	__u64 submit = 0;
	struct data_event *event = reserve_plain(sizeof(*event), &submit);

	if (!event)
		return;
	fill_plain(event, call, c);
	event->moved = call->left;
	event->attached = 0;
	event->flags = DATA_UNOBSERVABLE;
	bpf_ringbuf_submit(event, submit);
}

/* The next part of a long call; whether there is more. Global: the verifier looks at it once, and not for each part. */
__noinline int send_large(__u64 address, __u64 id)
{
	struct tls_caller caller = { .id = id, .pid = current_pid() };
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &caller);
	struct connection *c = bpf_map_lookup_elem(&connections, &address);
	__u32 length;

	if (!call || !c || !call->left)
		return 0;
	length = call->left;
	send_part(call, c, length < PAYLOAD_MAX ? length : PAYLOAD_MAX, PAYLOAD_MAX);
	return call->left > 0;
}

static __always_inline void send_all(const struct tls_caller *caller, struct tls_call *call, const struct connection *c)
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
		if (!send_large(c->socket, caller->id))
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
static __always_inline void on_plain(const struct tls_caller *caller, struct tls_call *call, __u32 moved)
{
	struct tls_object_key key = { .address = call->object, .pid = caller->pid };
	struct tls_object *object = bpf_map_lookup_elem(&tls_objects, &key);
	__u32 side = call->direction & 1;
	struct tls_socket *socket;
	struct connection *c;
	bool is_claimed;
	__u64 address;

	if (!object || !object->connection)
		return;
	if (moved > call->length || (object->caller[side] && object->caller[side] != caller->id)) {
		contradict(&key);
		return;
	}
	is_claimed = object->caller[side];
	object->caller[side] = 0;
	address = object->socket;
	socket = bpf_map_lookup_elem(&tls_sockets, &address);
	c = bpf_map_lookup_elem(&connections, &address);
	if (!moved || !socket || socket->connection != object->connection || !c || c->id != object->connection)
		return;
	/*
	 * The second of two that entered before the object was known; or, in a program of Go, an object that has the
	 * address of one whose connection was closed: nothing there says that one ends.
	 */
	if ((!is_claimed && socket->position[side]) || (call->library == LIBRARY_GO && c->flags & CONNECTION_SHUT)) {
		contradict(&key);
		return;
	}
	call->position = socket->position[side];
	call->left = moved;
	call->flags = DATA_CALL_START;
	socket->position[side] += moved;
	if (!is_dropped(c))
		send_all(caller, call, c);
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

/* At a return instruction of any of the functions in C, or of one that these leave the rest to. */
SEC("uprobe/plain")
int thread_returns(struct pt_regs *ctx)
{
	struct tls_caller caller = this_thread();
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &caller);
	struct tls_object_key key = { .pid = caller.pid };

	/* Further down on the stack: what others call, too. */
	if (!call || PT_REGS_SP(ctx) < call->stack)
		return 0;
	key.address = call->object;
	if (call->stack != PT_REGS_SP(ctx))
		contradict(&key);
	else
		on_plain(&caller, call, moved_by(call, PT_REGS_RC(ctx)));
	bpf_map_delete_elem(&tls_calls, &caller);
	return 0;
}

/* What a Go function moved, by its first result; more than a call can move where that is no sensible number. */
static __always_inline __u32 moved_by_go(struct pt_regs *ctx)
{
	__s64 moved = GO_WORD_0(ctx);

	if (moved <= 0)
		return 0;
	return moved > 0x7fffffff ? 0x80000000 : moved;
}

/*
 * At a return of crypto/tls.(*Conn).Read(b). What it was called with is where Go has places for it, above the return
 * address: user space has seen that the function puts it there, and Go keeps it true when it moves the stack. If
 * nothing was seen of the goroutine since it received something, not even that it entered a function, it was in this
 * one all the time.
 */
SEC("uprobe/plain")
int go_read_returns(struct pt_regs *ctx)
{
	struct tls_caller caller = { .id = GO_ROUTINE(ctx), .pid = current_pid() };
	struct tls_received *noted = bpf_map_lookup_elem(&go_received, &caller), received = {};
	struct tls_call *kept, call = { .direction = RECEIVED, .library = LIBRARY_GO };
	struct tls_object_key key = { .pid = caller.pid };
	struct tls_object *object;
	struct connection *c;
	__u64 words[3];

	if (noted) {
		received = *noted;
		bpf_map_delete_elem(&go_received, &caller);
	}
	if (settings.empty || is_process_left_out(caller.pid) ||
	    bpf_probe_read_user(words, sizeof(words), (void *)(PT_REGS_SP(ctx) + sizeof(__u64))))
		return 0;
	key.address = call.object = words[0];
	call.data = words[1];
	call.length = words[2];
	object = bpf_map_lookup_elem(&tls_objects, &key);
	if (!object && !received.connection)
		return 0;
	if (object) {
		if (received.connection && object->connection && object->connection != received.connection)
			contradict(&key);
	} else {
		c = bpf_map_lookup_elem(&connections, &received.socket);
		if (c && c->id == received.connection)
			bind(&key, c, RECEIVED, caller.id, LIBRARY_GO);
	}
	/* There, since it may be handed out in several parts. */
	if (bpf_map_update_elem(&tls_calls, &caller, &call, BPF_ANY))
		contradict(&key);
	kept = bpf_map_lookup_elem(&tls_calls, &caller);
	if (kept)
		on_plain(&caller, kept, moved_by_go(ctx));
	bpf_map_delete_elem(&tls_calls, &caller);
	return 0;
}

SEC("uprobe/plain")
int go_write_returns(struct pt_regs *ctx)
{
	struct tls_caller caller = { .id = GO_ROUTINE(ctx), .pid = current_pid() };
	struct tls_call *call = bpf_map_lookup_elem(&tls_calls, &caller);

	if (!call)
		return 0;
	on_plain(&caller, call, moved_by_go(ctx));
	bpf_map_delete_elem(&tls_calls, &caller);
	return 0;
}

/* The object ends, or is about to be used for another connection or another socket. */
SEC("uprobe/plain")
int object_ends(struct pt_regs *ctx)
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
