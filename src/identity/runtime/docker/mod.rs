//! The Docker Engine API over its Unix socket; podman's service speaks it too.
//!
//! One thread, one session: the event stream first, so that nothing happens unseen between it and the list; then the
//! list of what runs, which gives names and addresses; then each container alone, which gives its aliases. After that
//! whatever an event names is inspected again.

mod answers;
mod http;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use super::super::containers::{MAX_CONTAINERS, Source};
use super::{LIST_EVERY, Link, TO_LIST, TO_TELL, Untold};
use crate::exchange::ContainerFacts;
use answers::{Event, Inspected, Listed};
use http::{Events, get};

const LIST: &str = "/containers/json";
/// With the filters `{"type":["container","network"]}`.
const EVENTS: &str = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";

/// Bytes of the list: 10,000 containers with labels of 2 KiB.
const MAX_LIST: usize = 32 << 20;
/// Bytes of what is said of one container.
const MAX_ANSWER: usize = 8 << 20;

/// Follows the engine until something fails.
pub(super) async fn session(link: &Link) -> Result<Infallible> {
    let mut events = Events::open(link.connect().await?, EVENTS).await.context("no events")?;
    let mut waiting = Waiting::default();
    let mut untold = Untold::default();
    let mut list_at = Instant::now();
    loop {
        if Instant::now() >= list_at {
            list(link, &mut waiting).await.context("no list of containers")?;
            link.known();
            list_at = Instant::now() + LIST_EVERY;
        }
        if let Some(id) = waiting.pop() {
            let answer = untold.unless_late(inspect(link, &id).await);
            if answer.with_context(|| format!("nothing of container {id}"))?.is_some() {
                waiting.inspected.insert(id);
            }
        }
        let patience = if waiting.is_empty() { list_at - Instant::now() } else { Duration::ZERO };
        let Ok(event) = timeout(patience, events.next()).await else { continue };
        let event = event.context("no more events")?;
        if let Some(id) = Event::read(&event)?.container() {
            waiting.push_first(id);
        }
    }
}

/// Reads the list, and has inspected whatever was not yet or is other than it says.
async fn list(link: &Link, waiting: &mut Waiting) -> Result<()> {
    let place = link.place.borrow().clone();
    let answer = get(&place, LIST, MAX_LIST, TO_LIST).await?.context("it knows no such request")?;
    let listed: HashMap<String, ContainerFacts> = Listed::read(&answer)?.into_iter().map(Listed::facts).collect();
    link.containers.retain(Source::Docker, |id| listed.contains_key(id));
    waiting.inspected.retain(|id| listed.contains_key(id));
    for (id, facts) in listed {
        let told = link.containers.told(Source::Docker, &id);
        if waiting.inspected.contains(&id) && told.as_ref().is_some_and(|told| same_place(told, &facts)) {
            continue;
        }
        if told.is_none() {
            link.containers.update(Source::Docker, &id, facts);
        }
        waiting.push(id);
    }
    Ok(())
}

/// Whether two say the same of the name and the addresses, which is what an event that was missed could have changed.
fn same_place(told: &ContainerFacts, listed: &ContainerFacts) -> bool {
    let places = |facts: &ContainerFacts| -> HashSet<_> {
        facts.networks.iter().map(|network| (network.network.clone(), network.addresses.clone())).collect()
    };
    told.name == listed.name && places(told) == places(listed)
}

async fn inspect(link: &Link, id: &str) -> Result<()> {
    let place = link.place.borrow().clone();
    let path = format!("/containers/{id}/json");
    let Some(answer) = get(&place, &path, MAX_ANSWER, TO_TELL).await? else {
        link.containers.remove(Source::Docker, id);
        return Ok(());
    };
    let container = Inspected::read(&answer)?;
    ensure!(container.id == id, "it was asked for {id} and told of `{:.64}`", container.id);
    match container.has_ended() {
        true => link.containers.remove(Source::Docker, id),
        false => link.containers.update(Source::Docker, id, container.facts()),
    }
    Ok(())
}

/// Containers to be inspected, each once, and those that were.
#[derive(Default)]
struct Waiting {
    order: VecDeque<String>,
    /// of `order`
    members: HashSet<String>,
    /// in this session, of those in the last list and those that events named since
    inspected: HashSet<String>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn pop(&mut self) -> Option<String> {
        let id = self.order.pop_front()?;
        self.members.remove(&id);
        Some(id)
    }

    fn push(&mut self, id: String) {
        if self.order.len() < MAX_CONTAINERS && self.members.insert(id.clone()) {
            self.order.push_back(id);
        }
    }

    /// Before all that wait already: something has just happened to it.
    fn push_first(&mut self, id: String) {
        if self.members.insert(id.clone()) {
            self.order.push_front(id);
        }
        if self.order.len() > MAX_CONTAINERS
            && let Some(last) = self.order.pop_back()
        {
            self.members.remove(&last);
        }
    }
}
