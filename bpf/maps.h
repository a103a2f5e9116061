/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, with three facts: what to what, from when to when, what the key is.
 */
#ifndef SIDETAP_MAPS_H
#define SIDETAP_MAPS_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"

struct buffer {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the size that user space sets */
};

/* CPU to the buffer of its events; while the programs are loaded; key: the CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1); /* the number of CPUs, set before loading */
	__type(key, __u32);
	__array(values, struct buffer);
} buffers SEC(".maps");

/* Socket to connection; from SYN_SENT, accept or first sight to tcp_destroy_sock; key: address of struct sock. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CONNECTIONS_MAX);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps");

/*
 * The same for Unix sockets; from first sight until pushed out, since nothing tells their end; key: address of
 * struct sock, with the inode in the value telling a reused one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, UNIX_CONNECTIONS_MAX);
	__type(key, __u64);
	__type(value, struct connection);
} unix_connections SEC(".maps");

struct listening_port {
	__u32 netns;
	__u32 port;
};

/*
 * Ports that listen or did; from the snapshot or listen() on; key: network namespace and port. Only asked for sockets
 * whose opening was not seen.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct listening_port);
	__type(value, __u8);
} listeners SEC(".maps");

/*
 * Process to what user space says of it; from its decision or fork to exec or exit; key: thread group id. A decision
 * may come after the process's end: the least used make room.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct judgement);
} processes SEC(".maps");

struct remembered {
	__u64 connection; /* its id; 0: not to be captured */
	__u64 socket;     /* its key; as a number, which the verifier lets us hand on */
	__u64 started;    /* of which program this is (struct owner) */
	__u32 exec_id;
	__u32 generation; /* of the settings it was made by */
	__u8 role;
	__u8 pad[7];
};

/*
 * Socket to what its last call found out, for the socket path: a call then costs no look-up in a table. From a call on
 * that user space was told of, of a process that it has judged, to the socket's end or next connect(); key: the socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct remembered);
} remembered SEC(".maps");

/* Set before the load: whether anything is remembered. Such programs may do so since 5.11 (8e4597c627fb). */
const volatile bool remembers = false;

struct name_server {
	__u8 address[16]; /* IPv4 as the first four bytes */
};

/*
 * Unconnected UDP socket to the name server that it asked last, for what it receives does not say in time whom from;
 * until pushed out; key: address of struct sock.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct name_server);
} name_servers SEC(".maps");

struct quic_connection {
	__u64 socket; /* address of struct sock */
	__u64 id;     /* the first bytes of what the peer calls the connection */
};

/* QUIC connection to nothing, once it was told of; until pushed out; key: the socket, and what the peer calls it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct quic_connection);
	__type(value, __u8);
} quic_connections SEC(".maps");

/*
 * What user space says of a connection; until another connection takes the place, which only costs copies; key: low
 * bits of the connection's id. Mapped into user space, so that an order costs no system call.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, ORDERS);
	__type(key, __u32);
	__type(value, struct order);
} orders SEC(".maps");

/*
 * Thread to itself, while the first of two programs has taken in its call and the second has not run; key: low bits of
 * the thread's id. See was_taken().
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TAKEN);
	__type(key, __u32);
	__type(value, __u32);
} taken SEC(".maps");

/* What was counted, by CPU; while the programs are loaded; key: enum counter. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Where a call's bytes lie in the process's memory; empty where they are out of reach. */
struct source {
	__u64 base; /* of the buffer being copied */
	__u64 span; /* bytes left of it */
	const struct iovec *iov;
	__u32 next; /* next entry of iov */
	__u32 entries;
};

/* How far a call is on its way into events. */
struct progress {
	struct source from;
	__u32 position; /* of the first byte not yet in an event */
	__u32 left;     /* bytes of the call not yet in an event */
	__u32 unwanted; /* bytes to step over before copying */
	__u32 fill;     /* payload bytes in the event under construction */
};

/* An event under construction: too large for the stack. */
struct scratch {
	union {
		struct {
			struct data_event data;
			/* Twice what is used: the verifier adds the bounds of offset and length. */
			__u8 payload[2 * (PAYLOAD_MAX + 1)];
		};
		struct open_event open;
		struct {
			struct dns_event dns;
			__u8 message[DNS_MAX + 1];
		};
		struct {
			struct process_event process;
			char text[PROCESS_TEXT_MAX + 1 + NAME_MAX_LEN];
			/* Bytes of it; here, since what is in memory does not multiply the verifier's states. */
			__u32 used;
		};
	};
	/* Here for the same reason: a loop over what is on the stack looks different to the verifier at each turn. */
	struct progress progress;
};

/*
 * Room for one event; within one program run, which holds the CPU; key: the CPU (a per-CPU map's values are too small).
 * For programs that run on behalf of a process only: those that a network interrupt can start would overwrite what they
 * interrupted, and use the stack.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* the number of CPUs, set before loading */
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

volatile struct settings settings = {};
static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline __u32 current_pid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

#endif
