//! What the engine answers, as far as it is of use: Docker Engine API, `ContainerSummary`, `ContainerInspectResponse`
//! and `EventMessage`. Every list and every map is read to a bound: what comes after it is read over, not kept.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::super::containers::{MAX_CONTAINERS, MAX_LABELS, MAX_NETWORKS};
use crate::exchange::{Attachment, ContainerFacts, Shares};

/// Longest id that is asked for.
const LONGEST_ID: usize = 128;

/// One container of the list.
#[derive(Debug, Deserialize)]
pub struct Listed {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "Names", default)]
    names: AtMost<MAX_NETWORKS, String>,
    #[serde(rename = "Image", default)]
    image: String,
    #[serde(rename = "Labels", default)]
    labels: Entries<MAX_LABELS, String>,
    #[serde(rename = "HostConfig", default)]
    host_config: HostConfig,
    #[serde(rename = "NetworkSettings", default)]
    network_settings: NetworkSettings,
}

/// One container, asked for alone.
#[derive(Debug, Deserialize)]
pub struct Inspected {
    #[serde(rename = "Id")]
    pub id: String,
    #[serde(rename = "Name", default)]
    name: String,
    #[serde(rename = "State", default)]
    state: State,
    #[serde(rename = "Config", default)]
    config: Config,
    #[serde(rename = "HostConfig", default)]
    host_config: HostConfig,
    #[serde(rename = "NetworkSettings", default)]
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
struct State {
    /// Also while it is paused.
    #[serde(rename = "Running", default)]
    running: bool,
    #[serde(rename = "Status", default)]
    status: String,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    /// As the user named it.
    #[serde(rename = "Image", default)]
    image: String,
    #[serde(rename = "Labels", default)]
    labels: Entries<MAX_LABELS, String>,
}

#[derive(Debug, Default, Deserialize)]
struct HostConfig {
    /// `default`, `bridge`, a network's name, `host`, `none` or `container:<id>`.
    #[serde(rename = "NetworkMode", default)]
    network_mode: String,
}

#[derive(Debug, Default, Deserialize)]
struct NetworkSettings {
    /// By the network's name.
    #[serde(rename = "Networks", default)]
    networks: Entries<MAX_NETWORKS, Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    #[serde(rename = "NetworkID", default)]
    network: String,
    #[serde(rename = "IPAddress", default)]
    address: String,
    #[serde(rename = "GlobalIPv6Address", default)]
    address_v6: String,
    /// Not in the list. Until Docker 25 the short id is one of them.
    #[serde(rename = "Aliases", default)]
    aliases: AtMost<MAX_NETWORKS, String>,
    /// Not in the list. Since Docker 25, all names there are, the short id and the host name among them.
    #[serde(rename = "DNSNames", default)]
    dns_names: AtMost<MAX_NETWORKS, String>,
}

impl Listed {
    /// The containers of the list that have an id.
    pub fn read(json: &[u8]) -> Result<Vec<Listed>> {
        let list: AtMost<MAX_CONTAINERS, Listed> = serde_json::from_slice(json).context("not as documented")?;
        Ok(list.0.into_iter().filter(|container| is_id(&container.id)).collect())
    }

    pub fn facts(self) -> (String, ContainerFacts) {
        // A link of old gives a container a second name, below the other's: `/web/db`.
        let names = &self.names.0;
        let name = names.iter().find(|name| name.matches('/').count() == 1).or(names.first());
        let name = plain_name(name.map_or("", String::as_str));
        let facts =
            facts(&self.id, name, self.image, self.labels, &self.host_config.network_mode, self.network_settings);
        (self.id, facts)
    }
}

impl Inspected {
    pub fn read(json: &[u8]) -> Result<Inspected> {
        serde_json::from_slice(json).context("not as documented")
    }

    /// Neither does it run nor is it about to.
    pub fn has_ended(&self) -> bool {
        !self.state.running && self.state.status != "created"
    }

    pub fn facts(self) -> ContainerFacts {
        let Config { image, labels } = self.config;
        let name = plain_name(&self.name);
        facts(&self.id, name, image, labels, &self.host_config.network_mode, self.network_settings)
    }
}

fn facts(
    id: &str,
    name: &str,
    image: String,
    labels: Entries<MAX_LABELS, String>,
    network_mode: &str,
    settings: NetworkSettings,
) -> ContainerFacts {
    let shares = match network_mode.strip_prefix("container:") {
        Some(other) => Some(Shares::Container(other.to_owned())),
        None => (network_mode == "host").then_some(Shares::Machine),
    };
    let labels: std::collections::BTreeMap<_, _> = labels.0.into_iter().collect();
    let service = labels.get("com.docker.compose.service");
    let mut networks = Vec::new();
    // The network of a container that shares another's is that one's.
    let endpoints = settings.networks.0.into_iter().filter(|_| shares.is_none());
    for (_, endpoint) in endpoints.filter(|(_, endpoint)| !endpoint.network.is_empty()) {
        let addresses = [&endpoint.address, &endpoint.address_v6].into_iter();
        let given = [name.to_owned()].into_iter().chain(endpoint.aliases.0).chain(service.cloned());
        let mut names = Vec::new();
        for name in given.chain(endpoint.dns_names.0) {
            if !name.is_empty() && !is_short_id(&name, id) && !names.contains(&name) {
                names.push(name);
            }
        }
        networks.push(Attachment {
            network: endpoint.network,
            addresses: addresses.filter_map(|address| address.parse::<IpAddr>().ok()).collect(),
            names,
        });
    }
    ContainerFacts { name: name.to_owned(), image, labels, networks, shares, pod: None }
}

/// The engine writes `/web` for `web`.
fn plain_name(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

fn is_short_id(name: &str, id: &str) -> bool {
    name.len() == 12 && id.starts_with(name)
}

/// Whether it may stand in a request's path.
fn is_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What happened.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Attributes,
}

#[derive(Debug, Default, Deserialize)]
struct Attributes {
    /// Of a network's event: which container it is about.
    #[serde(default)]
    container: String,
}

impl Event {
    pub fn read(json: &[u8]) -> Result<Event> {
        serde_json::from_slice(json).context("an event is not as documented")
    }

    /// The container of which something may be other than before. `died` and `remove` are podman's words.
    pub fn container(self) -> Option<String> {
        let id = match (self.kind.as_str(), self.action.as_str()) {
            (
                "container",
                "create" | "start" | "restart" | "rename" | "update" | "die" | "died" | "destroy" | "remove",
            ) => self.actor.id,
            ("network", "connect" | "disconnect") => self.actor.attributes.container,
            _ => return None,
        };
        is_id(&id).then_some(id)
    }
}

/// A list, of which the first `N` are kept. `null` is an empty one.
#[derive(Debug)]
struct AtMost<const N: usize, T>(Vec<T>);

/// An object with any names, of which the first `N` are kept. `null` is an empty one.
#[derive(Debug)]
struct Entries<const N: usize, T>(Vec<(String, T)>);

impl<const N: usize, T> Default for AtMost<N, T> {
    fn default() -> Self {
        AtMost(Vec::new())
    }
}

impl<const N: usize, T> Default for Entries<N, T> {
    fn default() -> Self {
        Entries(Vec::new())
    }
}

impl<'de, const N: usize, T: Deserialize<'de>> Deserialize<'de> for AtMost<N, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<const N: usize, T>(PhantomData<T>);

        impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for Reader<N, T> {
            type Value = AtMost<N, T>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(AtMost::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < N {
                    match list.next_element()? {
                        Some(element) => kept.push(element),
                        None => return Ok(AtMost(kept)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(AtMost(kept))
            }
        }

        deserializer.deserialize_any(Reader(PhantomData))
    }
}

impl<'de, const N: usize, T: Deserialize<'de>> Deserialize<'de> for Entries<N, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<const N: usize, T>(PhantomData<T>);

        impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for Reader<N, T> {
            type Value = Entries<N, T>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object or null")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Entries::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < N {
                    match map.next_entry()? {
                        Some(entry) => kept.push(entry),
                        None => return Ok(Entries(kept)),
                    }
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Entries(kept))
            }
        }

        deserializer.deserialize_any(Reader(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "4c01db0b339c4c5b5d0e6e1a7f8a1b0d6f5b3a2c1d0e9f8a7b6c5d4e3f2a1b0c";
    const NETWORK: &str = "53d1c5b4f8a9e7d6c3b2a1908f7e6d5c4b3a29180f7e6d5c4b3a29180f7e6d5c";

    macro_rules! recorded {
        ($name:literal) => {
            include_bytes!(concat!("../../../../tests/data/docker/", $name))
        };
    }

    fn inspected(json: &[u8]) -> ContainerFacts {
        let container = Inspected::read(json).unwrap();
        assert!(!container.has_ended());
        container.facts()
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_container_of_compose() {
        let facts = inspected(recorded!("compose.json"));
        assert_eq!((facts.name.as_str(), facts.image.as_str()), ("haproxy-demo", "haproxy:2.8"));
        assert_eq!(facts.labels["com.docker.compose.service"], "haproxy");
        assert_eq!(facts.labels["team"], "edge");
        assert_eq!(facts.shares, None);
        let network = Attachment {
            network: NETWORK.into(),
            addresses: addresses(&["172.18.0.7", "fd00:18::7"]),
            names: ["haproxy-demo", "haproxy", "lb.internal"].map(str::to_owned).into(),
        };
        assert_eq!(facts.networks, [network]);
    }

    #[test]
    fn a_container_in_the_machines_network() {
        let facts = inspected(recorded!("host.json"));
        assert_eq!(facts.name, "agent");
        assert_eq!(facts.shares, Some(Shares::Machine));
        assert!(facts.networks.is_empty());
    }

    #[test]
    fn a_container_in_anothers_network() {
        let facts = inspected(recorded!("shared.json"));
        assert_eq!(facts.shares, Some(Shares::Container(A.into())));
        assert!(facts.networks.is_empty());
    }

    #[test]
    fn a_container_in_two_networks() {
        let networks = inspected(recorded!("two-networks.json")).networks;
        let in_each: Vec<_> = networks.iter().map(|network| (&network.addresses[..], &network.names[..])).collect();
        assert_eq!(
            in_each,
            [
                (&addresses(&["10.5.0.3"])[..], &["api".to_owned(), "backend-api-1".into()][..]),
                (&addresses(&["172.18.0.3"])[..], &["api".to_owned(), "backend-api-1".into(), "backend".into()][..]),
            ]
        );
    }

    #[test]
    fn a_container_in_the_default_network() {
        let facts = inspected(recorded!("default-bridge.json"));
        assert_eq!(facts.networks[0].addresses, addresses(&["172.17.0.2"]));
        assert_eq!(facts.networks[0].names, ["silly_banach"]);
    }

    #[test]
    fn an_engine_before_dns_names() {
        assert_eq!(inspected(recorded!("docker-20.json")).networks[0].names, ["web", "www"]);
    }

    #[test]
    fn what_has_ended_and_what_will_start() {
        assert!(Inspected::read(recorded!("exited.json")).unwrap().has_ended());
        let created = inspected(recorded!("created.json"));
        assert_eq!(created.name, "haproxy-demo");
        assert!(created.networks.is_empty(), "none that has begun");
    }

    #[test]
    fn the_list() {
        let list = Listed::read(recorded!("list.json")).unwrap();
        let all: Vec<_> = list.into_iter().map(Listed::facts).collect();
        let names: Vec<_> = all.iter().map(|(_, facts)| facts.name.as_str()).collect();
        assert_eq!(names, ["haproxy-demo", "db", "sidecar"], "a link's name is not a container's");
        assert_eq!(all[0].0, A);
        assert_eq!(all[0].1.networks[0].addresses, addresses(&["172.18.0.7", "fd00:18::7"]));
        assert_eq!(all[0].1.networks[0].names, ["haproxy-demo", "haproxy"], "the name and the service");
        assert_eq!(all[2].1.shares, Some(Shares::Container(A.into())));
    }

    #[test]
    fn which_events_matter() {
        let lines = recorded!("events.jsonl").split_inclusive(|&byte| byte == b'\n');
        let events = lines.map(|line| Event::read(line).unwrap());
        let actions: Vec<_> = events
            .filter_map(|event| {
                let action = event.action.clone();
                event.container().map(|id| (action, id == A))
            })
            .collect();
        let actions: Vec<_> = actions.iter().map(|(action, is_a)| (action.as_str(), *is_a)).collect();
        assert_eq!(
            actions,
            [
                ("create", true),
                ("connect", true),
                ("start", true),
                ("rename", true),
                ("die", true),
                ("disconnect", true),
                ("destroy", true),
            ]
        );
    }

    #[test]
    fn lists_and_maps_are_read_to_their_bounds() {
        let labels: Vec<_> = (0..100_000).map(|number| format!("\"{number}\":\"x\"")).collect();
        let names = vec!["\"n\""; 100_000].join(",");
        let json = format!(
            "{{\"Id\":\"a\",\"Config\":{{\"Labels\":{{{}}}}},\"State\":{{\"Running\":true}},\"NetworkSettings\":\
             {{\"Networks\":{{\"n\":{{\"NetworkID\":\"n\",\"Aliases\":[{names}]}}}}}}}}",
            labels.join(",")
        );
        let facts = inspected(json.as_bytes());
        assert_eq!(facts.labels.len(), MAX_LABELS);
        assert_eq!(facts.networks[0].names, ["n"]);
        let list = format!("[{}]", vec!["{\"Id\":\"a\"}"; MAX_CONTAINERS + 10].join(","));
        assert_eq!(Listed::read(list.as_bytes()).unwrap().len(), MAX_CONTAINERS);
    }

    #[test]
    fn null_is_nothing() {
        let facts = inspected(
            b"{\"Id\":\"a\",\"State\":{\"Running\":true},\"Config\":{\"Labels\":null},\
              \"NetworkSettings\":{\"Networks\":null}}",
        );
        assert_eq!(facts, ContainerFacts::default());
    }
}
