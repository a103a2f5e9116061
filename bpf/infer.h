/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Does a call begin like a message? Asked only for connections joined midway, of which user space has seen enough to
 * doubt that they speak HTTP: the rest of such a connection then costs a look and no copy.
 */
#ifndef SIDETAP_INFER_H
#define SIDETAP_INFER_H

#include "maps.h"

/* "HTTP/1." or an upper-case word and a space; a word that fills the window counts. */
static __always_inline bool looks_like_message(const struct source *from)
{
	char start[8] = {};
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
	if (start[0] == 'H' && start[1] == 'T' && start[2] == 'T' && start[3] == 'P' && start[4] == '/')
		return true;
	for (i = 0; i < sizeof(start); i++) {
		if (start[i] == ' ')
			return i > 0;
		if ((start[i] < 'A' || start[i] > 'Z') && start[i] != '-' && start[i] != '_')
			return false;
	}
	return true;
}

#endif
