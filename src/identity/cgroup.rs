//! Which container a process is in, told by its cgroup.
//!
//! A container's id stands in the path of its cgroup; how depends on the runtime (docker, containerd, cri-o, podman),
//! on who makes the cgroups (systemd or the runtime itself) and on the version (v1 has a path for each controller).
//! Only texts are read here: what cannot be told from the text is no container. Whether there is one of that id, and
//! what it is called, the runtimes know.

/// A container as its cgroup names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// 64 hexadecimal digits; for a container made by `ctr` whatever it was called.
    pub id: String,
    /// The pod's uid in kubernetes, always with `-`; for a static pod its 32 digits.
    pub pod_uid: Option<String>,
}

/// Hexadecimal digits of an id.
const ID: usize = 64;

/// Longest id that containerd lets its users choose, in bytes (containerd's `identifiers` package).
const LONGEST_CHOSEN: usize = 76;

/// The innermost container, from the text of /proc/PID/cgroup (cgroups(7)). Where controllers disagree (a hybrid of
/// v1 and v2, a container inside another), the path that goes deepest decides.
pub fn container_of(cgroup: &str) -> Option<ContainerRef> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let found = paths.filter_map(find);
    found.reduce(|best, next| if next.depth > best.depth { next } else { best }).map(|found| found.container)
}

/// The innermost container of one cgroup's path, its names separated by `/`. It may be relative to a cgroup
/// namespace (`/../../docker/<id>`).
pub fn container_of_path(path: &str) -> Option<ContainerRef> {
    find(path).map(|found| found.container)
}

struct Found {
    /// How many containers the path leads through.
    depth: usize,
    container: ContainerRef,
}

fn find(path: &str) -> Option<Found> {
    let path = path.trim_end();
    // The kernel's mark on a cgroup that was removed while a process is still in it.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let mut depth = 0;
    let mut parent = "";
    let mut pod_uid = None;
    let mut innermost = None;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if let Some(uid) = pod_uid_of(name) {
            pod_uid = Some(uid);
        }
        if let Some(id) = id_of(name, parent) {
            depth += 1;
            // A pod counts for the container in it, not for one inside that container.
            innermost = Some(ContainerRef { id: id.to_owned(), pod_uid: pod_uid.take() });
        }
        parent = name;
    }
    let container = innermost.or_else(|| made_by_ctr(path))?;
    Some(Found { depth, container })
}

/// The container's id in one name of a path: `<id>`, `docker-<id>.scope`, `crio-<id>`, or the name that containerd
/// makes of systemd's `slice:prefix:name` when it does not use systemd: `kubepods-….slice:cri-containerd:<id>`.
fn id_of<'a>(name: &'a str, parent: &str) -> Option<&'a str> {
    let name = name.rsplit(':').next().unwrap_or(name);
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    if !id.bytes().all(is_hex) {
        return None;
    }
    let is_container = match prefix {
        // podman puts its pods there, which are no containers.
        "" => parent != "libpod_parent",
        // The monitor that podman and cri-o run beside each container, outside of it.
        _ => prefix.ends_with('-') && !prefix.ends_with("conmon-"),
    };
    is_container.then_some(id)
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid>.slice`, which has `_` for each `-` of the uid.
fn pod_uid_of(name: &str) -> Option<String> {
    let name = name.split(':').next().unwrap_or(name);
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1,
        None => name.strip_prefix("pod")?,
    };
    let is_uuid = uid.len() == 36 && uid.bytes().all(|byte| is_hex(byte) || byte == b'-' || byte == b'_');
    let is_digest = uid.len() == 32 && uid.bytes().all(is_hex);
    (is_uuid || is_digest).then(|| uid.replace('_', "-"))
}

/// `ctr` puts a container into `/<namespace>/<name>`. That is told from any other cgroup in its default namespace only.
fn made_by_ctr(path: &str) -> Option<ContainerRef> {
    let name = path.strip_prefix("/default/")?.split('/').next()?;
    let is_chosen = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_unit = [".slice", ".scope", ".service"].iter().any(|suffix| name.ends_with(suffix));
    let fits = (1..=LONGEST_CHOSEN).contains(&name.len()) && name.bytes().all(is_chosen) && !is_unit;
    fits.then(|| ContainerRef { id: name.to_owned(), pod_uid: None })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "4c01db0b339c4c5b5d0e6e1a7f8a1b0d6f5b3a2c1d0e9f8a7b6c5d4e3f2a1b0c";
    const B: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const UID: &str = "2b7ab7c5-4f6a-4c1b-9d1e-7e0b1c0f5a3d";
    const UID_: &str = "2b7ab7c5_4f6a_4c1b_9d1e_7e0b1c0f5a3d";

    /// `{A}`, `{B}`, `{UID}` and `{UID_}` stand for ids.
    fn text(template: &str) -> String {
        template.replace("{A}", A).replace("{B}", B).replace("{UID}", UID).replace("{UID_}", UID_)
    }

    #[track_caller]
    fn assert_id(template: &str, id: &str, pod_uid: Option<&str>) {
        let expected = ContainerRef { id: id.to_owned(), pod_uid: pod_uid.map(str::to_owned) };
        assert_eq!(container_of(&text(template)), Some(expected), "{template}");
    }

    #[track_caller]
    fn assert_none(template: &str) {
        assert_eq!(container_of(&text(template)), None, "{template}");
    }

    #[test]
    fn docker_v1() {
        assert_id(
            "12:pids:/docker/{A}\n11:hugetlb:/docker/{A}\n10:net_prio:/docker/{A}\n9:perf_event:/docker/{A}\n\
             8:net_cls:/docker/{A}\n7:freezer:/docker/{A}\n6:devices:/docker/{A}\n5:memory:/docker/{A}\n\
             4:blkio:/docker/{A}\n3:cpuacct:/docker/{A}\n2:cpu:/docker/{A}\n1:cpuset:/docker/{A}\n\
             1:name=systemd:/docker/{A}\n",
            A,
            None,
        );
        assert_id("11:memory:/system.slice/docker-{A}.scope\n", A, None);
        assert_id("11:cpu,cpuacct:/mygroup/{A}\n", A, None);
    }

    #[test]
    fn docker_v2() {
        assert_id("0::/system.slice/docker-{A}.scope\n", A, None);
        assert_id("0::/docker/{A}\n", A, None);
        assert_id("0::/docker/{A}/init\n", A, None);
        assert_id("0::/system.slice/docker-{A}.scope/system.slice/nginx.service\n", A, None);
        assert_id("0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope\n", A, None);
    }

    #[test]
    fn docker_hybrid() {
        assert_id("5:memory:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n", A, None);
        assert_id("0::/system.slice/containerd.service\n5:memory:/docker/{A}\n", A, None);
    }

    #[test]
    fn containerd() {
        assert_id("0::/system.slice/nerdctl-{A}.scope\n", A, None);
        assert_id("0::/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-{A}.scope\n", A, None);
        assert_id("9:pids:/default/{A}\n0::/default/{A}\n", A, None);
        assert_id("0::/default/my-redis\n", "my-redis", None);
        assert_id("8:memory:/default/my-redis\n", "my-redis", None);
        assert_id("0::/k8s.io/{A}\n", A, None);
        assert_none("0::/default/x.service\n");
        assert_none("0::/default\n");
    }

    #[test]
    fn containerd_in_kubernetes() {
        assert_id(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope\n",
            A,
            Some(UID),
        );
        assert_id("0::/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{A}.scope\n", A, Some(UID));
        assert_id("5:cpu:/kubepods/burstable/pod{UID}/{A}\n", A, Some(UID));
        assert_id("0::/kubepods/pod{UID}/{A}\n", A, Some(UID));
        assert_id("0::/kubepods/besteffort/pod0123456789abcdef0123456789abcdef/{A}\n", A, {
            Some("0123456789abcdef0123456789abcdef")
        });
        assert_id(
            "4:memory:/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{A}\n",
            A,
            Some(UID),
        );
        assert_id("0::/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{A}\n", A, Some(UID));
    }

    #[test]
    fn cri_o() {
        assert_id(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{A}.scope\n",
            A,
            Some(UID),
        );
        assert_id(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{A}.scope/container\n",
            A,
            Some(UID),
        );
        assert_id("3:memory:/kubepods/burstable/pod{UID}/crio-{A}\n", A, Some(UID));
        assert_none(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-conmon-{A}.scope\n",
        );
        assert_none("3:memory:/kubepods/burstable/pod{UID}/crio-conmon-{A}\n");
    }

    #[test]
    fn podman() {
        assert_id("0::/machine.slice/libpod-{A}.scope/container\n", A, None);
        assert_id("0::/machine.slice/libpod-{A}.scope\n", A, None);
        assert_id("7:pids:/machine.slice/libpod-{A}.scope\n1:name=systemd:/machine.slice/libpod-{A}.scope\n", A, None);
        assert_id("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container\n", A, None);
        assert_id("0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container\n", A, None);
        assert_id("0::/libpod_parent/libpod-{A}\n", A, None);
        assert_id("0::/libpod_parent/{B}/libpod-{A}\n", A, None);
        assert_none("0::/machine.slice/libpod-conmon-{A}.scope\n");
        assert_none("0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-conmon-{A}.scope\n");
        assert_none("0::/libpod_parent/{B}/conmon\n");
        assert_none("0::/user.slice/user-1000.slice/user@1000.service/user.slice/podman-4711.scope\n");
    }

    #[test]
    fn docker_with_kubernetes() {
        assert_id("3:cpu:/kubepods/burstable/pod{UID}/{A}\n", A, Some(UID));
        assert_id("0::/kubepods.slice/kubepods-pod{UID_}.slice/docker-{A}.scope\n", A, Some(UID));
    }

    #[test]
    fn of_containers_in_containers_the_innermost() {
        assert_id("0::/system.slice/docker-{B}.scope/docker/{A}\n", A, None);
        assert_id("7:pids:/docker/{B}/docker/{A}\n0::/docker/{B}\n", A, None);
        assert_id("0::/docker/{B}\n7:pids:/docker/{B}/docker/{A}\n", A, None);
        assert_id("0::/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}\n", A, Some(UID));
        assert_id(
            "0::/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
             kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{A}.scope\n",
            A,
            Some(UID),
        );
        assert_id("0::/kubepods/pod{UID}/{B}/docker/{A}\n", A, None);
        assert_id("0::/docker/{B}/machine.slice/libpod-conmon-{A}.scope\n", B, None);
    }

    #[test]
    fn as_seen_from_a_cgroup_namespace() {
        assert_id("0::/../../docker/{A}\n", A, None);
        assert_id("0::/../docker-{A}.scope\n", A, None);
        assert_id("0::/../{A}\n", A, None);
        assert_none("0::/\n");
    }

    #[test]
    fn a_cgroup_that_was_removed() {
        assert_id("0::/docker/{A} (deleted)\n", A, None);
    }

    #[test]
    fn no_container() {
        for text in [
            "",
            "\n",
            "0::\n",
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            "0::/system.slice/docker.service\n",
            "0::/system.slice/containerd.service\n",
            "0::/docker/buildkit/abcdefghijklmnopqrstuvwxy\n",
            "0::/docker/0{A}\n",
            "0::/docker/é{A}\n",
            "0::/docker/{A}.mount\n",
            "0::/docker/4C01DB0B339C4C5B5D0E6E1A7F8A1B0D6F5B3A2C1D0E9F8A7B6C5D4E3F2A1B0C\n",
            "0::/kubepods/burstable/pod{UID}\n",
            "nonsense {A}\n",
        ] {
            assert_none(text);
        }
    }

    #[test]
    fn a_path_alone() {
        assert_eq!(container_of_path(&text("/system.slice/docker-{A}.scope")).unwrap().id, A);
        assert_eq!(container_of_path(&text("docker/{A}")).unwrap().id, A);
        assert_eq!(container_of_path(&text("pod{UID}/{A}")).unwrap().pod_uid.as_deref(), Some(UID));
        assert_eq!(container_of_path(""), None);
        assert_eq!(container_of_path("/default/x").unwrap().id, "x");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}", tail in "[0-9a-f:/.é-]{0,90}") {
            let id = container_of(&format!("0::/{text}/{tail}\n{text}")).map(|container| container.id);
            prop_assert!(id.is_none_or(|id| id.len() == 64 && id.bytes().all(is_hex)));
        }
    }
}
