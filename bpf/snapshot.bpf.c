/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What existed before we did: the ports that listen, in every network namespace that a process has a socket of. With
 * them, a connection first met in mid-life is known to be ingress or egress at its first call.
 */
#include "socket.h"

SEC("iter/task_file")
int listening_sockets(struct bpf_iter__task_file *ctx)
{
	struct listening_port listener = {};
	struct file *file = ctx->file;
	struct sock *sk;
	__u8 one = 1;

	if (!file)
		return 0;
	sk = sock_of_file(file);
	if (!sk || !is_tcp(sk) || BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN)
		return 0;
	listener.netns = netns_of(sk);
	listener.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	bpf_map_update_elem(&listeners, &listener, &one, BPF_ANY);
	return 0;
}
