/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does a call begin like a message? Asked only for connections joined midway, of which user space has seen enough to
 * doubt that they speak HTTP: the rest of such a connection then costs a look and no copy.
 */
#ifndef SIDETAP_INFER_H
#define SIDETAP_INFER_H

#include "maps.h"

/*
 * The head of an HTTP/2 frame (RFC 9113 section 4.1) of a known type and the length, flags and stream that it can have.
 * What user space cannot make anything of only costs copies.
 */
static __always_inline bool looks_like_frame(const __u8 *head)
{
	__u32 length = head[1] << 8 | head[2];
	bool on_stream = head[5] | head[6] | head[7] | head[8];

	/* Longer than 64 KiB: none that a peer sends without being asked for. The first bit of the stream is reserved.
	 */
	if (head[0] || head[5] & 0x80)
		return false;
	switch (head[3]) {
	case 0: /* DATA */
		return on_stream && !(head[4] & ~0x9);
	case 1: /* HEADERS */
		return on_stream && length && !(head[4] & ~0x2d);
	case 3: /* RST_STREAM */
		return on_stream && length == 4 && !head[4];
	case 4: /* SETTINGS */
		return !on_stream && length % 6 == 0 && length < 256 && !(head[4] & ~0x1);
	case 6: /* PING */
		return !on_stream && length == 8 && !(head[4] & ~0x1);
	case 7: /* GOAWAY */
		return !on_stream && length >= 8 && !head[4];
	case 8: /* WINDOW_UPDATE */
		return length == 4 && !head[4];
	}
	return false;
}

/* "HTTP/1." or an upper-case word and a space; a word that fills the window counts; or a frame of HTTP/2. */
static __always_inline bool looks_like_message(const struct source *from)
{
	char start[9] = {};
	__u64 base = from->base;
	int i;

	if (!base) {
		struct iovec iov;

		if (!from->entries || bpf_probe_read_user(&iov, sizeof(iov), from->iov))
			return false;
		base = (__u64)iov.iov_base;
	}
	if (bpf_probe_read_user(start, sizeof(start), (void *)base))
		return false;
	if (looks_like_frame((const __u8 *)start))
		return true;
	if (start[0] == 'H' && start[1] == 'T' && start[2] == 'T' && start[3] == 'P' && start[4] == '/')
		return true;
	for (i = 0; i < 8; i++) {
		if (start[i] == ' ')
			return i > 0;
		if ((start[i] < 'A' || start[i] > 'Z') && start[i] != '-' && start[i] != '_')
			return false;
	}
	return true;
}

#endif
