/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Task to file to socket; a socket's addresses, role and positions.
 */
#ifndef SIDETAP_SOCKET_H
#define SIDETAP_SOCKET_H

#include "maps.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 00170000
#define S_IFSOCK 0140000

static __always_inline struct sock *sock_of_file(struct file *file)
{
	struct socket *socket;

	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

static __always_inline struct sock *sock_of_fd(struct task_struct *task, __u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file **files, *file = NULL;

	if (fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	files = BPF_CORE_READ(fdt, fd);
	bpf_probe_read_kernel(&file, sizeof(file), &files[fd]);
	return file ? sock_of_file(file) : NULL;
}

static __always_inline bool is_tcp(const struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return (family == AF_INET || family == AF_INET6) && BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP;
}

static __always_inline bool is_unix_stream(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX && BPF_CORE_READ(sk, sk_type) == SOCK_STREAM;
}

static __always_inline __u32 netns_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
}

/* Inode number of the socket's file; 0 before accept() and after close(). */
static __always_inline __u32 inode_of(const struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);
	struct file *file = socket ? BPF_CORE_READ(socket, file) : NULL;

	return file ? BPF_CORE_READ(file, f_inode, i_ino) : 0;
}

/*
 * A field of a TCP socket: read directly where the verifier can be told what the pointer leads to (6.2, a35b9af4ec2c),
 * else by a helper.
 */
#define READ_TCP(sk, field)                                                           \
	(bpf_ksym_exists(bpf_rdonly_cast) ? bpf_core_cast(sk, struct tcp_sock)->field \
	                                  : BPF_CORE_READ((const struct tcp_sock *)(sk), field))

/*
 * Where the stream stands after the process's last call: the number of the next byte. A peer's FIN takes a place in the
 * sequence space, which copied_seq counts once the process has read past it (tcp_recvmsg_locked); tcp_fin() sets
 * SOCK_DONE when the FIN is received, and nothing follows it.
 */
static __always_inline __u32 position_of(const struct sock *sk, __u8 direction)
{
	__u32 copied;

	if (direction == SENT)
		return READ_TCP(sk, write_seq);
	copied = READ_TCP(sk, copied_seq);
	if (READ_TCP(sk, inet_conn.icsk_inet.sk.__sk_common.skc_flags) & (1ul << SOCK_DONE) &&
	    copied == READ_TCP(sk, rcv_nxt))
		return copied - 1;
	return copied;
}

static __always_inline bool is_loopback(__u16 family, const __u8 *address)
{
	const __u32 *words = (const __u32 *)address;

	if (family == AF_INET)
		return address[0] == 127;
	if (words[0] || words[1])
		return false;
	if (words[2] == bpf_htonl(0xffff)) /* v4-mapped */
		return address[12] == 127;
	return !words[2] && words[3] == bpf_htonl(1);
}

static __always_inline void read_addresses(struct connection *c, const struct sock *sk)
{
	c->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	c->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (c->family == AF_INET) {
		*(__u32 *)c->local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(__u32 *)c->remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	} else {
		BPF_CORE_READ_INTO(&c->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&c->remote, sk, __sk_common.skc_v6_daddr);
	}
	if (is_loopback(c->family, c->local) || is_loopback(c->family, c->remote))
		c->flags |= CONNECTION_LOOPBACK;
}

static __always_inline void remember_listening_port(const struct sock *sk)
{
	struct listening_port port = { .netns = netns_of(sk), .port = BPF_CORE_READ(sk, __sk_common.skc_num) };
	__u8 one = 1;

	bpf_map_update_elem(&listeners, &port, &one, BPF_ANY);
}

/* For sockets whose opening was not seen: the side whose port listens is the server. */
static __always_inline __u8 role_by_listener(const struct connection *c)
{
	struct listening_port listener = { .netns = c->netns, .port = c->local_port };

	return bpf_map_lookup_elem(&listeners, &listener) ? ROLE_SERVER : ROLE_CLIENT;
}

/* An accepted Unix socket has its listener's address (unix_stream_connect); the connecting end rarely has one. */
static __always_inline __u8 unix_role(const struct sock *sk)
{
	const struct unix_sock *u = (const struct unix_sock *)sk;
	const struct unix_sock *peer;

	if (BPF_CORE_READ(u, addr))
		return ROLE_SERVER;
	peer = (const struct unix_sock *)BPF_CORE_READ(u, peer);
	return peer && BPF_CORE_READ(peer, addr) ? ROLE_CLIENT : ROLE_UNKNOWN;
}

/* The bound address of a Unix socket into `path` of UNIX_PATH_MAX_LEN bytes; its length, 0 where it has none. */
static __always_inline __u32 read_unix_path(char *path, const struct unix_sock *u)
{
	struct unix_address *address = BPF_CORE_READ(u, addr);
	__s32 length = address ? BPF_CORE_READ(address, len) : 0;

	length -= offsetof(struct sockaddr_un, sun_path);
	if (length <= 0 || length > UNIX_PATH_MAX_LEN)
		return 0;
	bpf_probe_read_kernel(path, UNIX_PATH_MAX_LEN, &address->name[0].sun_path);
	return length;
}

static __always_inline void fill_owner(struct owner *owner, const struct task_struct *task)
{
	owner->started = BPF_CORE_READ(task, group_leader, start_boottime);
	owner->exec_id = BPF_CORE_READ(task, self_exec_id);
	owner->uid = BPF_CORE_READ(task, cred, euid.val);
}

/* The same of a task that the verifier knows: its fields are read without a helper for each. */
static __always_inline void fill_known_owner(struct owner *owner, const struct task_struct *task)
{
	owner->started = task->group_leader->start_boottime;
	owner->exec_id = task->self_exec_id;
	owner->uid = task->cred->euid.val;
}

/* The same of the current task, which kernels hand out as one that the verifier knows since 5.11 (3ca1032ab7ab). */
static __always_inline void fill_current_owner(struct owner *owner)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf))
		fill_known_owner(owner, bpf_get_current_task_btf());
	else
		fill_owner(owner, (struct task_struct *)bpf_get_current_task());
}

static __always_inline __u64 new_id(void)
{
	/* Unique for 200 days: two on one CPU are never made in the same nanosecond. */
	return bpf_ktime_get_boot_ns() << 10 | (bpf_get_smp_processor_id() & 1023);
}

static __always_inline void init_tcp(struct connection *c, const struct sock *sk)
{
	c->id = new_id();
	c->socket = (__u64)sk;
	c->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	c->netns = netns_of(sk);
	/* kTLS: the stream the process writes is not the one that is numbered (inet_csk(sk)->icsk_ulp_ops) */
	if (BPF_CORE_READ((const struct inet_connection_sock *)sk, icsk_ulp_ops))
		c->flags |= CONNECTION_COUNTED;
	read_addresses(c, sk);
}

static __always_inline struct connection *insert_connection(void *map, const struct connection *c)
{
	__u64 key = c->socket;

	if (bpf_map_update_elem(map, &key, c, BPF_ANY)) {
		count(COUNT_TABLE_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(map, &key);
}

static __always_inline struct connection *older_tcp_connection(const struct sock *sk)
{
	struct connection c = { .flags = CONNECTION_OLDER };

	init_tcp(&c, sk);
	c.role = role_by_listener(&c);
	return insert_connection(&connections, &c);
}

/* Of a Unix socket: who connected it or listened when it was connected (init_peercred); 0 where that is not known. */
static __always_inline __u32 peer_pid(const struct sock *sk)
{
	struct pid *peer = BPF_CORE_READ(sk, sk_peer_pid);

	return peer ? BPF_CORE_READ(peer, numbers[0].nr) : 0;
}

static __always_inline struct connection *new_unix_connection(const struct sock *sk, __u32 inode, __u16 flags)
{
	struct connection c = { .flags = CONNECTION_COUNTED | flags };

	c.id = new_id();
	c.socket = (__u64)sk;
	c.family = AF_UNIX;
	c.netns = netns_of(sk);
	c.inode = inode;
	if (!(flags & CONNECTION_OLDER))
		c.opened = bpf_ktime_get_boot_ns();
	c.role = unix_role(sk);
	if (peer_pid(sk) == settings.self)
		c.flags |= CONNECTION_OURS;
	return insert_connection(&unix_connections, &c);
}

/* Filters that the connection itself decides. */
static __always_inline bool is_left_out(const struct connection *c)
{
	if (c->flags & CONNECTION_OURS || (settings.ignore_loopback && c->flags & CONNECTION_LOOPBACK))
		return true;
	return settings.role && c->role && c->role != settings.role;
}

/*
 * What user space says of the current process (enum process_verdict); 0 while it has not said anything. Such a process
 * is let through: user space answers with a verdict.
 */
static __always_inline __u8 process_verdict(__u32 pid)
{
	const struct judgement *judgement;
	struct owner now;

	if (pid == settings.self)
		return PROCESS_LEFT_OUT;
	if (!settings.filter_processes)
		return PROCESS_TAPPED;
	judgement = bpf_map_lookup_elem(&processes, &pid);
	if (!judgement)
		return 0;
	if (judgement->started) {
		/* It may have been of the program before this one, and come late. */
		fill_current_owner(&now);
		if (judgement->started != now.started || judgement->exec_id != now.exec_id)
			return 0;
	}
	return judgement->verdict;
}

/* Filters that the current process decides. */
static __always_inline bool is_process_left_out(__u32 pid)
{
	return process_verdict(pid) == PROCESS_LEFT_OUT;
}

#endif
