//! Who: the watched process, its container, its pod. Values only; `identity` finds them out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use crate::names::Names;

/// The watched process: whose socket this is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    pub pid: u32,
    /// When it was started: CLOCK_BOOTTIME, ns; 0 where it is not known. With `pid` it tells a reused pid.
    pub started: u64,
    /// Path of the executable; where it could not be had, the name it was started by, or empty.
    pub exe: String,
    /// The command name (comm).
    pub comm: String,
    pub user_id: Option<u32>,
    pub user_name: Option<String>,
    pub container: Option<Arc<Container>>,
    /// Names that it has for addresses.
    pub names: Option<Arc<Names>>,
}

impl Process {
    /// The name of the executable, without its folder.
    pub fn binary(&self) -> &str {
        self.exe.rsplit('/').next().unwrap_or_default()
    }

    /// What is known of its container's name and the like, now.
    pub fn container_facts(&self) -> Option<Arc<ContainerFacts>> {
        self.container.as_ref()?.facts()
    }
}

/// A container. What the runtime says of it may come later than its traffic, and change.
#[derive(Debug, Default)]
pub struct Container {
    pub id: String,
    facts: RwLock<Option<Arc<ContainerFacts>>>,
}

/// Which container it is, whatever is known of it.
impl PartialEq for Container {
    fn eq(&self, other: &Container) -> bool {
        self.id == other.id
    }
}

impl Eq for Container {}

impl Container {
    pub fn new(id: String) -> Container {
        Container { id, facts: RwLock::default() }
    }

    /// What the runtime has said of it so far.
    pub fn facts(&self) -> Option<Arc<ContainerFacts>> {
        self.facts.read().expect("no thread panics with the lock").clone()
    }

    pub fn learn(&self, facts: Option<Arc<ContainerFacts>>) {
        *self.facts.write().expect("no thread panics with the lock") = facts;
    }

    /// The first twelve digits of the id, as container tools show it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

/// What a runtime says of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFacts {
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub networks: Vec<Attachment>,
    /// It has no network namespace of its own: the machine's, or another container's.
    pub shares: Option<Shares>,
    pub pod: Option<Arc<Pod>>,
}

/// Whose network namespace a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shares {
    Machine,
    /// That of another container, by its id.
    Container(String),
}

/// A container's place in a network of its runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachment {
    /// The network's id.
    pub network: String,
    pub addresses: Vec<IpAddr>,
    /// Best first: the container's name, then aliases, then the compose service.
    pub names: Vec<String>,
}

/// A Kubernetes pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub addresses: Vec<IpAddr>,
}
