//! What the container runtimes say: who has which address, as seen from a container or from the machine.
//!
//! Each network is one map, which all containers on it share: a container sees the maps of its networks, so that
//! thousands of containers cost what their addresses cost, whatever they are attached to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{NameMap, Source};
use crate::exchange::{Container, ContainerFacts, Pod, Shares};

/// A container that has the network namespace of one that has that of another, and so on: so many are followed.
const MAX_SHARED: usize = 8;

/// The networks of a set of containers.
#[derive(Debug, Default)]
pub struct RuntimeNames {
    /// id → facts
    containers: HashMap<String, Arc<ContainerFacts>>,
    /// network id → who is on it
    networks: HashMap<String, Arc<Network>>,
    /// All networks as one, which the machine's own network namespace has.
    machine: RuntimeView,
}

/// Who is on a network.
#[derive(Debug, Default, PartialEq, Eq)]
struct Network {
    names: NameMap,
    /// address → its container; none where several have it
    containers: HashMap<IpAddr, Option<Arc<Container>>>,
}

impl RuntimeNames {
    /// Of all containers there are, as far as anything is known of them. Takes time in proportion to their addresses
    /// and names.
    pub fn new(all: &[Arc<Container>]) -> RuntimeNames {
        let mut containers = HashMap::new();
        let mut networks: HashMap<String, Network> = HashMap::new();
        let mut machine = Network::default();
        for (container, facts) in all.iter().filter_map(|container| Some((container, container.facts()?))) {
            for attachment in &facts.networks {
                let network = networks.entry(attachment.network.clone()).or_default();
                for &address in &attachment.addresses {
                    let names = || attachment.names.iter().map(String::as_str);
                    network.insert(address, container, names());
                    machine.insert(address, container, names());
                }
            }
            containers.insert(container.id.clone(), facts);
        }
        RuntimeNames {
            containers,
            networks: networks.into_iter().map(|(id, network)| (id, Arc::new(network))).collect(),
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

impl Network {
    fn insert<'a>(&mut self, address: IpAddr, container: &Arc<Container>, names: impl IntoIterator<Item = &'a str>) {
        self.names.insert(address, names);
        let known = self.containers.entry(address.to_canonical()).or_insert_with(|| Some(container.clone()));
        known.take_if(|known| known != container);
    }
}

/// The networks that can be seen from one network namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RuntimeView {
    networks: Arc<[Arc<Network>]>,
}

impl RuntimeView {
    pub(super) fn is_empty(&self) -> bool {
        self.networks.iter().all(|network| network.containers.is_empty())
    }

    /// The one name of an address; none where two networks give it to different containers.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Arc<str>> {
        the_only(self.networks.iter().filter_map(|network| network.names.get(address)))
    }

    /// The one container that has an address.
    pub(super) fn container(&self, address: IpAddr) -> Option<&Arc<Container>> {
        the_only(self.networks.iter().filter_map(|network| Some(network.containers.get(&address)?.as_ref())))
    }

    /// As of [`NameMap`].
    pub(super) fn stands_for(&self, name: &str, address: IpAddr) -> Option<bool> {
        let known = self.networks.iter().filter_map(|network| network.names.stands_for(name, address));
        known.reduce(|one, other| one || other)
    }
}

/// What all networks that know an address agree on.
fn the_only<T: PartialEq>(mut known: impl Iterator<Item = Option<T>>) -> Option<T> {
    let first = known.next()?;
    if known.all(|other| other == first) { first } else { None }
}

/// The pods of a set of containers by their addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pods {
    pub(super) names: NameMap,
    /// address → its pod; none where several have it
    by_address: HashMap<IpAddr, Option<Arc<Pod>>>,
}

impl Source<Pods> {
    /// From now on it is these.
    pub fn set(&self, pods: Pods) {
        self.change(|known| {
            *known = pods;
            !known.by_address.is_empty()
        });
    }
}

impl Pods {
    /// A pod that has the machine's network has no address to itself and is left out.
    pub fn new(all: &[Arc<Container>]) -> Pods {
        let mut pods = Pods::default();
        for facts in all.iter().filter_map(|container| container.facts()) {
            if facts.shares == Some(Shares::Machine) {
                continue;
            }
            for (pod, &address) in facts.pod.iter().flat_map(|pod| pod.addresses.iter().map(move |ip| (pod, ip))) {
                pods.names.insert(address, [pod.name.as_str()]);
                let known = pods.by_address.entry(address.to_canonical()).or_insert_with(|| Some(pod.clone()));
                // Its containers may have been asked about at different times: the labels need not be the same.
                known.take_if(|known| (&known.name, &known.namespace) != (&pod.name, &pod.namespace));
            }
        }
        pods
    }

    /// The one pod that has an address.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Arc<Pod>> {
        self.by_address.get(&address)?.as_ref()
    }
}
