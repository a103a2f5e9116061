//! Who is behind an address, as a process sees it: all sources together, and each network namespace for itself.

use std::time::Instant;

use super::*;
use crate::exchange::{Attachment, Container, ContainerFacts, Pod, Shares};
use crate::proto::dns::{A, AAAA, Answer, Data, Message, Question};

pub(super) const S: u64 = 1_000_000_000;

pub(super) fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// A response: these addresses for that name.
pub(super) fn response(name: &str, ttl: u32, addresses: &[&str]) -> Message {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
    let data = |address: &IpAddr| match *address {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    };
    Message {
        id: 1,
        is_response: true,
        rcode: 0,
        truncated: false,
        question: Some(Question {
            name: name.to_owned(),
            kind: if addresses.iter().all(IpAddr::is_ipv4) { A } else { AAAA },
        }),
        answers: addresses.iter().map(|a| Answer { name: name.to_owned(), ttl, data: data(a) }).collect(),
    }
}

fn map(lines: &str) -> Arc<NameMap> {
    Arc::new(NameMap::from_hosts(lines))
}

/// A container `id` on networks: network, address, names.
fn container(id: &str, networks: &[(&str, &str, &[&str])]) -> Arc<Container> {
    let attachment = |(network, address, names): &(&str, &str, &[&str])| Attachment {
        network: (*network).to_owned(),
        addresses: vec![ip(address)],
        names: names.iter().map(|&name| name.to_owned()).collect(),
    };
    let networks = networks.iter().map(attachment).collect();
    told(id, ContainerFacts { name: id.to_owned(), networks, ..ContainerFacts::default() })
}

fn told(id: &str, facts: ContainerFacts) -> Arc<Container> {
    let container = Container::new(id.to_owned());
    container.learn(Some(Arc::new(facts)));
    Arc::new(container)
}

fn sharing(id: &str, shares: Shares) -> Arc<Container> {
    told(id, ContainerFacts { shares: Some(shares), ..ContainerFacts::default() })
}

/// One pod an address, of that name.
fn pods(all: &[(&str, &str)]) -> Option<Arc<Source<Pods>>> {
    let of_pod = |&(address, name): &(&str, &str)| {
        let pod = Pod { name: name.to_owned(), addresses: vec![ip(address)], ..Pod::default() };
        told(name, ContainerFacts { pod: Some(Arc::new(pod)), ..ContainerFacts::default() })
    };
    let all: Vec<_> = all.iter().map(of_pod).collect();
    Some(source(Pods::new(&all)))
}

fn source(pods: Pods) -> Arc<Source<Pods>> {
    let source = Source::default();
    source.set(pods);
    Arc::new(source)
}

/// What a process in the network namespace of that container sees.
fn seen(runtime: &RuntimeNames, container: Option<&str>) -> Names {
    let names = Names::default();
    names.network.set_runtime(runtime.of(container));
    names
}

/// The id of the container that has that address.
fn who(names: &Names, address: &str) -> Option<String> {
    names.container(ip(address)).map(|container| container.id.clone())
}

fn name(names: &Names, address: &str) -> Option<String> {
    names.of(ip(address)).map(|name| name.to_string())
}

#[test]
fn the_first_source_that_has_a_name_gives_it() {
    let names = Names {
        hosts: Some(map("10.0.0.1 hosts-1\n10.0.0.2 hosts-2\n")),
        pods: pods(&[("10.0.0.1", "pod-1"), ("10.0.0.2", "pod-2"), ("10.0.0.3", "pod-3"), ("10.0.0.4", "pod-4")]),
        ..Names::default()
    };
    names
        .network
        .set_runtime(RuntimeNames::new(&[container("me", &[("n", "10.0.0.1", &["runtime-1"])])]).of(Some("me")));
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        names.network.dns.answered(S, &response(&format!("dns-{}", &address[7..]), 60, &[address]));
    }
    let shown = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"].map(|address| name(&names, address));
    let expected = ["runtime-1", "hosts-2", "dns-3", "pod-4"].map(|name| Some(name.to_owned()));
    assert_eq!(shown[..4], expected);
    assert_eq!(shown[4], None);
    assert_eq!(name(&names, "::ffff:10.0.0.3").as_deref(), Some("dns-3"), "an IPv4 address is one in IPv6 too");
}

#[test]
fn a_source_that_has_two_names_leaves_it_to_the_next() {
    let names = Names { hosts: Some(map("10.0.0.1 one\n10.0.0.1 two\n")), ..Names::default() };
    assert_eq!(name(&names, "10.0.0.1"), None);
    names.network.dns.answered(S, &response("asked", 60, &["10.0.0.1"]));
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("asked"));
}

#[test]
fn a_name_is_elsewhere_when_no_source_has_it_here() {
    let names = Names { hosts: Some(map("10.0.0.1 web api\n")), ..Names::default() };
    assert!(!names.elsewhere("web", ip("10.0.0.1")));
    assert!(!names.elsewhere("API.", ip("::ffff:10.0.0.1")));
    assert!(names.elsewhere("API", ip("10.0.0.2")));
    assert!(!names.elsewhere("unknown", ip("10.0.0.2")));
    assert!(!names.elsewhere(&"x".repeat(100_000), ip("10.0.0.2")));
    names.network.dns.answered(S, &response("api", 60, &["10.0.0.2"]));
    assert!(!names.elsewhere("api", ip("10.0.0.2")), "an answer has it here");
    assert!(!names.elsewhere("api", ip("10.0.0.1")), "the hosts file has it here");
    assert!(names.elsewhere("api", ip("10.0.0.3")));
}

#[test]
fn names_that_tell_no_peer_from_another_are_left_out() {
    let names = Names {
        hosts: Some(map("10.0.0.1 localhost a/b 10.9.9.9 \u{e9}.test Web\n10.0.0.1 web\n")),
        ..Names::default()
    };
    assert_eq!(
        name(&names, "10.0.0.1").as_deref(),
        Some("Web"),
        "as written; other letters of the same name are no other"
    );
    let odd = RuntimeNames::new(&[container("me", &[("n", "10.0.0.2", &["a\x1b[2J", "", "api"])])]);
    assert_eq!(name(&seen(&odd, Some("me")), "10.0.0.2").as_deref(), Some("api"));
}

#[test]
fn of_a_huge_hosts_file_whole_lines_of_the_beginning_are_read() {
    let started = Instant::now();
    let mut text = "10.0.0.1 first\n".to_owned();
    text.push_str(&"0.0.0.0 ads.test\n".repeat(4000));
    text.push_str("10.0.0.2 ");
    text.push_str(&"name ".repeat(2 << 20));
    text.push_str("\n10.0.0.3 last\n");
    assert!(text.len() > 10 << 20);
    let names = Names { hosts: Some(map(&text)), ..Names::default() };
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("first"));
    assert_eq!(name(&names, "10.0.0.2"), None, "its line is cut");
    assert_eq!(name(&names, "10.0.0.3"), None);
    let many: String = (0..100_000).map(|n| format!("10.0.{}.{} n{n}\n", n >> 8 & 0xff, n & 0xff)).collect();
    let names = Names { hosts: Some(map(&many)), ..Names::default() };
    assert_eq!(name(&names, "10.0.15.255").as_deref(), Some("n4095"));
    assert_eq!(name(&names, "10.0.16.0"), None, "so many lines and no more");
    let cut = &many[..NameMap::MAX_HOSTS + 1];
    assert!(NameMap::from_hosts(cut) == NameMap::from_hosts(&many), "a reader may stop a byte behind the bound");
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn a_container_sees_the_networks_that_it_is_on() {
    let runtime = RuntimeNames::new(&[
        container("haproxy", &[("demo", "172.18.0.2", &["haproxy-demo", "haproxy"])]),
        container(
            "api",
            &[("demo", "172.18.0.5", &["backend-api-1", "api"]), ("db", "172.19.0.2", &["backend-api-1"])],
        ),
        container("db", &[("db", "172.19.0.3", &["postgres"])]),
    ]);
    let haproxy = seen(&runtime, Some("haproxy"));
    assert_eq!(name(&haproxy, "172.18.0.5").as_deref(), Some("backend-api-1"));
    assert_eq!(name(&haproxy, "172.19.0.3"), None, "on another network");
    assert_eq!(who(&haproxy, "172.18.0.5").as_deref(), Some("api"));
    assert_eq!(who(&haproxy, "::ffff:172.18.0.2").as_deref(), Some("haproxy"));
    assert_eq!(who(&haproxy, "172.19.0.3"), None);
    assert!(haproxy.elsewhere("api", ip("172.18.0.2")), "an alias is known too");
    let api = seen(&runtime, Some("api"));
    assert_eq!(name(&api, "172.18.0.2").as_deref(), Some("haproxy-demo"));
    assert_eq!(name(&api, "172.19.0.3").as_deref(), Some("postgres"));
    let machine = seen(&runtime, None);
    assert_eq!(name(&machine, "172.19.0.3").as_deref(), Some("postgres"), "the machine is on all networks");
    assert_eq!(name(&seen(&runtime, Some("unknown")), "172.18.0.2"), None);
}

#[test]
fn containers_without_a_network_of_their_own_see_what_the_other_sees() {
    let runtime = RuntimeNames::new(&[
        container("api", &[("demo", "172.18.0.5", &["backend-api-1"])]),
        sharing("beside", Shares::Container("api".to_owned())),
        sharing("beside-that", Shares::Container("beside".to_owned())),
        sharing("host", Shares::Machine),
        sharing("lost", Shares::Container("gone".to_owned())),
        sharing("circle", Shares::Container("circle".to_owned())),
    ]);
    for id in ["beside", "beside-that", "host"] {
        assert_eq!(name(&seen(&runtime, Some(id)), "172.18.0.5").as_deref(), Some("backend-api-1"), "{id}");
    }
    for id in ["lost", "circle"] {
        assert_eq!(name(&seen(&runtime, Some(id)), "172.18.0.5"), None, "{id}");
    }
}

#[test]
fn two_networks_with_the_same_addresses_are_not_mixed_up() {
    let runtime = RuntimeNames::new(&[
        container("client-a", &[("a", "172.30.0.2", &["client-a"])]),
        container("web-a", &[("a", "172.30.0.3", &["web-a", "web"])]),
        container("client-b", &[("b", "172.30.0.2", &["client-b"])]),
        container("web-b", &[("b", "172.30.0.3", &["web-b", "web"])]),
        container("both", &[("a", "172.30.0.4", &["both"]), ("b", "172.30.0.5", &["both"])]),
    ]);
    assert_eq!(name(&seen(&runtime, Some("client-a")), "172.30.0.3").as_deref(), Some("web-a"));
    assert_eq!(name(&seen(&runtime, Some("client-b")), "172.30.0.3").as_deref(), Some("web-b"));
    for container in [Some("both"), None] {
        let names = seen(&runtime, container);
        assert_eq!(name(&names, "172.30.0.3"), None, "{container:?} cannot tell which is meant");
        assert_eq!(who(&names, "172.30.0.3"), None);
        assert!(!names.elsewhere("web-b", ip("172.30.0.3")));
        for address in ["172.30.0.4", "172.30.0.5"] {
            assert_eq!(name(&names, address).as_deref(), Some("both"));
            assert_eq!(who(&names, address).as_deref(), Some("both"));
            assert!(!names.elsewhere("both", ip(address)));
        }
    }
}

#[test]
fn two_network_namespaces_have_names_of_their_own() {
    let networks = Networks::default();
    let [one, other] = [networks.get(1), networks.get(2)];
    one.dns.answered(S, &response("one", 60, &["10.0.0.1"]));
    other.dns.answered(S, &response("other", 60, &["10.0.0.1"]));
    let seen = |inode| Names { network: networks.get(inode), ..Names::default() };
    assert_eq!(name(&seen(1), "10.0.0.1").as_deref(), Some("one"));
    assert_eq!(name(&seen(2), "10.0.0.1").as_deref(), Some("other"));
    assert_eq!(networks.all().len(), 2);
    assert!(seen(1) == seen(1) && seen(1) != seen(2));
}

#[test]
fn a_network_namespace_that_nobody_holds_is_forgotten() {
    let networks = Networks::default();
    let held = networks.get(1);
    held.dns.answered(S, &response("held", 60, &["10.0.0.1"]));
    networks.get(2).dns.answered(S, &response("ended", 60, &["10.0.0.1"]));
    networks.expire(2 * S);
    assert_eq!(held.dns.len(), 1);
    assert_eq!(networks.all().len(), 1);
    assert_eq!(networks.get(2).dns.len(), 0, "its number is another's now");
    networks.expire(121 * S);
    assert_eq!(held.dns.len(), 0);
}

#[test]
fn a_bounded_number_of_network_namespaces_is_remembered() {
    let networks = Networks::default();
    let held: Vec<_> = (0..5000).map(|inode| networks.get(inode)).collect();
    assert_eq!(networks.all().len(), Networks::MAX);
    assert!(Arc::ptr_eq(&held[0], &networks.get(0)));
    drop(held);
    let next = networks.get(5000);
    assert!(Arc::ptr_eq(&next, &networks.get(5000)), "those that nobody holds make room");
    assert_eq!(networks.all().len(), 1);
}

#[test]
fn pods_are_known_by_their_own_addresses() {
    let of_pod = |id: &str, pod: &str, address: &str, shares: Option<Shares>| {
        let pod = Pod { name: pod.to_owned(), addresses: vec![ip(address)], ..Pod::default() };
        told(id, ContainerFacts { pod: Some(Arc::new(pod)), shares, ..ContainerFacts::default() })
    };
    let pods = source(Pods::new(&[
        of_pod("1", "web-1", "10.244.0.5", None),
        of_pod("2", "web-1", "10.244.0.5", None),
        of_pod("3", "node-exporter", "192.168.0.1", Some(Shares::Machine)),
    ]));
    let names = Names { pods: Some(pods), ..Names::default() };
    assert_eq!(name(&names, "10.244.0.5").as_deref(), Some("web-1"));
    assert_eq!(name(&names, "192.168.0.1"), None, "the machine is not the pod");
    assert_eq!(names.pod(ip("::ffff:10.244.0.5")).expect("both containers are of one pod").name, "web-1");
    assert_eq!(names.pod(ip("192.168.0.1")), None);
}

/// All behind one proxy, on a network with it and on one of its own: the layout in which a map for each container
/// would be quadratic.
#[test]
fn five_thousand_containers_take_time_in_proportion() {
    let all: Vec<_> = (0..5000_u32)
        .map(|number| {
            let id = format!("container-{number}");
            let [_, _, high, low] = number.to_be_bytes();
            let (common, own) = (format!("10.1.{high}.{low}"), format!("10.2.{high}.{low}"));
            container(&id, &[("common", &common, &[&id, "web"]), (&format!("own-{number}"), &own, &[&id, "web"])])
        })
        .collect();
    let started = Instant::now();
    let runtime = RuntimeNames::new(&all);
    let views: Vec<_> = all.iter().map(|container| runtime.of(Some(&container.id))).collect();
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    let names = Names::default();
    names.network.set_runtime(views[4999].clone());
    assert_eq!(name(&names, "10.1.0.7").as_deref(), Some("container-7"));
    assert_eq!(name(&names, "10.2.0.7"), None);
    assert!(!names.elsewhere("web", ip("10.1.19.135")));
}
