/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is seen of UDP: answers of DNS servers, and that QUIC is spoken.
 */
#ifndef SIDETAP_DATAGRAM_H
#define SIDETAP_DATAGRAM_H

#include "dns.h"
#include "quic.h"

/* A call has moved bytes on a socket that is no connection; none: several messages of any sizes. */
static __always_inline void on_datagram(struct sock *sk, __u32 pid, struct pt_regs *regs, __u32 moved, __u8 direction)
{
	if (settings.empty || !is_udp(sk))
		return;
	if (direction == SENT) {
		on_dns_sent(sk, regs);
		return;
	}
	if (is_process_left_out(pid))
		return;
	on_quic_received(sk, pid, regs, moved);
	on_dns_received(sk, pid, regs, moved);
}

#endif
