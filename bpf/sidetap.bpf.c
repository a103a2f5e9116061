/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All programs in one object.
 */
#include "maps.h"

#include "connections.bpf.c"
#include "plain.bpf.c"
#include "processes.bpf.c"
#include "secrets.bpf.c"
#include "snapshot.bpf.c"
#include "sockets.bpf.c"
#include "syscalls.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Instances that nothing uses: Rust's types are made from what the object's sections hold. */
union {
	struct open_event open;
	struct data_event data;
	struct end_event end;
	struct close_event close;
	struct process_event process;
	struct dns_event dns;
	struct exit_event exit;
	struct secret_event secret;
	struct quic_event quic;
	struct order order;
	struct older_connection older_connection;
	struct judgement judgement;
	enum event_kind event_kind;
	enum direction direction;
	enum role role;
	enum data_flag data_flag;
	enum connection_flag connection_flag;
	enum verdict verdict;
	enum process_verdict process_verdict;
	enum counter counter;
	enum limit limit;
	enum process_text process_text;
	enum secret_label secret_label;
	enum tls_library tls_library;
} types_for_rust = {};
