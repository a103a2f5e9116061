use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::names::tests::{S, ip, response};

/// TTL 30, and the grace.
const END: u64 = 90 * S;

fn name(names: &DnsNames, address: &str) -> Option<String> {
    names.of(ip(address)).map(|name| name.to_string())
}

fn cname(name: &str, ttl: u32, target: &str) -> Answer {
    Answer { name: name.to_owned(), ttl, data: Data::Cname(target.to_owned()) }
}

#[test]
fn the_name_is_the_one_that_was_asked_for() {
    let names = DnsNames::default();
    let mut message = response("edge.cdn.test", 30, &["10.0.0.1", "10.0.0.2"]);
    message.question.as_mut().unwrap().name = "www.shop.test".to_owned();
    message.answers.push(cname("www.cdn.test", 30, "edge.cdn.test"));
    message.answers.push(cname("www.shop.test", 30, "www.cdn.test"));
    names.answered(0, &message);
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("www.shop.test"));
    assert_eq!(name(&names, "10.0.0.2").as_deref(), Some("www.shop.test"));
    assert_eq!(names.stands_for("www.shop.test", ip("10.0.0.2")), Some(true));
    assert_eq!(names.stands_for("edge.cdn.test", ip("10.0.0.2")), None);
}

#[test]
fn the_shortest_ttl_of_a_chain_holds() {
    let names = DnsNames::default();
    let mut message = response("b.test", 3600, &["10.0.0.1"]);
    message.question.as_mut().unwrap().name = "a.test".to_owned();
    message.answers.push(cname("a.test", 30, "b.test"));
    names.answered(0, &message);
    names.expire(END);
    assert!(names.is_empty());
}

#[test]
fn addresses_of_others_and_circles_say_nothing() {
    let names = DnsNames::default();
    let mut stranger = response("b.test", 30, &["10.0.0.1"]);
    stranger.question.as_mut().unwrap().name = "a.test".to_owned();
    names.answered(0, &stranger);
    let mut circle = response("c.test", 30, &["10.0.0.1"]);
    circle.question.as_mut().unwrap().name = "a.test".to_owned();
    circle.answers.extend([cname("a.test", 30, "b.test"), cname("b.test", 30, "a.test")]);
    names.answered(0, &circle);
    assert!(names.is_empty());
}

#[test]
fn only_responses_to_questions_for_addresses_count() {
    let names = DnsNames::default();
    let good = response("a.test", 30, &["10.0.0.1"]);
    let with = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        names.answered(0, &message);
        names.len()
    };
    assert_eq!(with(|message| message.is_response = false), 0, "a query");
    assert_eq!(with(|message| message.rcode = 2), 0, "a failure");
    assert_eq!(with(|message| message.question = None), 0, "no question");
    assert_eq!(with(|message| message.question.as_mut().unwrap().kind = 12), 0, "for a name");
    assert_eq!(with(|message| message.question.as_mut().unwrap().kind = AAAA), 0, "for the other kind");
    assert_eq!(with(|_| ()), 1);
}

#[test]
fn loopback_and_no_address_have_no_names() {
    let names = DnsNames::default();
    names.answered(0, &response("here.test", 30, &["127.0.0.1", "0.0.0.0"]));
    names.answered(0, &response("here.test", 30, &["::1", "::", "::ffff:10.0.0.1"]));
    names.answered(0, &response("localhost", 30, &["10.0.0.1"]));
    names.answered(0, &response(r"a\.b.test", 30, &["10.0.0.1"]));
    assert!(names.is_empty());
}

#[test]
fn a_name_stays_a_minute_longer_than_its_ttl() {
    let names = DnsNames::default();
    names.answered(0, &response("a.test", 30, &["10.0.0.1"]));
    names.expire(END - 1);
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("a.test"));
    names.expire(END);
    assert_eq!(name(&names, "10.0.0.1"), None);
    assert_eq!(names.stands_for("a.test", ip("10.0.0.1")), None);
}

#[test]
fn answered_again_a_name_lasts_again() {
    let names = DnsNames::default();
    names.answered(0, &response("a.test", 30, &["10.0.0.1"]));
    names.answered(80 * S, &response("a.test", 0, &["10.0.0.1"]));
    names.expire(140 * S - 1);
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("a.test"));
    names.expire(140 * S);
    assert!(names.is_empty());
}

#[test]
fn two_names_for_an_address_are_none_while_both_are_in_force() {
    let names = DnsNames::default();
    names.answered(0, &response("a.test", 30, &["10.0.0.1"]));
    names.answered(0, &response("b.test", 300, &["10.0.0.1"]));
    assert_eq!(name(&names, "10.0.0.1"), None);
    assert_eq!(names.stands_for("a.test", ip("10.0.0.1")), Some(true));
    names.expire(END);
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("b.test"));
}

#[test]
fn a_new_answer_takes_the_place_of_the_old_one() {
    let names = DnsNames::default();
    names.answered(0, &response("a.test", 3600, &["10.0.0.1", "10.0.0.2"]));
    names.answered(0, &response("a.test", 3600, &["fd00::1"]));
    names.answered(10 * S, &response("a.test", 3600, &["10.0.0.2", "10.0.0.3"]));
    names.expire(70 * S - 1);
    assert_eq!(name(&names, "10.0.0.1").as_deref(), Some("a.test"), "connections made with it are still there");
    names.expire(70 * S);
    assert_eq!(name(&names, "10.0.0.1"), None);
    assert_eq!(names.stands_for("a.test", ip("10.0.0.1")), Some(false));
    for address in ["10.0.0.2", "10.0.0.3", "fd00::1"] {
        assert_eq!(name(&names, address).as_deref(), Some("a.test"), "{address}");
    }
}

/// The n-th address, with a name of its own.
fn numbered(number: u32) -> Message {
    response(&format!("host-{number}.test"), 3600, &[&Ipv4Addr::from(0x0a00_0000 + number).to_string()])
}

#[test]
fn the_oldest_addresses_go_first() {
    let names = DnsNames::default();
    let most = MAX_ANSWERS as u32;
    (0..most).for_each(|number| names.answered(0, &numbered(number)));
    names.answered(S, &numbered(0));
    names.answered(S, &numbered(most));
    assert_eq!(names.len(), MAX_ANSWERS);
    assert_eq!(name(&names, "10.0.0.0").as_deref(), Some("host-0.test"), "answered again, it is new");
    assert_eq!(name(&names, "10.0.0.1"), None);
    assert_eq!(name(&names, "10.0.0.2").as_deref(), Some("host-2.test"));
}

#[test]
fn an_address_that_goes_takes_all_its_names_along() {
    let names = DnsNames::default();
    names.answered(0, &response("one.test", 3600, &["192.0.2.1"]));
    (0..MAX_ANSWERS as u32 - 2).for_each(|number| names.answered(0, &numbered(number)));
    names.answered(0, &response("other.test", 3600, &["192.0.2.1"]));
    assert_eq!(name(&names, "192.0.2.1"), None);
    names.answered(0, &response("third.test", 3600, &["192.0.2.2"]));
    assert_eq!(name(&names, "192.0.2.1"), None, "other.test is not its only name, and may not look so");
    assert_eq!(names.stands_for("other.test", ip("192.0.2.1")), None);
}

#[test]
fn all_network_namespaces_together_are_bounded() {
    let in_all = Arc::default();
    let fill = |count: usize| {
        let names = DnsNames::counted_in(&in_all);
        (0..count as u32).for_each(|number| names.answered(0, &numbered(number)));
        names
    };
    let mut full: Vec<_> = (0..MAX_ANSWERS_IN_ALL / MAX_ANSWERS).map(|_| fill(MAX_ANSWERS)).collect();
    assert!(fill(3).is_empty());
    full.pop();
    assert_eq!(fill(3).len(), 3);
    drop(full);
    assert_eq!(in_all.load(Ordering::Relaxed), 0);
}

/// An answer that never ends would otherwise be walked through whole for each that follows.
#[test]
fn no_more_than_the_last_answers_of_a_name_are_retired() {
    let names = DnsNames::default();
    for round in 0..40_u32 {
        let address = |n| Ipv4Addr::from(0x0a00_0000 + round * 256 + n);
        let v4: Vec<_> = (0..256).map(|n| address(n).to_string()).collect();
        let v6: Vec<_> = (0..256).map(|n| format!("fd00::{:x}", round * 256 + n)).collect();
        for addresses in [v4, v6] {
            names.answered(0, &response("flood.test", 9, &addresses.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        assert!(names.leases.read().unwrap().by_name["flood.test"].last.len() <= 512);
    }
    assert_eq!(names.len(), MAX_ANSWERS);
    names.expire(END);
    assert!(names.is_empty());
}

/// What is expected, written down the slow way: name, address, end.
#[derive(Default)]
struct Model(Vec<(usize, usize, u64)>);

impl Model {
    fn answered(&mut self, now: u64, name: usize, ttl: u64, addresses: &[usize]) {
        self.expire(now);
        if addresses.is_empty() {
            return;
        }
        for lease in self.0.iter_mut().filter(|lease| lease.0 == name) {
            lease.2 = lease.2.min(now + 60);
        }
        for &address in addresses {
            self.0.retain(|lease| (lease.0, lease.1) != (name, address));
            self.0.push((name, address, now + ttl + 60));
        }
    }

    fn expire(&mut self, now: u64) {
        self.0.retain(|lease| lease.2 > now);
    }

    fn of(&self, address: usize) -> Option<usize> {
        let mut names = self.0.iter().filter(|lease| lease.1 == address).map(|lease| lease.0);
        names.next().filter(|_| names.next().is_none())
    }
}

proptest! {
    #[test]
    fn names_are_what_the_answers_in_force_say(
        steps in vec((0..50_u64, 0..4_usize, 0..100_u64, vec(0..5_usize, 0..4)), 1..40),
    ) {
        let addresses = ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
        let asked = ["a.test", "b.test", "c.test", "d.test"];
        let (names, mut model, mut now) = (DnsNames::default(), Model::default(), 0);
        for (later, asked_name, ttl, answer) in steps {
            now += later;
            let shown: Vec<_> = answer.iter().map(|&address| addresses[address]).collect();
            names.answered(now * S, &response(asked[asked_name], ttl as u32, &shown));
            names.expire(now * S);
            model.expire(now);
            model.answered(now, asked_name, ttl, &answer);
            for (number, address) in addresses.iter().enumerate() {
                let expected = model.of(number).map(|name| asked[name].to_owned());
                prop_assert_eq!(name(&names, address), expected);
            }
            prop_assert_eq!(names.len(), model.0.len());
            names.leases.change(|leases| {
                assert_eq!(leases.by_age.len(), model.0.len());
                assert_eq!(leases.by_end.len(), leases.by_age.len());
                assert_eq!(leases.by_address.values().map(BTreeSet::len).sum::<usize>(), leases.by_age.len());
                assert_eq!(leases.by_name.values().map(|told| told.leases.len()).sum::<usize>(), leases.by_age.len());
                !leases.by_age.is_empty()
            });
        }
    }
}
