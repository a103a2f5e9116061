/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Processes are made, become something else and end. Everything that is to be known of one is in its event, for it may
 * be gone when user space hears of it.
 */
#include "compat.h"
#include "emit.h"

/* Adds a name and its NUL to the text; false where there is no room for the longest. */
static __always_inline bool add_name(struct scratch *s, const void *name)
{
	__u32 at = s->used;
	long length;

	if (at > PROCESS_TEXT_MAX - NAME_MAX_LEN)
		return false;
	/* Proves the bound of the copy. */
	barrier_var(at);
	at &= PROCESS_TEXT_MAX;
	length = bpf_probe_read_kernel_str(&s->text[at], NAME_MAX_LEN, name);
	if (length <= 0)
		return false;
	s->used = at + length;
	return true;
}

/* The path of a file as d_path() gives it, up to the root of its mount namespace; false where it is too long. */
static __always_inline bool add_path(struct scratch *s, const struct file *file)
{
	struct dentry *parent, *dentry = BPF_CORE_READ(file, f_path.dentry);
	const void *vfsmount = BPF_CORE_READ(file, f_path.mnt);
	struct mount *above, *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
	int i;

	for (i = 0; i < PATH_DEPTH; i++) {
		if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
			above = BPF_CORE_READ(mount, mnt_parent);
			if (above == mount)
				return true;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mount = above;
			continue;
		}
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry)
			return true; /* in no tree, such as one of memfd_create() */
		if (!add_name(s, BPF_CORE_READ(dentry, d_name.name)))
			return false;
		dentry = parent;
	}
	return false;
}

static __always_inline void add_cgroup(struct scratch *s, const struct cgroup *cgroup)
{
	struct kernfs_node *parent, *node = BPF_CORE_READ(cgroup, kn);
	int i;

	for (i = 0; i < CGROUP_DEPTH; i++) {
		parent = kernfs_parent_of(node);
		if (!parent || !add_name(s, BPF_CORE_READ(node, name)))
			return;
		node = parent;
	}
}

/* The control group of one controller, where that is in a hierarchy of version 1. */
static __always_inline struct cgroup *cgroup_v1(const struct css_set *set, __u32 controller)
{
	struct cgroup_subsys_state *const *states = (void *)set + bpf_core_field_offset(struct css_set, subsys);
	struct cgroup_subsys_state *state = NULL;
	struct cgroup *cgroup;

	bpf_probe_read_kernel(&state, sizeof(state), &states[controller]);
	if (!state)
		return NULL;
	cgroup = BPF_CORE_READ(state, cgroup);
	return BPF_CORE_READ(cgroup, root) == BPF_CORE_READ(set, dfl_cgrp, root) ? NULL : cgroup;
}

/* Runtimes put a container into all hierarchies; which of them there are is the machine's choice. */
static __always_inline void add_cgroup_v1(struct scratch *s, const struct css_set *set)
{
	__u32 before = s->used;
	struct cgroup *cgroup;

	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id)) {
		cgroup = cgroup_v1(set, bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id));
		if (cgroup)
			add_cgroup(s, cgroup);
	}
	if (s->used != before)
		return;
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id)) {
		cgroup = cgroup_v1(set, bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id));
		if (cgroup)
			add_cgroup(s, cgroup);
	}
}

static __always_inline void tell(const struct task_struct *task, __u32 kind, const char *filename)
{
	const struct file *exe = BPF_CORE_READ(task, mm, exe_file);
	const struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct scratch *s = scratch();
	struct process_event *event;
	__u64 size;

	if (!s)
		return;
	event = &s->process;
	s->used = 0;
	fill_head(&event->head, kind, BPF_CORE_READ(task, tgid));
	fill_owner(&event->owner, task);
	event->mntns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	event->netns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	BPF_CORE_READ_INTO(&event->comm, task, comm);

	if (!exe || !add_path(s, exe))
		s->used = 0;
	event->ends[TEXT_EXE] = s->used;
	add_cgroup(s, BPF_CORE_READ(set, dfl_cgrp));
	event->ends[TEXT_CGROUP] = s->used;
	add_cgroup_v1(s, set);
	event->ends[TEXT_CGROUP_V1] = s->used;
	if (filename)
		add_name(s, filename);
	event->ends[TEXT_FILENAME] = s->used;

	size = s->used;
	barrier_var(size);
	size &= PROCESS_TEXT_MAX;
	/* What files a new program sees can be read only while it is there, and its first handshake is soon. */
	output_as(event, sizeof(*event) + size, COUNT_LOST_PROCESS, COUNT_PROCESS_EVENTS, kind == EVENT_EXEC);
}

static __always_inline void on_exec(const struct task_struct *task, const struct linux_binprm *bprm)
{
	struct judgement undecided = {};
	struct owner owner = {};
	__u32 pid = current_pid();

	/* Says which program it is now, so that what is said of the one before it is not taken for it. */
	if (settings.filter_processes) {
		fill_owner(&owner, task);
		undecided.started = owner.started;
		undecided.exec_id = owner.exec_id;
		bpf_map_update_elem(&processes, &pid, &undecided, BPF_ANY);
	}
	if (!settings.empty)
		tell(task, EVENT_EXEC, BPF_CORE_READ(bprm, filename));
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	hold_cpu();
	on_exec(task, bprm);
	release_cpu();
	return 0;
}

/* In the parent; the child is complete, but has not run yet. */
static __always_inline void on_fork(const struct task_struct *child)
{
	__u32 pid = current_pid(), child_pid = BPF_CORE_READ(child, tgid);
	struct judgement *judgement, inherited;

	/* Not for threads. */
	if (BPF_CORE_READ(child, pid) != child_pid || BPF_CORE_READ(child, flags) & PF_KTHREAD)
		return;
	judgement = bpf_map_lookup_elem(&processes, &pid);
	if (judgement) {
		inherited = *judgement;
		if (inherited.started)
			inherited.started = BPF_CORE_READ(child, start_boottime);
		bpf_map_update_elem(&processes, &child_pid, &inherited, BPF_ANY);
	} else {
		/* One of an earlier process, judged after its end. */
		bpf_map_delete_elem(&processes, &child_pid);
	}
	if (!settings.empty)
		tell(child, EVENT_FORK, NULL);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_forked, struct task_struct *parent, struct task_struct *child)
{
	hold_cpu();
	on_fork(child);
	release_cpu();
	return 0;
}

static __always_inline void on_process_exit(const struct task_struct *task)
{
	struct exit_event event = {};
	__u32 pid = current_pid();

	/* do_exit() has counted this thread out: 0 after the last one. */
	if (BPF_CORE_READ(task, signal, live.counter))
		return;
	bpf_map_delete_elem(&processes, &pid);
	if (settings.empty)
		return;
	fill_head(&event.head, EVENT_EXIT, pid);
	event.started = BPF_CORE_READ(task, group_leader, start_boottime);
	output_as(&event, sizeof(event), COUNT_LOST_PROCESS, COUNT_PROCESS_EVENTS, false);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	hold_cpu();
	on_process_exit(task);
	release_cpu();
	return 0;
}
