/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What existed before we did. The ports that listen, in every network namespace that a process has a socket of: with
 * them, a TCP connection first met in mid-life is known to be ingress or egress at its first call. And Unix sockets,
 * which nothing else tells from new ones. Whoever reads the iterator gets the addresses of the other TCP sockets: what
 * is kept of closed ones can go.
 */
#include "socket.h"

static __always_inline void on_open_unix_socket(const struct sock *sk)
{
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_ESTABLISHED &&
	    !bpf_map_lookup_elem(&unix_connections, &key))
		new_unix_connection(sk, inode_of(sk), CONNECTION_OLDER);
}

SEC("iter/task_file")
int open_sockets(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct sock *sk;
	__u64 key;

	if (!file)
		return 0;
	sk = sock_of_file(file);
	if (!sk)
		return 0;
	if (is_unix_stream(sk)) {
		on_open_unix_socket(sk);
	} else if (is_tcp(sk) && BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_LISTEN) {
		remember_listening_port(sk);
	} else if (is_tcp(sk)) {
		key = (__u64)sk;
		bpf_seq_write(ctx->meta->seq, &key, sizeof(key));
	}
	return 0;
}
