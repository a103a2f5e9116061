/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * QUIC is not read, only told of, so that users see what they miss: once for each connection, by its first packets. All
 * datagrams with those are long, whichever side sends them (RFC 9000 section 14.1); others cost a comparison, and the
 * long ones of a connection that goes on a look at their first bytes.
 */
#ifndef SIDETAP_QUIC_H
#define SIDETAP_QUIC_H

#include "io.h"

#define QUIC_LEAST 1200
#define QUIC_ID_MAX 20

/* Flags and version of a packet with a long header (RFC 9000 section 17.2; RFC 9369 section 3). */
static __always_inline bool is_quic_initial(const __u8 *head)
{
	__u32 version = head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4];
	__u8 type = head[0] & 0xf0;

	return (type == 0xc0 && version == 1) || (type == 0xd0 && version == 0x6b3343cf);
}

static __always_inline void on_quic_received(struct sock *sk, __u32 pid, struct pt_regs *regs, __u32 moved)
{
	struct quic_connection connection = { .socket = (__u64)sk };
	struct quic_event event = {};
	struct source from = {};
	__u8 head[6], length, one = 1;
	__u64 id;

	/* Of several messages no size is known here. */
	if (moved && moved < QUIC_LEAST)
		return;
	if (syscall_number(regs) == NR_recvmmsg)
		source_of_message(&from, (const void *)PT_REGS_PARM2_SYSCALL(regs));
	else
		source_of_call(&from, regs, moved);
	first_buffer(&from);
	if (bpf_probe_read_user(head, sizeof(head), (void *)from.base) || !is_quic_initial(head) ||
	    head[5] > QUIC_ID_MAX)
		return;
	/* Behind its length what the receiver is called, then the same of the sender, who may have no need for it. */
	id = from.base + sizeof(head);
	if (bpf_probe_read_user(&length, sizeof(length), (void *)(id + head[5])))
		return;
	if (length)
		id += head[5] + 1;
	else
		length = head[5];
	if (bpf_probe_read_user(&connection.id, sizeof(connection.id), (void *)id))
		return;
	if (length < sizeof(connection.id))
		connection.id &= (1ull << 8 * length) - 1;
	if (bpf_map_update_elem(&quic_connections, &connection, &one, BPF_NOEXIST))
		return;
	fill_head(&event.head, EVENT_QUIC, pid);
	fill_current_owner(&event.owner);
	output(&event, sizeof(event), COUNT_LOST_OPEN);
}

#endif
