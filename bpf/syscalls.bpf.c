/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The syscall path (kernels 5.10 to 6.2, or forced): one program at the exit of every system call. The arguments are
 * still in the saved registers then, so nothing is kept between entry and exit.
 */
#include "datagram.h"
#include "io.h"
#include "plain.h"

static __always_inline void on_moved(struct pt_regs *regs, __u32 fd, __s64 moved, __u8 direction, bool in_reach,
                                     bool bounded)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct call call = { .direction = direction, .moved = moved, .bounded = bounded };
	struct connection *c;
	struct sock *sk;

	call.pid = current_pid();
	if (is_process_left_out(call.pid)) {
		count(COUNT_LEFT_OUT);
		return;
	}
	sk = sock_of_fd(task, fd);
	if (!sk)
		return;
	c = tapped_connection(sk, call.pid, direction, moved);
	if (!c) {
		if (in_reach)
			on_datagram(sk, call.pid, regs, moved, direction);
		return;
	}
	fill_call(&call, c, sk);
	if (in_reach)
		source_of_call(&call.from, regs, moved);
	emit_call(&call);
	if (in_reach)
		look_within(&call, regs);
}

/* bpf_get_current_task_btf() came with 5.11. */
static __always_inline bool is_compat_task(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	unsigned long flags = 0;

	bpf_core_read(&flags, sizeof(compat_flags(task)), &compat_flags(task));
	return flags & COMPAT_FLAG;
}

/* Bytes moved by a sendmmsg() or recvmmsg() of one message: the kernel has put them into the message. */
static __always_inline __u32 length_of_message(struct pt_regs *regs)
{
	const struct mmsghdr *message = (const struct mmsghdr *)PT_REGS_PARM2_SYSCALL(regs);
	__u32 length = 0;

	bpf_probe_read_user(&length, sizeof(length), &message->msg_len);
	return length;
}

static __always_inline void on_exit(struct pt_regs *regs, __s64 result, bool bounded)
{
	bool in_reach = true;
	__u8 direction = RECEIVED;
	int flags = 0;

	if (result <= 0 || settings.empty)
		return;
	switch (syscall_number(regs)) {
	case NR_recvfrom:
		flags = PT_REGS_PARM4_SYSCALL(regs);
		break;
	case NR_recvmsg:
		flags = PT_REGS_PARM3_SYSCALL(regs);
		break;
	case NR_read:
	case NR_readv:
	case NR_preadv2:
		break;
	case NR_write:
	case NR_writev:
	case NR_pwritev2:
	case NR_sendto:
	case NR_sendmsg:
		direction = SENT;
		break;
	case NR_sendfile:
		direction = SENT;
		in_reach = false;
		break;
	case NR_splice:
		/* To the socket here; from the socket below. */
		on_moved(regs, PT_REGS_PARM3_SYSCALL(regs), result, SENT, false, bounded);
		in_reach = false;
		break;
	case NR_sendmmsg:
		direction = SENT;
		/* The result counts messages. Of several, only where the stream stands after them can be told. */
		result = PT_REGS_PARM3_SYSCALL(regs) == 1 ? length_of_message(regs) : 0;
		break;
	case NR_recvmmsg:
		flags = PT_REGS_PARM4_SYSCALL(regs);
		result = PT_REGS_PARM3_SYSCALL(regs) == 1 ? length_of_message(regs) : 0;
		break;
	default:
		return;
	}
	if (direction == RECEIVED && flags & MSG_NO_CONSUMPTION)
		return;
	if (flags & MSG_TRUNC || is_compat_task())
		in_reach = false;
	on_moved(regs, PT_REGS_PARM1_SYSCALL(regs), result, direction, in_reach, bounded);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_exit, struct pt_regs *regs, long result)
{
	hold_cpu();
	take_call();
	on_exit(regs, result, false);
	release_cpu();
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_exit_again, struct pt_regs *regs, long result)
{
	hold_cpu();
	if (!was_taken())
		on_exit(regs, result, false);
	release_cpu();
	return 0;
}

/* For kernels before 5.17, which have no bpf_loop(). */
SEC("tp_btf/sys_exit")
int BPF_PROG(syscall_exit_bounded, struct pt_regs *regs, long result)
{
	hold_cpu();
	on_exit(regs, result, true);
	release_cpu();
	return 0;
}
