/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes become something else and end.
 */
#include "emit.h"

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	struct scratch *s = scratch();
	__u32 pid = current_pid();

	bpf_map_delete_elem(&processes, &pid);
	if (!s || settings.empty)
		return 0;
	fill_head(&s->exec.head, EVENT_EXEC, pid);
	bpf_get_current_comm(&s->exec.comm, sizeof(s->exec.comm));
	s->exec.filename[0] = 0;
	bpf_probe_read_kernel_str(&s->exec.filename, sizeof(s->exec.filename), BPF_CORE_READ(bprm, filename));
	output(&s->exec, sizeof(s->exec), COUNT_LOST_PROCESS);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	struct exit_event event = {};
	__u32 pid = current_pid();

	/* do_exit() has counted this thread out: 0 after the last one. */
	if (BPF_CORE_READ(task, signal, live.counter))
		return 0;
	bpf_map_delete_elem(&processes, &pid);
	if (settings.empty)
		return 0;
	fill_head(&event.head, EVENT_EXIT, pid);
	output(&event, sizeof(event), COUNT_LOST_PROCESS);
	return 0;
}
