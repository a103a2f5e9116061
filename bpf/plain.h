/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which connection an object of a TLS library belongs to: the one whose records a thread moves while it is in the
 * library's read or write function with that object. Only for connections that are older than we are; others are read
 * by their keys. An object or a connection that this was said of in two ways is never used again.
 */
#ifndef SIDETAP_PLAIN_H
#define SIDETAP_PLAIN_H

#include "compat.h"
#include "emit.h"

/* How far below the function's frame the system call within it is; on another stack nothing is known. */
#define STACK_MOST (256 << 10)

/* Of a record of TLS (RFC 8446 section 5.1). */
#define RECORD_HEAD 5
#define RECORD_FIRST 20
#define RECORD_DATA 23
#define RECORD_MOST ((1 << 14) + 2048)

/* Who is in a read or write function: a thread or, in Go's programs, a goroutine, which goes from thread to thread. */
struct tls_caller {
	__u64 id; /* of the thread; or where Go's runtime has the goroutine, which is larger than any of those */
	__u32 pid;
	__u32 pad;
};

/* What it is to do there. */
struct tls_call {
	__u64 object;
	__u64 data;
	__u64 length;
	__u64 told_at; /* where the function puts how many bytes it has moved; 0: it returns that */
	__u64 stack;   /* pointer at the entry, and again at the return; 0: a goroutine's, which is moved as it grows */
	__u64 entered; /* of one that sends: CLOCK_BOOTTIME, ns. The answer may have come by the time that it returns */
	/* At the return: what is not in an event yet. */
	__u32 position;
	__u32 left;
	__u8 direction;
	__u8 flags;
	__u8 library; /* enum tls_library */
	__u8 pad[5];
};

struct tls_object_key {
	__u64 address;
	__u32 pid;
	__u32 pad;
};

struct tls_object {
	__u64 socket;
	__u64 connection; /* its id; 0: contradicted */
	__u64 caller[2];  /* who is in a function with it, by direction: of two nothing tells whose bytes go first */
};

/* A connection that a record was received on. */
struct tls_received {
	__u64 socket;
	__u64 connection; /* its id */
};

struct tls_socket {
	__u64 connection;             /* its id */
	struct tls_object_key object; /* zeros: contradicted */
	__u32 position[2];            /* plaintext so far */
};

/*
 * Caller to the call; from the entry to the return. Not one that pushes out others: a call that is not known is missing
 * in the plaintext.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tls_caller);
	__type(value, struct tls_call);
} tls_calls SEC(".maps");

/* Processes with programs of ours at Go's functions; from user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u8);
} go_processes SEC(".maps");

/*
 * Goroutine to what it received since it was last seen to enter a function or to return from one. Most wait in their
 * read function all the time, and did so when our programs came.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct tls_caller);
	__type(value, struct tls_received);
} go_received SEC(".maps");

/* Object to its connection; from the first record or contradiction to its end or the socket's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct tls_object_key);
	__type(value, struct tls_object);
} tls_objects SEC(".maps");

/* Socket to its object; from the first record to tcp_destroy_sock; key: address of struct sock. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct tls_socket);
} tls_sockets SEC(".maps");

/* Set before the load: without, nothing of all this is part of any program. */
const volatile bool reads_plain = false;

/* Whether any process has such functions watched; set by user space. */
volatile bool watches_plain = false;

/*
 * Room for an event in the buffer, or one that is counted as lost: in `submit` how to hand it over. `size`: a constant.
 * Events of plaintext are written there alone, for a program that looks at them from a system call has little left of
 * the stack.
 */
static __always_inline struct data_event *reserve_plain(const __u64 size, __u64 *submit)
{
	__u32 cpu = bpf_get_smp_processor_id();
	void *buffer = bpf_map_lookup_elem(&buffers, &cpu);
	struct data_event *event = NULL;

	if (buffer) {
		*submit = is_filling(buffer, size) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
		event = bpf_ringbuf_reserve(buffer, size, 0);
	}
	if (!event) {
		count(COUNT_LOST_DATA);
		return NULL;
	}
	fill_head(&event->head, EVENT_PLAIN, current_pid());
	count(COUNT_EVENTS);
	return event;
}

static __always_inline void tell_plain(__u64 socket, __u64 connection, __u8 flags, __u8 library)
{
	__u64 submit = 0;
	struct data_event *event = reserve_plain(sizeof(*event), &submit);

	if (!event)
		return;
	event->connection = connection;
	event->socket = socket;
	event->position = 0;
	event->moved = 0;
	event->attached = 0;
	event->direction = SENT;
	event->role = ROLE_UNKNOWN;
	event->flags = flags;
	event->library = library;
	bpf_ringbuf_submit(event, submit);
}

/* The object is not what it was taken for, or there is no telling what it is: nothing more of it. */
static __always_inline void contradict(const struct tls_object_key *key)
{
	struct tls_object *object = bpf_map_lookup_elem(&tls_objects, key), doubtful = {};
	struct tls_socket *socket;
	__u64 address;

	if (!object) {
		bpf_map_update_elem(&tls_objects, key, &doubtful, BPF_ANY);
		return;
	}
	if (!object->connection)
		return;
	address = object->socket;
	socket = bpf_map_lookup_elem(&tls_sockets, &address);
	if (socket && socket->connection == object->connection) {
		socket->object.address = 0;
		socket->object.pid = 0;
	}
	tell_plain(object->socket, object->connection, DATA_DOUBTFUL, 0);
	object->connection = 0;
}

/* In `how` of on_io_within(), beside the direction: the bytes lie where a vector says. */
#define IN_VECTOR 0x100

/* The type of the record that what a call moved begins with; 0 where it is none. */
static __always_inline __u8 record_at(__u64 where, __u32 moved, __u32 how)
{
	__u8 head[RECORD_HEAD] = {};
	__u32 length;

	if (moved < RECORD_HEAD)
		return 0;
	if (how & IN_VECTOR) {
		struct iovec iov;

		if (bpf_probe_read_user(&iov, sizeof(iov), (void *)where) || iov.iov_len < RECORD_HEAD)
			return 0;
		where = (__u64)iov.iov_base;
	}
	if (bpf_probe_read_user(head, sizeof(head), (void *)where))
		return 0;
	length = head[3] << 8 | head[4];
	if (head[0] < RECORD_FIRST || head[0] > RECORD_DATA || head[1] != 3 || head[2] > 4)
		return 0;
	return length && length <= RECORD_MOST ? head[0] : 0;
}

static __always_inline bool keep_object(const struct tls_object_key *key, const struct connection *c, __u32 side,
                                        __u64 caller)
{
	struct tls_object object = { .socket = c->socket, .connection = c->id };

	object.caller[side & 1] = caller;
	return !bpf_map_update_elem(&tls_objects, key, &object, BPF_ANY);
}

static __always_inline bool keep_socket(const struct tls_object_key *key, const struct connection *c)
{
	struct tls_socket socket = { .connection = c->id, .object = *key };
	__u64 address = c->socket;

	return !bpf_map_update_elem(&tls_sockets, &address, &socket, BPF_ANY);
}

/* `side`, `caller`: who is in a function with the object now. */
static __always_inline void bind(const struct tls_object_key *key, struct connection *c, __u32 side, __u64 caller,
                                 __u8 library)
{
	struct tls_socket *before;
	__u64 address = c->socket;

	if (!(c->flags & CONNECTION_OLDER) || c->flags & CONNECTION_COUNTED)
		return;
	before = bpf_map_lookup_elem(&tls_sockets, &address);
	if (before && before->connection == c->id) {
		if (before->object.address == key->address && before->object.pid == key->pid) {
			/* As after the end of one of several uses of the object. */
			keep_object(key, c, side, caller);
			return;
		}
		/* Another object's, as in a process and its child. */
		contradict(&before->object);
		contradict(key);
		tell_plain(c->socket, c->id, DATA_DOUBTFUL, 0);
		return;
	}
	c->flags |= CONNECTION_BOUND;
	if (keep_socket(key, c) && keep_object(key, c, side, caller))
		tell_plain(c->socket, c->id, 0, library);
}

static __always_inline struct tls_caller this_thread(void)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct tls_caller caller = { .id = (__u32)thread, .pid = thread >> 32 };

	return caller;
}

/* A goroutine has received bytes, and is in no function that sends. */
static __always_inline void note_received(const struct tls_caller *caller, const struct connection *c, __u8 record)
{
	struct tls_received received = { .socket = c->socket, .connection = c->id };

	if (record == RECORD_DATA && c->flags & CONNECTION_OLDER)
		bpf_map_update_elem(&go_received, caller, &received, BPF_ANY);
}

/*
 * The system call has moved `what` bytes of the socket's connection; in the upper half: how. `stack`: its pointer;
 * `goroutine`: whose it is, in a program of Go; `where`: the bytes, or the vector that says where they are. Global: the
 * verifier looks at it once, and not on all ways that lead here.
 */
__noinline int on_io_within(__u64 address, __u64 stack, __u64 goroutine, __u64 where, __u64 what)
{
	struct tls_caller caller = this_thread();
	__u32 moved = what, how = what >> 32;
	struct tls_object_key key = {};
	struct tls_object *object;
	struct connection *c;
	struct tls_call *call;
	__u8 record;

	call = bpf_map_lookup_elem(&tls_calls, &caller);
	if (!call) {
		if (!bpf_map_lookup_elem(&go_processes, &caller.pid))
			return 0;
		caller.id = goroutine;
		call = bpf_map_lookup_elem(&tls_calls, &caller);
	}
	c = bpf_map_lookup_elem(&connections, &address);
	if (!c || !where)
		return 0;
	if (!call) {
		if ((how & 1) == RECEIVED)
			note_received(&caller, c, record_at(where, moved, how));
		return 0;
	}
	if (call->direction != (how & 1) || (call->stack && call->stack - stack > STACK_MOST))
		return 0;
	key.address = call->object;
	key.pid = caller.pid;
	object = bpf_map_lookup_elem(&tls_objects, &key);
	if (object && (!object->connection || object->connection == c->id))
		return 0;
	record = record_at(where, moved, how);
	if (record && object)
		contradict(&key);
	else if (record == RECORD_DATA)
		bind(&key, c, how & 1, caller.id, call->library);
	return 0;
}

/* A call has moved bytes: maybe within a function of a TLS library. */
static __always_inline void look_within(const struct call *call, struct pt_regs *regs)
{
	const struct source *from = &call->from;
	__u64 where = from->base, how = call->direction;

	if (!reads_plain || !watches_plain)
		return;
	if (!where && from->entries) {
		where = (__u64)from->iov;
		how |= IN_VECTOR;
	}
	on_io_within(call->socket, PT_REGS_SP(regs), GO_ROUTINE(regs), where, how << 32 | call->moved);
}

/* The socket is gone. */
static __always_inline void unbind(const struct connection *c)
{
	__u64 address = c->socket;
	struct tls_socket *socket = bpf_map_lookup_elem(&tls_sockets, &address);
	struct tls_object_key key;
	struct tls_object *object;

	if (!socket || socket->connection != c->id)
		return;
	key = socket->object;
	object = bpf_map_lookup_elem(&tls_objects, &key);
	if (object && object->connection == c->id)
		bpf_map_delete_elem(&tls_objects, &key);
	bpf_map_delete_elem(&tls_sockets, &address);
}

#endif
