//! What the container runtime's networks say: who has which address, as seen from a container or from the machine.
//!
//! Each network is one map, which all containers on it share: a container sees the maps of its networks, so that
//! thousands of containers cost what their addresses cost, whatever they are attached to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::NameMap;
use crate::exchange::{ContainerFacts, Shares};

/// A container that has the network namespace of one that has that of another, and so on: so many are followed.
const MAX_SHARED: usize = 8;

/// The networks of a set of containers.
#[derive(Debug, Default)]
pub struct RuntimeNames {
    /// id → facts
    containers: HashMap<String, Arc<ContainerFacts>>,
    /// network id → the names on it
    networks: HashMap<String, Arc<NameMap>>,
    /// All networks as one, which the machine's own network namespace has.
    machine: RuntimeView,
}

impl RuntimeNames {
    /// Of all containers there are: id and facts of each. Takes time in proportion to their addresses and names.
    pub fn new(all: &[(String, Arc<ContainerFacts>)]) -> RuntimeNames {
        let mut networks: HashMap<&str, NameMap> = HashMap::new();
        let mut machine = NameMap::default();
        for attachment in all.iter().flat_map(|(_id, facts)| &facts.networks) {
            let network = networks.entry(&attachment.network).or_default();
            for &address in &attachment.addresses {
                let names = || attachment.names.iter().map(String::as_str);
                network.insert(address, names());
                machine.insert(address, names());
            }
        }
        RuntimeNames {
            containers: all.iter().cloned().collect(),
            networks: networks.into_iter().map(|(id, names)| (id.to_owned(), Arc::new(names))).collect(),
            machine: RuntimeView { networks: Arc::new([Arc::new(machine)]) },
        }
    }

    /// What is seen from the network namespace of that container, or from the machine's own where it is none. A
    /// container that is not known sees nothing.
    pub fn of(&self, container: Option<&str>) -> RuntimeView {
        let Some(mut id) = container else { return self.machine.clone() };
        for _ in 0..MAX_SHARED {
            let Some(facts) = self.containers.get(id) else { break };
            match &facts.shares {
                None => return self.on(facts),
                Some(Shares::Machine) => return self.machine.clone(),
                Some(Shares::Container(other)) => id = other,
            }
        }
        RuntimeView::default()
    }

    fn on(&self, facts: &ContainerFacts) -> RuntimeView {
        let networks = facts.networks.iter().filter_map(|attachment| self.networks.get(&attachment.network));
        RuntimeView { networks: networks.cloned().collect() }
    }
}

/// The networks that can be seen from one network namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RuntimeView {
    networks: Arc<[Arc<NameMap>]>,
}

impl RuntimeView {
    /// The one name of an address; none where two networks give it to different containers.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Arc<str>> {
        let mut known = self.networks.iter().filter_map(|network| network.get(address));
        let name = known.next()?;
        if known.all(|other| other == name) { name } else { None }
    }

    /// As of [`NameMap`].
    pub(super) fn stands_for(&self, name: &str, address: IpAddr) -> Option<bool> {
        self.networks.iter().filter_map(|network| network.stands_for(name, address)).reduce(|one, other| one || other)
    }
}

/// The pods of a set of containers by their addresses. A pod that has the machine's network has no address to itself
/// and is left out.
pub fn pod_names(all: &[(String, Arc<ContainerFacts>)]) -> NameMap {
    let mut names = NameMap::default();
    for (_id, facts) in all.iter().filter(|(_id, facts)| facts.shares != Some(Shares::Machine)) {
        for (pod, &address) in facts.pod.iter().flat_map(|pod| pod.addresses.iter().map(move |address| (pod, address)))
        {
            names.insert(address, [pod.name.as_str()]);
        }
    }
    names
}
