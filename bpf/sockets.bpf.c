/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The socket path (kernels from 6.3 on): one program run per send or receive of a socket, after it happened. No other
 * system call pays anything.
 */
#include "datagram.h"
#include "io.h"
#include "plain.h"

static __always_inline void on_length(struct sock *sk, __s32 moved, int flags, __u8 direction)
{
	struct task_struct *task;
	struct call call = {};

	if (moved <= 0)
		return;
	if (direction == RECEIVED && flags & MSG_NO_CONSUMPTION)
		return;
	call.pid = current_pid();
	call.connection = tapped_connection(sk, call.pid, direction, moved);
	task = bpf_get_current_task_btf();
	if (!call.connection) {
		/* Most calls of processes that are left out end here. */
		if (sk->sk_protocol == IPPROTO_UDP && has_syscall(task) &&
		    !(direction == RECEIVED && flags & MSG_TRUNC))
			on_datagram(sk, call.pid, (struct pt_regs *)bpf_task_pt_regs(task), moved, direction);
		return;
	}
	call.direction = direction;
	call.moved = moved;
	call.position = position_before(call.connection, sk, direction, moved);
	if (has_syscall(task) && !(direction == RECEIVED && flags & MSG_TRUNC))
		source_of_call(&call.from, (struct pt_regs *)bpf_task_pt_regs(task), moved);
	emit_call(&call);
	if (has_syscall(task))
		look_within(&call, (struct pt_regs *)bpf_task_pt_regs(task));
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	take_call();
	on_length(sk, moved, flags, SENT);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent_again, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	if (!was_taken())
		on_length(sk, moved, flags, SENT);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	take_call();
	on_length(sk, moved, flags, RECEIVED);
	release_cpu();
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received_again, struct sock *sk, int moved, int flags)
{
	hold_cpu();
	if (!was_taken())
		on_length(sk, moved, flags, RECEIVED);
	release_cpu();
	return 0;
}

/* A spliced receive does not pass above, but makes room like any other (tcp_read_sock): says where the stream stands.
 */
static __always_inline void on_spliced(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call call = {};

	if (!has_syscall(task))
		return;
	if (syscall_number((struct pt_regs *)bpf_task_pt_regs(task)) != NR_splice)
		return;
	call.pid = current_pid();
	call.connection = tapped_connection(sk, call.pid, RECEIVED, 0);
	if (!call.connection)
		return;
	call.direction = RECEIVED;
	call.position = position_before(call.connection, sk, RECEIVED, 0);
	emit_call(&call);
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(socket_spliced, struct sock *sk)
{
	hold_cpu();
	take_call();
	on_spliced(sk);
	release_cpu();
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(socket_spliced_again, struct sock *sk)
{
	hold_cpu();
	if (!was_taken())
		on_spliced(sk);
	release_cpu();
	return 0;
}
