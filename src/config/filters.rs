//! Which processes are left out.

use regex::Regex;

use super::patterns::ContainerFilter;
use crate::exchange::Process;

/// Processes to leave out, and processes to keep to.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    pub groups: Vec<Group>,
    /// Left out.
    pub custom: Vec<ExeMatch>,
    /// Where there are any, everything else is left out.
    pub only: Vec<ExeMatch>,
    pub containers: ContainerFilter,
}

/// Whether a process is tapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tapped {
    Yes,
    No,
    /// Its container's name decides, and is not known yet.
    NotYet,
}

/// A named set of executables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// This agent; it never watches itself anyway.
    Qpoint,
    ContainerRuntimes,
    Kubernetes,
    Eks,
    Gke,
}

/// An executable, by its path.
#[derive(Debug, Clone)]
pub struct ExeMatch {
    pub exe: String,
    pub strategy: Strategy,
}

#[derive(Debug, Clone)]
pub enum Strategy {
    /// The whole path; or the name without its folder, where `exe` has none.
    Exact,
    Prefix,
    Suffix,
    Contains,
    Regex(Regex),
}

impl Filters {
    /// Whether any process can be left out.
    pub fn is_any(&self) -> bool {
        !(self.groups.is_empty() && self.custom.is_empty() && self.only.is_empty() && self.containers.is_empty())
    }

    /// By what is known of the process now.
    pub fn verdict(&self, process: &Process) -> Tapped {
        if !self.is_any() {
            return Tapped::Yes;
        }
        if self.leaves_out(&process.exe) {
            return Tapped::No;
        }
        if self.containers.is_empty() {
            return Tapped::Yes;
        }
        let facts = process.container_facts();
        match (&process.container, &facts) {
            (Some(_), None) => Tapped::NotYet,
            _ if self.containers.admits(facts.as_ref().map(|facts| facts.name.as_str())) => Tapped::Yes,
            _ => Tapped::No,
        }
    }

    /// As [`Filters::verdict`], where no more will be known in time: a container without a name is as good as none.
    pub fn admits(&self, process: &Process) -> bool {
        match self.verdict(process) {
            Tapped::Yes => true,
            Tapped::No => false,
            Tapped::NotYet => self.containers.admits(None),
        }
    }

    /// Whether a process is left out by the path of its executable.
    pub fn leaves_out(&self, exe: &str) -> bool {
        if self.groups.iter().any(|group| group.names().contains(&base_name(exe))) {
            return true;
        }
        if self.custom.iter().any(|custom| custom.matches(exe)) {
            return true;
        }
        !self.only.is_empty() && !self.only.iter().any(|only| only.matches(exe))
    }
}

impl Group {
    /// Names of executables, without their folders.
    fn names(self) -> &'static [&'static str] {
        match self {
            Group::Qpoint => &["qtap", "sidetap"],
            Group::ContainerRuntimes => &[
                "dockerd",
                "docker-proxy",
                "docker-init",
                "containerd",
                "containerd-shim",
                "containerd-shim-runc-v2",
                "containerd-stress",
                "buildkitd",
                "runc",
                "crun",
                "crio",
                "conmon",
                "podman",
                "cri-dockerd",
                "nerdctl",
            ],
            Group::Kubernetes => &[
                "kubelet",
                "kube-proxy",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "cloud-controller-manager",
                "etcd",
                "coredns",
                "pause",
            ],
            Group::Eks => &[
                "aws-k8s-agent",
                "aws-cni",
                "aws-vpc-cni",
                "aws-network-policy-agent",
                "aws-ebs-csi-driver",
                "aws-efs-csi-driver",
                "eks-pod-identity-agent",
                "eks-node-monitoring-agent",
                "amazon-ssm-agent",
                "ssm-agent-worker",
            ],
            Group::Gke => &[
                "gke-metadata-server",
                "metadata-proxy",
                "ip-masq-agent",
                "netd",
                "proxy-agent",
                "prometheus-to-sd",
                "event-exporter",
                "node-problem-detector",
                "gce-pd-csi-driver",
                "google_guest_agent",
                "google_osconfig_agent",
            ],
        }
    }
}

impl ExeMatch {
    pub fn matches(&self, exe: &str) -> bool {
        match &self.strategy {
            Strategy::Exact => exe == self.exe || base_name(exe) == self.exe,
            Strategy::Prefix => exe.starts_with(&self.exe),
            Strategy::Suffix => exe.ends_with(&self.exe),
            Strategy::Contains => exe.contains(&self.exe),
            Strategy::Regex(pattern) => pattern.is_match(exe),
        }
    }

    /// Whether this is about HAProxy, wherever it is installed.
    pub fn is_haproxy(&self) -> bool {
        let named = base_name(&self.exe) == "haproxy" && matches!(self.strategy, Strategy::Exact);
        named || ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].iter().any(|exe| self.matches(exe))
    }
}

fn base_name(exe: &str) -> &str {
    exe.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::patterns::NamePatterns;
    use super::*;
    use crate::exchange::{Container, ContainerFacts};

    fn exe(exe: &str, strategy: Strategy) -> ExeMatch {
        ExeMatch { exe: exe.to_string(), strategy }
    }

    #[test]
    fn each_strategy_matches_its_part_of_the_path() {
        let pattern = |pattern| Strategy::Regex(Regex::new(pattern).expect("a pattern"));
        for (filter, path, matches) in [
            (exe("/usr/sbin/haproxy", Strategy::Exact), "/usr/sbin/haproxy", true),
            (exe("/usr/sbin/haproxy", Strategy::Exact), "/usr/local/sbin/haproxy", false),
            (exe("haproxy", Strategy::Exact), "/usr/local/sbin/haproxy", true),
            (exe("haproxy", Strategy::Exact), "/usr/local/sbin/haproxy-wrapper", false),
            (exe("/usr/", Strategy::Prefix), "/usr/bin/curl", true),
            (exe("/curl", Strategy::Suffix), "/usr/bin/curl", true),
            (exe("bin", Strategy::Contains), "/usr/bin/curl", true),
            (exe("", pattern("^/opt/.*/java$")), "/opt/jdk/bin/java", true),
            (exe("", pattern("^/opt/.*/java$")), "/usr/bin/java", false),
        ] {
            assert_eq!(filter.matches(path), matches, "{filter:?} {path}");
        }
    }

    #[test]
    fn only_leaves_out_everything_else() {
        let only = vec![exe("haproxy", Strategy::Exact)];
        let filters = Filters { only, ..Filters::default() };
        assert!(!filters.leaves_out("/usr/sbin/haproxy"));
        assert!(filters.leaves_out("/usr/sbin/nginx"));
        let both = Filters { custom: vec![exe("/usr/sbin", Strategy::Prefix)], ..filters };
        assert!(both.leaves_out("/usr/sbin/haproxy"), "leaving out comes first");
    }

    #[test]
    fn containers_are_left_out_by_their_names() {
        let names = |names: &[&str]| NamePatterns::new(names.iter().map(|&name| name.to_owned()).collect());
        let container = Arc::new(Container::new("4f".to_owned()));
        let inside = Process { container: Some(container.clone()), ..Process::default() };
        let containers = ContainerFilter { only: names(&["web-*"]), ignore: names(&["*-db"]) };
        let filters = Filters { containers, ..Filters::default() };
        assert!(filters.is_any());
        assert_eq!((filters.verdict(&inside), filters.admits(&inside)), (Tapped::NotYet, false));
        assert_eq!(filters.verdict(&Process::default()), Tapped::No, "in none");
        let called = |name: &str| {
            container.learn(Some(Arc::new(ContainerFacts { name: name.to_owned(), ..ContainerFacts::default() })));
            filters.verdict(&inside)
        };
        assert_eq!((called("web-1"), called("web-db"), called("other")), (Tapped::Yes, Tapped::No, Tapped::No));

        let ignore = ContainerFilter { ignore: names(&["*-db"]), ..ContainerFilter::default() };
        let filters = Filters { containers: ignore, ..Filters::default() };
        assert_eq!(filters.verdict(&Process::default()), Tapped::Yes);
        let unnamed = Process { container: Some(Arc::new(Container::new("5f".to_owned()))), ..Process::default() };
        assert_eq!((filters.verdict(&unnamed), filters.admits(&unnamed)), (Tapped::NotYet, true));
    }

    #[test]
    fn groups_know_their_executables() {
        let filters = Filters { groups: vec![Group::ContainerRuntimes, Group::Kubernetes], ..Filters::default() };
        assert!(filters.leaves_out("/usr/bin/dockerd"));
        assert!(filters.leaves_out("/usr/local/bin/kubelet"));
        assert!(!filters.leaves_out("/usr/bin/docker-app"));
        assert!(!Filters::default().leaves_out("/usr/bin/dockerd"));
    }
}
