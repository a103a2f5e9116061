//! The containers of this machine: what its runtimes say of them, by id.
//!
//! Keeps one [`Container`] an id, which who holds it sees learn and change. Several runtimes may know one container
//! (containerd runs it, CRI knows its pod): what they say is merged. A container that ended keeps its facts for a
//! while, for its last transactions are still to be named. Nothing that is told here is trusted: names, labels and
//! numbers are cut to the bounds below. No runtime is asked here; `runtime` does that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::exchange::{Attachment, Container, ContainerFacts, Pod, Shares};

/// How long a container's facts are kept after it ended.
pub const KEPT_AFTER_THE_END: Duration = Duration::from_secs(30);

/// Containers of one runtime.
pub const MAX_CONTAINERS: usize = 10_000;
/// Labels or annotations of one container or pod.
pub const MAX_LABELS: usize = 256;
/// Bytes of all labels or annotations of one container or pod.
const MAX_LABEL_BYTES: usize = 64 << 10;
/// Bytes of a name, an image or an id.
const MAX_NAME: usize = 256;
/// Networks of one container; addresses and names in each.
pub const MAX_NETWORKS: usize = 64;

/// Containers that are known at once, with those that ended.
const MAX_KNOWN: usize = 2 * MAX_CONTAINERS;
/// Bytes of all facts together. What is told past that is kept without its labels.
const MAX_BYTES: usize = 64 << 20;
/// Containers that were asked for and of which no runtime said anything.
const MAX_ASKED: usize = 65_536;

/// Who says something of a container. Where two say something, the first of these is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Docker,
    Cri,
    Containerd,
}

const SOURCES: usize = 3;

#[derive(Default)]
pub struct Containers {
    state: Mutex<State>,
    generation: AtomicU64,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// id → what was told of it, from the first word of a runtime until a while after its last
    told: HashMap<String, Told>,
    /// id → the container, as long as somebody holds it and no runtime said anything
    asked: HashMap<String, Weak<Container>>,
    /// insertions into `asked` until those that nobody holds are removed
    until_sweep: usize,
    /// of the facts in `told`
    bytes: usize,
}

struct Told {
    container: Arc<Container>,
    /// By source.
    words: [Option<Word>; SOURCES],
}

struct Word {
    facts: Arc<ContainerFacts>,
    bytes: usize,
    /// When the source said that it is no more.
    ended: Option<Instant>,
}

impl Containers {
    pub fn new() -> Containers {
        Containers::default()
    }

    /// Has `call` called after every change, by the thread that made it: it must not block. Only the first call counts.
    pub fn when_changed(&self, call: impl Fn() + Send + Sync + 'static) {
        // A second one is a mistake that costs nothing: it is not called.
        let _ = self.changed.set(Box::new(call));
    }

    /// Grows with every change of what is known.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The container of that id: the same for the same id as long as anybody holds it.
    pub fn get(&self, id: &str) -> Arc<Container> {
        let state = &mut *self.lock();
        match state.told.get(id) {
            Some(told) => told.container.clone(),
            None => state.ask(id),
        }
    }

    /// All that a runtime knows: those that run first, then those that ended a short while ago. Where two of them have
    /// an address, the first has it now.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let state = self.lock();
        let (ended, running): (Vec<&Told>, Vec<&Told>) = state.told.values().partition(|told| told.has_ended());
        running.into_iter().chain(ended).map(|told| told.container.clone()).collect()
    }

    /// How many a runtime has told of.
    pub fn len(&self) -> usize {
        self.lock().told.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What `source` said of a container that has not ended.
    pub fn told(&self, source: Source, id: &str) -> Option<Arc<ContainerFacts>> {
        let state = self.lock();
        let word = state.told.get(id)?.words[source as usize].as_ref()?;
        word.ended.is_none().then(|| word.facts.clone())
    }

    /// `source` knows this of the container now.
    pub fn update(&self, source: Source, id: &str, facts: ContainerFacts) {
        let changed = self.lock().update(source, id, facts);
        self.note(changed);
    }

    /// `source` says that the container is no more. Its facts stay for [`KEPT_AFTER_THE_END`].
    pub fn remove(&self, source: Source, id: &str) {
        let changed = self.lock().remove(source, id, Instant::now());
        self.note(changed);
    }

    /// `source` knows of no containers but those for which `is_there`.
    pub fn retain(&self, source: Source, is_there: impl Fn(&str) -> bool) {
        let changed = self.lock().retain(source, is_there, Instant::now());
        self.note(changed);
    }

    /// `source` knows these containers and no others.
    pub fn replace_all(&self, source: Source, all: Vec<(String, ContainerFacts)>) {
        let mut state = self.lock();
        let ids: HashSet<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
        let mut changed = state.retain(source, |id| ids.contains(id), Instant::now());
        for (id, facts) in all {
            changed |= state.update(source, &id, facts);
        }
        drop(state);
        self.note(changed);
    }

    /// Lets go of what ended [`KEPT_AFTER_THE_END`] before `now`. To be called every few seconds.
    pub fn expire(&self, now: Instant) {
        let changed = self.lock().expire(|ended| now.saturating_duration_since(ended) >= KEPT_AFTER_THE_END);
        self.note(changed);
    }

    fn note(&self, changed: bool) {
        if !changed {
            return;
        }
        self.generation.fetch_add(1, Ordering::Release);
        if let Some(call) = self.changed.get() {
            call();
        }
    }

    /// A thread that panicked with the lock left maps that are whole, for each change is one insertion or removal.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ask(&mut self, id: &str) -> Arc<Container> {
        if let Some(container) = self.asked.get(id).and_then(Weak::upgrade) {
            return container;
        }
        let container = Arc::new(Container::new(id.to_owned()));
        self.remember(&container);
        container
    }

    /// Remembers the container while somebody holds it. Past the bound, ids are not remembered at all: the next who
    /// asks gets a container of his own, which never learns anything.
    fn remember(&mut self, container: &Arc<Container>) {
        if self.until_sweep == 0 {
            self.asked.retain(|_, container| container.strong_count() > 0);
            // As many insertions as are left: so a sweep costs each of them a constant.
            self.until_sweep = self.asked.len().max(64);
        }
        self.until_sweep -= 1;
        if self.asked.len() < MAX_ASKED {
            self.asked.insert(container.id.clone(), Arc::downgrade(container));
        }
    }

    /// Whether that changed anything.
    fn update(&mut self, source: Source, id: &str, facts: ContainerFacts) -> bool {
        if id.is_empty() || id.len() > MAX_NAME {
            return false;
        }
        if !self.told.contains_key(id) && !self.make_place() {
            return false;
        }
        let mut facts = bounded(facts);
        let before = self.told.get(id).and_then(|told| told.words[source as usize].as_ref());
        let bytes_before = before.map_or(0, |word| word.bytes);
        let mut bytes = bytes_of(&facts);
        if self.bytes - bytes_before + bytes > MAX_BYTES {
            without_labels(&mut facts);
            bytes = bytes_of(&facts);
        }
        if before.is_some_and(|word| word.ended.is_none() && *word.facts == facts) {
            return false;
        }
        self.bytes = self.bytes - bytes_before + bytes;
        let container = match self.told.get(id) {
            Some(told) => told.container.clone(),
            None => self.ask(id),
        };
        self.asked.remove(id);
        let told = self.told.entry(id.to_owned()).or_insert_with(|| Told { container, words: Default::default() });
        told.words[source as usize] = Some(Word { facts: Arc::new(facts), bytes, ended: None });
        told.teach();
        true
    }

    /// Whether one more container can be told of; those that ended go first.
    fn make_place(&mut self) -> bool {
        if self.told.len() >= MAX_KNOWN {
            self.expire(|_| true);
        }
        self.told.len() < MAX_KNOWN
    }

    fn retain(&mut self, source: Source, is_there: impl Fn(&str) -> bool, now: Instant) -> bool {
        let gone = self.told.iter_mut().filter(|(id, _)| !is_there(id));
        gone.fold(false, |changed, (_, told)| told.end(source, now) || changed)
    }

    fn remove(&mut self, source: Source, id: &str, now: Instant) -> bool {
        self.told.get_mut(id).is_some_and(|told| told.end(source, now))
    }

    fn expire(&mut self, is_over: impl Fn(Instant) -> bool) -> bool {
        let mut gone = Vec::new();
        for (id, told) in &mut self.told {
            for word in &mut told.words {
                let Some(over) = word.take_if(|word| word.ended.is_some_and(&is_over)) else { continue };
                self.bytes -= over.bytes;
                gone.push(id.clone());
            }
        }
        for id in &gone {
            let Some(told) = self.told.get(id) else { continue };
            if told.words.iter().any(Option::is_some) {
                told.teach();
            } else if let Some(told) = self.told.remove(id) {
                // Who holds it still keeps what it was called; should it start again, it is the same.
                self.remember(&told.container);
            }
        }
        !gone.is_empty()
    }
}

impl Told {
    fn has_ended(&self) -> bool {
        self.words.iter().flatten().all(|word| word.ended.is_some())
    }

    /// Whether `source` had it running until now.
    fn end(&mut self, source: Source, now: Instant) -> bool {
        let word = self.words[source as usize].as_mut().filter(|word| word.ended.is_none());
        word.map(|word| word.ended = Some(now)).is_some()
    }

    fn teach(&self) {
        let words = self.words.iter().flatten().map(|word| word.facts.clone());
        self.container.learn(words.reduce(|first, second| Arc::new(merged(&first, &second))));
    }
}

/// What two runtimes say of one container: the first is right where both speak.
fn merged(first: &ContainerFacts, second: &ContainerFacts) -> ContainerFacts {
    // kubernetes asks CRI for an image by its digest; containerd has its name.
    let is_image = |image: &str| !image.is_empty() && !image.starts_with("sha256:");
    let image = if is_image(&first.image) || !is_image(&second.image) { &first.image } else { &second.image };
    let mut labels = second.labels.clone();
    labels.extend(first.labels.clone());
    let pod = match (&first.pod, &second.pod) {
        (Some(first), Some(second)) if has_less(first, second) => Some(second),
        (first, second) => first.as_ref().or(second.as_ref()),
    };
    ContainerFacts {
        name: if first.name.is_empty() { &second.name } else { &first.name }.clone(),
        image: image.clone(),
        labels,
        networks: if first.networks.is_empty() { &second.networks } else { &first.networks }.clone(),
        shares: first.shares.as_ref().or(second.shares.as_ref()).cloned(),
        pod: pod.cloned(),
    }
}

/// A pod known from a container's labels has a name only; the one from CRI has all.
fn has_less(pod: &Pod, other: &Pod) -> bool {
    pod.labels.is_empty() && pod.addresses.is_empty() && !(other.labels.is_empty() && other.addresses.is_empty())
}

fn bounded(facts: ContainerFacts) -> ContainerFacts {
    ContainerFacts {
        name: cut(facts.name),
        image: cut(facts.image),
        labels: bounded_labels(facts.labels),
        networks: facts.networks.into_iter().take(MAX_NETWORKS).map(bounded_attachment).collect(),
        shares: facts.shares.map(|shares| match shares {
            Shares::Machine => Shares::Machine,
            Shares::Container(id) => Shares::Container(cut(id)),
        }),
        pod: facts.pod.map(|pod| if pod_fits(&pod) { pod } else { Arc::new(bounded_pod(&pod)) }),
    }
}

fn bounded_attachment(attachment: Attachment) -> Attachment {
    Attachment {
        network: cut(attachment.network),
        addresses: attachment.addresses.into_iter().take(MAX_NETWORKS).collect(),
        names: attachment.names.into_iter().take(MAX_NETWORKS).map(cut).collect(),
    }
}

fn bounded_pod(pod: &Pod) -> Pod {
    Pod {
        name: cut(pod.name.clone()),
        namespace: cut(pod.namespace.clone()),
        labels: bounded_labels(pod.labels.clone()),
        annotations: bounded_labels(pod.annotations.clone()),
        addresses: pod.addresses.iter().take(MAX_NETWORKS).copied().collect(),
    }
}

/// Containers of one pod share it, so it is made anew only where it must be.
fn pod_fits(pod: &Pod) -> bool {
    pod.name.len() <= MAX_NAME
        && pod.namespace.len() <= MAX_NAME
        && labels_fit(&pod.labels)
        && labels_fit(&pod.annotations)
        && pod.addresses.len() <= MAX_NETWORKS
}

fn labels_fit(labels: &BTreeMap<String, String>) -> bool {
    labels.len() <= MAX_LABELS && label_bytes(labels) <= MAX_LABEL_BYTES
}

fn label_bytes(labels: &BTreeMap<String, String>) -> usize {
    labels.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// Labels as far as there is room; one that is too large is left out whole, for half of it would be a lie.
fn bounded_labels(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut room = MAX_LABEL_BYTES;
    let fitting = labels.into_iter().filter(|(key, value)| {
        let fits = key.len() + value.len() <= room;
        room -= if fits { key.len() + value.len() } else { 0 };
        fits
    });
    fitting.take(MAX_LABELS).collect()
}

fn cut(mut name: String) -> String {
    let end = (0..=MAX_NAME).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    if end < name.len() {
        name.truncate(end);
    }
    name
}

fn without_labels(facts: &mut ContainerFacts) {
    facts.labels.clear();
    if let Some(pod) = &mut facts.pod {
        let pod = Arc::make_mut(pod);
        pod.labels.clear();
        pod.annotations.clear();
    }
}

/// About what the facts take in memory, in bytes. A pod counts for each of its containers.
fn bytes_of(facts: &ContainerFacts) -> usize {
    const ENTRY: usize = 64;
    let labels = |labels: &BTreeMap<String, String>| label_bytes(labels) + labels.len() * ENTRY;
    let network = |network: &Attachment| {
        let names: usize = network.names.iter().map(|name| name.len() + ENTRY).sum();
        network.network.len() + names + (network.addresses.len() + 1) * ENTRY
    };
    let pod = |pod: &Pod| pod.name.len() + pod.namespace.len() + labels(&pod.labels) + labels(&pod.annotations) + ENTRY;
    facts.name.len()
        + facts.image.len()
        + labels(&facts.labels)
        + facts.networks.iter().map(network).sum::<usize>()
        + facts.pod.as_deref().map_or(0, pod)
        + ENTRY
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn named(name: &str) -> ContainerFacts {
        ContainerFacts { name: name.to_owned(), ..ContainerFacts::default() }
    }

    fn labelled(count: usize, bytes: usize) -> BTreeMap<String, String> {
        (0..count).map(|number| (format!("label-{number:05}"), "x".repeat(bytes))).collect()
    }

    fn name_of(containers: &Containers, id: &str) -> Option<String> {
        containers.get(id).facts().map(|facts| facts.name.clone())
    }

    fn names(containers: &Containers) -> Vec<String> {
        containers.all().iter().filter_map(|container| Some(container.facts()?.name.clone())).collect()
    }

    fn after(time: Duration) -> Instant {
        Instant::now() + time
    }

    #[test]
    fn who_asked_first_learns_later() {
        let containers = Containers::new();
        let early = containers.get("a");
        assert!(early.facts().is_none());
        containers.update(Source::Docker, "a", named("web"));
        assert_eq!(early.facts().unwrap().name, "web");
        assert!(Arc::ptr_eq(&early, &containers.get("a")));
        containers.update(Source::Docker, "a", named("renamed"));
        assert_eq!(early.facts().unwrap().name, "renamed");
    }

    #[test]
    fn a_container_that_ended_keeps_its_name_for_a_while() {
        let containers = Containers::new();
        containers.update(Source::Docker, "a", named("web"));
        containers.update(Source::Docker, "b", named("db"));
        containers.remove(Source::Docker, "a");
        assert_eq!(names(&containers), ["db", "web"], "those that ended come last");
        containers.expire(after(KEPT_AFTER_THE_END - Duration::from_secs(1)));
        assert_eq!(name_of(&containers, "a").as_deref(), Some("web"));
        containers.expire(after(KEPT_AFTER_THE_END));
        assert_eq!(name_of(&containers, "a"), None);
        assert_eq!(names(&containers), ["db"]);
    }

    #[test]
    fn a_container_that_starts_again_is_the_same() {
        let containers = Containers::new();
        containers.update(Source::Docker, "a", named("web"));
        let held = containers.get("a");
        containers.remove(Source::Docker, "a");
        containers.update(Source::Docker, "a", named("web"));
        containers.expire(after(KEPT_AFTER_THE_END));
        assert_eq!(names(&containers), ["web"], "it did not end after all");

        containers.remove(Source::Docker, "a");
        containers.expire(after(KEPT_AFTER_THE_END));
        assert_eq!(held.facts().unwrap().name, "web", "who holds it still knows what it was");
        containers.update(Source::Docker, "a", named("web-2"));
        assert_eq!(held.facts().unwrap().name, "web-2");
        assert!(Arc::ptr_eq(&held, &containers.get("a")));
    }

    #[test]
    fn a_new_list_ends_what_is_not_in_it() {
        let containers = Containers::new();
        containers.replace_all(Source::Docker, vec![("a".into(), named("a")), ("b".into(), named("b"))]);
        containers.update(Source::Containerd, "c", named("c"));
        containers.replace_all(Source::Docker, vec![("b".into(), named("b"))]);
        containers.expire(after(KEPT_AFTER_THE_END));
        let mut left = names(&containers);
        left.sort();
        assert_eq!(left, ["b", "c"], "and what another runtime knows stays");
    }

    #[test]
    fn what_several_runtimes_say_is_one() {
        let containers = Containers::new();
        let labels =
            |text: &str| BTreeMap::from([("both".to_owned(), text.to_owned()), (text.to_owned(), String::new())]);
        let pod = Pod { name: "web-0".into(), labels: labels("pod"), ..Pod::default() };
        let from_labels = Pod { name: "web-0".into(), ..Pod::default() };
        containers.update(
            Source::Containerd,
            "a",
            ContainerFacts {
                image: "docker.io/library/nginx:1".into(),
                labels: labels("containerd"),
                pod: Some(Arc::new(from_labels)),
                ..named("other")
            },
        );
        containers.update(
            Source::Cri,
            "a",
            ContainerFacts {
                image: "sha256:0123".into(),
                labels: labels("cri"),
                pod: Some(Arc::new(pod.clone())),
                ..named("nginx")
            },
        );
        let facts = containers.get("a").facts().unwrap();
        assert_eq!(facts.name, "nginx");
        assert_eq!(facts.image, "docker.io/library/nginx:1");
        assert_eq!(facts.labels["both"], "cri");
        assert!(facts.labels.contains_key("cri") && facts.labels.contains_key("containerd"));
        assert_eq!(facts.pod.as_deref(), Some(&pod));

        containers.remove(Source::Cri, "a");
        assert!(containers.get("a").facts().unwrap().pod.is_some(), "what one lets go of stays for a while");
        containers.expire(after(KEPT_AFTER_THE_END));
        assert_eq!(containers.get("a").facts().unwrap().name, "other");
    }

    #[test]
    fn only_what_changes_is_a_change() {
        let containers = Containers::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        containers.when_changed(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut seen = containers.generation();
        let mut changed = |containers: &Containers| std::mem::replace(&mut seen, containers.generation()) != seen;
        containers.update(Source::Docker, "a", named("web"));
        assert!(changed(&containers));
        containers.update(Source::Docker, "a", named("web"));
        containers.replace_all(Source::Docker, vec![("a".into(), named("web"))]);
        containers.remove(Source::Docker, "unknown");
        containers.expire(Instant::now());
        assert!(!changed(&containers));
        containers.remove(Source::Docker, "a");
        assert!(changed(&containers));
        containers.remove(Source::Docker, "a");
        assert!(!changed(&containers));
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_told_is_cut_to_its_bounds() {
        let containers = Containers::new();
        let mut labels = labelled(1000, 10);
        labels.insert("a-huge-one".into(), "x".repeat(1 << 20));
        let attachment = Attachment {
            network: "n".repeat(1000),
            addresses: vec!["10.0.0.1".parse().unwrap(); 100],
            names: vec!["é".repeat(1000); 100],
        };
        let pod = Pod { annotations: labelled(10, 60_000), ..Pod::default() };
        let facts = ContainerFacts {
            name: "é".repeat(1000),
            image: "i".repeat(1 << 20),
            labels,
            networks: vec![attachment; 100],
            shares: Some(Shares::Container("c".repeat(1000))),
            pod: Some(Arc::new(pod)),
        };
        containers.update(Source::Docker, "a", facts);
        let facts = containers.get("a").facts().unwrap();
        assert_eq!(facts.name, "é".repeat(128));
        assert_eq!(facts.image.len(), MAX_NAME);
        assert_eq!(facts.labels.len(), MAX_LABELS);
        assert!(!facts.labels.contains_key("a-huge-one"));
        assert_eq!(facts.networks.len(), MAX_NETWORKS);
        assert_eq!((facts.networks[0].addresses.len(), facts.networks[0].names.len()), (MAX_NETWORKS, MAX_NETWORKS));
        assert_eq!(facts.pod.as_ref().unwrap().annotations.len(), 1);
        containers.update(Source::Docker, &"i".repeat(1000), named("no id"));
        assert_eq!(containers.all().len(), 1);
    }

    #[test]
    fn what_does_not_end_does_not_grow() {
        let containers = Containers::new();
        for number in 0..MAX_KNOWN + 100 {
            containers.update(Source::Docker, &format!("{number}"), named("x"));
        }
        assert_eq!(containers.all().len(), MAX_KNOWN);
        containers.retain(Source::Docker, |id| id == "7");
        containers.update(Source::Docker, "new", named("new"));
        let mut left = names(&containers);
        left.sort();
        assert_eq!(left, ["new", "x"], "those that ended make place");
    }

    #[test]
    fn labels_are_given_up_before_names() {
        let containers = Containers::new();
        for number in 0..2000 {
            let facts = ContainerFacts { labels: labelled(200, 300), ..named("x") };
            containers.update(Source::Docker, &format!("{number}"), facts);
        }
        assert!(containers.lock().bytes <= MAX_BYTES + 2000 * 100);
        let labels = containers.all().iter().filter(|container| !container.facts().unwrap().labels.is_empty()).count();
        assert!((500..1500).contains(&labels), "{labels} keep theirs");
        assert_eq!(names(&containers).len(), 2000);
        containers.retain(Source::Docker, |_| false);
        containers.expire(after(KEPT_AFTER_THE_END));
        assert_eq!(containers.lock().bytes, 0);
    }

    #[test]
    fn who_is_no_longer_held_is_forgotten() {
        let containers = Containers::new();
        for number in 0..3 * MAX_ASKED {
            containers.get(&format!("{number}"));
        }
        assert!(containers.lock().asked.len() <= 128);
        let held: Vec<_> = (0..MAX_ASKED + 10).map(|number| containers.get(&format!("{number}"))).collect();
        assert!(containers.lock().asked.len() <= MAX_ASKED);
        assert!(Arc::ptr_eq(&held[5], &containers.get("5")));
    }
}
