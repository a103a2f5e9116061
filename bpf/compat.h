/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Kernel and architecture differences, each with its reason.
 */
#ifndef SIDETAP_COMPAT_H
#define SIDETAP_COMPAT_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

/* System calls that move bytes through sockets; the numbers are the architecture's (asm/unistd.h). */
#if defined(__TARGET_ARCH_x86)
enum {
	NR_read = 0,
	NR_write = 1,
	NR_readv = 19,
	NR_writev = 20,
	NR_sendfile = 40,
	NR_sendto = 44,
	NR_recvfrom = 45,
	NR_sendmsg = 46,
	NR_recvmsg = 47,
	NR_splice = 275,
	NR_recvmmsg = 299,
	NR_sendmmsg = 307,
	NR_preadv2 = 327,
	NR_pwritev2 = 328,
};
#elif defined(__TARGET_ARCH_arm64)
enum {
	NR_read = 63,
	NR_write = 64,
	NR_readv = 65,
	NR_writev = 66,
	NR_sendfile = 71,
	NR_sendto = 206,
	NR_recvfrom = 207,
	NR_sendmsg = 211,
	NR_recvmsg = 212,
	NR_splice = 76,
	NR_recvmmsg = 243,
	NR_sendmmsg = 269,
	NR_preadv2 = 286,
	NR_pwritev2 = 287,
};
#else
#error "system call numbers of this architecture"
#endif

static __always_inline long syscall_number(const struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs->orig_ax;
#else
	return regs->syscallno;
#endif
}

/*
 * A 32-bit program on a 64-bit kernel: other system call numbers, other struct layouts. Its bytes are counted, not
 * copied.
 */
#if defined(__TARGET_ARCH_x86)
#define compat_flags(task) ((task)->thread_info.status)
#define COMPAT_FLAG 2ul /* TS_COMPAT */
#else
#define compat_flags(task) ((task)->thread_info.flags)
#define COMPAT_FLAG (1ul << 22) /* TIF_32BIT */
#endif

/* Renamed in 6.15 (741c10b096bc, "kernfs: Use RCU to access kernfs_node::parent."). */
struct kernfs_node___v6_15 {
	struct kernfs_node *__parent;
} __attribute__((preserve_access_index));

static __always_inline struct kernfs_node *kernfs_parent_of(const struct kernfs_node *node)
{
	const struct kernfs_node___v6_15 *renamed = (const void *)node;

	if (bpf_core_field_exists(renamed->__parent))
		return BPF_CORE_READ(renamed, __parent);
	return BPF_CORE_READ(node, parent);
}

/* The first two came with 6.10, the others with 6.14: kernels that need them have them all. */
extern void bpf_preempt_disable(void) __weak __ksym;
extern void bpf_preempt_enable(void) __weak __ksym;
extern void bpf_local_irq_save(unsigned long *flags) __weak __ksym;
extern void bpf_local_irq_restore(unsigned long *flags) __weak __ksym;

/*
 * Every program at a tracepoint runs between these two. Since 7.0 (a46023d5616e, "tracing: Guard __DECLARE_TRACE() use
 * of __DO_TRACE_CALL() with SRCU-fast") the kernel lets another task onto the CPU in the midst of a program, as it
 * never did before. That task's programs would overwrite the event under construction and put theirs in front of an
 * older one; and the kernel would leave out those runs of theirs that are of the same program, since it takes them for
 * recursion (__bpf_trace_run). Set before the load; elsewhere the two would cost 110 ns a program for nothing.
 */
const volatile bool is_preemptible = false;

static __always_inline void hold_cpu(void)
{
	if (is_preemptible && bpf_ksym_exists(bpf_local_irq_save))
		bpf_preempt_disable();
}

/*
 * With interrupts off, bpf_preempt_enable() does not hand the CPU at once to a task that waits for it, which would be
 * within the program still: the kernel does it soon after.
 */
static __always_inline void release_cpu(void)
{
	unsigned long flags;

	if (!is_preemptible || !bpf_ksym_exists(bpf_local_irq_save))
		return;
	bpf_local_irq_save(&flags);
	bpf_preempt_enable();
	bpf_local_irq_restore(&flags);
}

#define PF_KTHREAD 0x00200000
#define PF_IO_WORKER 0x00000010

/*
 * Whether the task is in a system call whose arguments can be read. Kernel threads and io_uring's workers have none of
 * their own. For a task that the verifier knows (bpf_get_current_task_btf); its fields are then read directly.
 */
#define has_syscall(task) (!((task)->flags & (PF_KTHREAD | PF_IO_WORKER)) && !(compat_flags(task) & COMPAT_FLAG))

/* An argument of a C function from the seventh on: above the return address, or the last registers first. */
static __always_inline __u64 later_argument(struct pt_regs *regs, __u32 number)
{
	__u64 value = 0;

#if defined(__TARGET_ARCH_x86)
	bpf_probe_read_user(&value, sizeof(value), (void *)(PT_REGS_SP(regs) + 8 * (number - 6)));
#else
	if (number == 7)
		return PT_REGS_PARM7(regs);
	if (number == 8)
		return PT_REGS_PARM8(regs);
	bpf_probe_read_user(&value, sizeof(value), (void *)(PT_REGS_SP(regs) + 8 * (number - 9)));
#endif
	return value;
}

/* The words of a Go function's arguments, from 0 on: the registers that Go passes integers in
 * (cmd/compile/abi-internal). The first is the function's result, too, at its return. And the goroutine. */
#if defined(__TARGET_ARCH_x86)
#define GO_WORD_0(regs) ((regs)->ax)
#define GO_WORD_1(regs) ((regs)->bx)
#define GO_WORD_2(regs) ((regs)->cx)
#define GO_WORD_3(regs) ((regs)->di)
#define GO_WORD_4(regs) ((regs)->si)
#define GO_WORD_6(regs) ((regs)->r9)
#define GO_WORD_7(regs) ((regs)->r10)
#define GO_ROUTINE(from) ((from)->r14)
#else
#define GO_WORD_0(regs) PT_REGS_PARM1(regs)
#define GO_WORD_1(regs) PT_REGS_PARM2(regs)
#define GO_WORD_2(regs) PT_REGS_PARM3(regs)
#define GO_WORD_3(regs) PT_REGS_PARM4(regs)
#define GO_WORD_4(regs) PT_REGS_PARM5(regs)
#define GO_WORD_6(regs) PT_REGS_PARM7(regs)
#define GO_WORD_7(regs) PT_REGS_PARM8(regs)
#define GO_ROUTINE(from) (((const struct user_pt_regs *)(from))->regs[28])
#endif

#endif
