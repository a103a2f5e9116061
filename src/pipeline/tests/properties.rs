//! Whole conversations through a small kernel, on several CPUs, with losses: what comes out is what was said, or is
//! marked; and only what a loss touched is.
//!
//! The one thing that cannot be told: a client that pipelines for the first time inside bytes that were not seen. Until
//! one is seen to pipeline, it is taken to wait for each response; see [`Talk::pipelines_unseen`].

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseResult};

use super::kernel::{Kernel, Socket, Unseen};
use super::*;
use crate::bpf::Flow;
use crate::conn::tests::traffic::{Call, Dice, Kind, Script};
use crate::exchange::Message;

const MAX_BODY: usize = 1000;
const MS: u64 = 1_000_000;

/// One connection: what is said on it, by which calls, and what the kernel makes of that.
#[derive(Clone)]
struct Talk {
    id: u64,
    kinds: Vec<Kind>,
    /// Exchanges whose requests were sent together.
    groups: Vec<Range<usize>>,
    script: Script,
    is_server: bool,
    /// Calls before the agent started.
    missed: usize,
    /// Calls that were made; less than all where the peers were cut short.
    made: usize,
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let of_calls = |call: &Call| format!("{:?} {}..{}", call.flow, call.at, call.at + call.bytes.len());
        f.debug_struct("Talk")
            .field("kinds", &self.kinds)
            .field("groups", &self.groups)
            .field("is_server", &self.is_server)
            .field("missed", &self.missed)
            .field("calls", &self.script.calls[..self.made].iter().map(of_calls).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Talk {
    /// As the watched process sees it.
    fn flow(&self, flow: Flow) -> Flow {
        match (self.is_server, flow) {
            (true, flow) => flow,
            (false, Flow::Sent) => Flow::Received,
            (false, Flow::Received) => Flow::Sent,
        }
    }

    /// Where in its stream the request or the response of an exchange lies.
    fn place(&self, flow: Flow, id: usize) -> Range<usize> {
        let len = |id: usize| match flow {
            Flow::Received => self.kinds[id].request(id).len(),
            Flow::Sent => self.kinds[id].response(id).len(),
        };
        let start = (0..id).map(len).sum();
        start..start + len(id)
    }

    /// Bytes that went by.
    fn moved(&self, flow: Flow) -> usize {
        self.script.calls[..self.made].iter().filter(|call| call.flow == flow).map(|call| call.bytes.len()).sum()
    }

    fn was_made(&self, id: usize) -> bool {
        [Flow::Received, Flow::Sent].iter().all(|&flow| self.place(flow, id).end <= self.moved(flow))
    }

    fn is_touched(&self, id: usize, unseen: &[Unseen]) -> bool {
        unseen.iter().filter(|one| one.connection == self.id).any(|one| {
            let flow = self.flow(one.flow);
            let place = self.place(flow, id);
            let is_end = matches!(self.kinds[id], Kind::UntilClose(_)) && flow == Flow::Sent && one.bytes.is_empty();
            one.bytes.start < place.end && place.start < one.bytes.end || is_end
        })
    }

    /// Joined in the midst of a message of many events, the kernel was told to look only at calls that begin one: bytes of
    /// the first messages may go by before it is told otherwise, and count as lost.
    fn is_doubted(&self, payload: usize) -> bool {
        let starts = |call: &&Call| (0..self.kinds.len()).any(|id| self.place(call.flow, id).start == call.at);
        let calls = self.script.calls[self.missed..].iter().take_while(|call| !starts(call));
        calls.map(|call| call.bytes.len().div_ceil(payload)).sum::<usize>() >= 32
    }

    /// The client pipelines, and did so for the first time where bytes were lost: in the midst of them, or behind them with
    /// requests of which no two share a call. Where two do, it is seen.
    fn pipelines_unseen(&self, unseen: &[Unseen]) -> bool {
        let is_touched = |id: usize| self.is_touched(id, unseen);
        let call = |id: usize| {
            let start = self.place(Flow::Received, id).start;
            self.script.calls.iter().rposition(|call| call.flow == Flow::Received && call.at <= start)
        };
        let first = self.groups.iter().find(|group| group.len() > 1);
        first.is_some_and(|group| {
            let share_a_call = group.clone().skip(1).any(|id| call(id) == call(id - 1));
            group.clone().any(is_touched) || !share_a_call && group.start > 0 && is_touched(group.start - 1)
        })
    }
}

#[derive(Debug, Clone)]
struct Plan {
    talks: Vec<Talk>,
    cpus: usize,
    payload: usize,
    /// One event in so many is lost; 0: none.
    loses: usize,
    /// One call in so many goes past the process's memory; 0: none.
    splices: usize,
    dice: Dice,
    luck: Dice,
}

fn kind() -> impl Strategy<Value = Kind> {
    let len = || prop_oneof![0usize..20, 0usize..2 * MAX_BODY, 0usize..30_000];
    prop_oneof![
        3 => Just(Kind::Get),
        3 => (len(), len()).prop_map(|(up, down)| Kind::Length(up, down)),
        2 => (len(), len()).prop_map(|(up, down)| Kind::Chunked(up, down)),
        1 => Just(Kind::Head),
        1 => Just(Kind::NoContent),
        1 => Just(Kind::NotModified),
        1 => Just(Kind::Interim),
        1 => Just(Kind::Refused),
    ]
}

fn dice() -> impl Strategy<Value = Dice> {
    vec(any::<u16>(), 61).prop_map(|rolls| Dice(rolls, 0))
}

/// `most`: requests that may be sent before the first response.
fn talk(most: usize) -> impl Strategy<Value = Talk> {
    let last = prop_oneof![
        Just(Kind::Get),
        (0usize..3000).prop_map(Kind::UntilClose),
        Just(Kind::Connect),
        Just(Kind::Upgrade)
    ];
    (vec(kind(), 0..8), last, dice(), dice(), any::<bool>()).prop_map(
        move |(mut kinds, last, groups, mut cuts, is_server)| {
            kinds.push(last);
            let groups = Script::groups(&kinds, &mut groups.clone(), most);
            let script = Script::converse_in(&kinds, &groups, &mut cuts);
            let made = script.calls.len();
            Talk { id: 0, kinds, groups, script, is_server, missed: 0, made }
        },
    )
}

fn plan(most: usize) -> impl Strategy<Value = Plan> {
    (vec(talk(most), 1..3), 1usize..4, prop_oneof![Just(32_767), 300usize..3000], dice(), dice()).prop_map(
        |(mut talks, cpus, payload, dice, luck)| {
            for (number, talk) in talks.iter_mut().enumerate() {
                talk.id = (number as u64 + 1) << 10 | 1;
            }
            Plan { talks, cpus, payload, loses: 0, splices: 0, dice, luck }
        },
    )
}

/// Joined midway, at any call.
fn joined(mut plan: Plan) -> Plan {
    for talk in &mut plan.talks {
        talk.missed = plan.dice.roll(talk.script.calls.len() + 1);
    }
    plan
}

/// Some connections end midway.
fn cut_short(mut plan: Plan) -> Plan {
    for talk in &mut plan.talks {
        if plan.dice.roll(2) == 0 {
            talk.made = talk.missed.max(plan.dice.roll(talk.script.calls.len() + 1));
        }
    }
    plan
}

/// What the sinks got of each connection, and which bytes no event carried.
fn play(plan: &Plan) -> (HashMap<u64, Vec<Exchange>>, Vec<Unseen>) {
    let mut dice = plan.dice.clone();
    let kernel = Arc::new(Kernel::new(plan.cpus, plan.payload, plan.loses, plan.luck.clone()));
    let settings = FULL.replace("1MiB", &MAX_BODY.to_string());
    let exchanges = run_with(&settings, 1 << 30, kernel.clone(), plan.cpus, |pipeline| {
        for talk in &plan.talks {
            // The second one's positions come round soon.
            let base = if talk.id >> 10 == 2 { [u32::MAX - 50, u32::MAX - 500] } else { [1, 1] };
            kernel.with(|kernel| kernel.open(Socket::new(talk.id, talk.is_server, base)));
            for call in &talk.script.calls[..talk.missed] {
                kernel.with(|kernel| kernel.before(talk.id, talk.flow(call.flow), call.bytes.len()));
            }
        }
        let mut world = World { pipeline, kernel: &kernel, cpus: plan.cpus, now: 1000 * MS, lost: 0 };
        let mut next: Vec<usize> = plan.talks.iter().map(|talk| talk.missed).collect();
        let mut idle = 0;
        loop {
            let unsaid: Vec<usize> = (0..next.len()).filter(|&at| next[at] < plan.talks[at].made).collect();
            if unsaid.is_empty() {
                break;
            }
            world.now += [1000, MS, 20 * MS, 70 * MS][dice.roll(4)];
            let (cpu, at) = (dice.roll(plan.cpus), unsaid[dice.roll(unsaid.len())]);
            idle = if idle < 4 { idle + 1 } else { 0 };
            match if idle == 0 { 0 } else { dice.roll(10) } {
                0..6 => {
                    let talk = &plan.talks[at];
                    let call = &talk.script.calls[next[at]];
                    next[at] += 1;
                    let observable = plan.splices == 0 || dice.roll(plan.splices) != 0;
                    let (flow, now) = (talk.flow(call.flow), world.now);
                    kernel.with(|kernel| kernel.call(cpu, talk.id, flow, &call.bytes, observable, now));
                }
                6..8 => world.read(cpu, 1 + dice.roll(9)),
                8 => (0..plan.cpus).for_each(|cpu| world.read(cpu, usize::MAX)),
                _ => world.tick(),
            }
        }
        for talk in &plan.talks {
            for flow in [Flow::Sent, Flow::Received] {
                world.now += MS;
                kernel.with(|kernel| kernel.shut(dice.roll(plan.cpus), talk.id, flow, world.now));
            }
            world.now += MS;
            kernel.with(|kernel| kernel.close(dice.roll(plan.cpus), talk.id, world.now));
        }
        // A connection whose end was lost is asked for after half a minute.
        for _ in 0..3 {
            world.now += 40_000 * MS;
            (0..plan.cpus).for_each(|cpu| world.read(cpu, usize::MAX));
            (0..plan.cpus).for_each(|cpu| world.read(cpu, usize::MAX));
            world.tick();
        }
        assert_eq!(pipeline.table.len(), 0, "connections are left");
    });
    let mut by_connection = HashMap::<u64, Vec<Exchange>>::new();
    for exchange in exchanges {
        by_connection.entry(exchange.connection.id).or_default().push(exchange);
    }
    let unseen = kernel.with(|kernel| std::mem::take(&mut kernel.unseen));
    (by_connection, unseen)
}

/// The workers, one for each CPU.
struct World<'a> {
    pipeline: &'a Pipeline,
    kernel: &'a Kernel,
    cpus: usize,
    now: u64,
    lost: u64,
}

impl World<'_> {
    /// A worker takes in so many events, or all there are.
    fn read(&self, cpu: usize, most: usize) {
        self.pipeline.pass(0, self.pipeline.progress.settled(), |pass| {
            let mut left = most;
            loop {
                if left == 0 {
                    break;
                }
                let Some(event) = self.kernel.with(|kernel| kernel.read(cpu)) else {
                    self.pipeline.progress.reached(cpu, self.now);
                    break;
                };
                pass.event(&event);
                left -= 1;
            }
            pass.settle(cpu, self.cpus, self.pipeline.progress.settled());
        });
    }

    fn tick(&mut self) {
        self.pipeline.pass(0, self.pipeline.progress.settled(), |pass| {
            let lost = self.pipeline.control.lost_events();
            for worker in 0..self.cpus {
                self.pipeline.table.tick(worker, self.cpus, self.now, &mut pass.env);
                if lost != self.lost {
                    self.pipeline.table.find_losses(worker, self.cpus, || self.now, &mut pass.env);
                }
            }
            self.lost = lost;
        });
    }
}

fn request_id(request: &Message) -> usize {
    String::from_utf8_lossy(&request.head.target()[1..]).parse().expect("a path is a number")
}

fn response_id(response: &Message) -> usize {
    let value = response.head.header("x-id").expect("every response has an id");
    String::from_utf8_lossy(value).parse().expect("an id is a number")
}

/// All of it is there, and no mark but that of a body longer than what is kept.
fn assert_whole(exchange: &Exchange, id: usize, kind: Kind) -> TestCaseResult {
    let (Some(request), Some(response)) = (&exchange.request, &exchange.response) else {
        return Err(TestCaseError::fail(format!("{id} {kind:?} lacks a side")));
    };
    prop_assert_eq!((request_id(request), response_id(response)), (id, id));
    let mut marks = Vec::new();
    for (message, body, mark) in [
        (request, kind.request_body(id), Missing::RequestBodyTruncated(MAX_BODY as u64)),
        (response, kind.response_body(id), Missing::ResponseBodyTruncated(MAX_BODY as u64)),
    ] {
        prop_assert!(message.body.kept == body[..body.len().min(MAX_BODY)], "{} {:?}: another body", id, kind);
        prop_assert_eq!(message.body.wire_bytes, body.len() as u64, "{} {:?}", id, kind);
        marks.extend((body.len() > MAX_BODY).then_some(mark));
    }
    prop_assert_eq!(&exchange.missing, &marks, "{} {:?}", id, kind);
    prop_assert_eq!(response.trailers.is_some(), matches!(kind, Kind::Chunked(..)));
    prop_assert!(request.first_byte <= request.last_byte && request.first_byte < response.first_byte);
    prop_assert!(response.first_byte <= response.last_byte);
    Ok(())
}

/// What is said of a body holds, as far as no mark takes it back.
fn assert_body_holds(message: &Message, body: &[u8], exchange: &Exchange, is_request: bool) -> TestCaseResult {
    let is_marked = exchange.missing.iter().any(|missing| match missing {
        Missing::RequestAborted
        | Missing::RequestBodyLost(_)
        | Missing::RequestBodyNotObservable(_)
        | Missing::RequestMalformed => is_request,
        Missing::ResponseAborted
        | Missing::ResponseBodyLost(_)
        | Missing::ResponseBodyNotObservable(_)
        | Missing::ResponseMalformed
        | Missing::Request
        | Missing::PairingUncertain => !is_request,
        _ => false,
    });
    if !is_marked {
        let kept = &body[..body.len().min(MAX_BODY)];
        prop_assert_eq!(message.body.wire_bytes, body.len() as u64, "size: {:?}", exchange.missing);
        prop_assert!(message.body.kept == kept, "another body: {:?}", exchange.missing);
    }
    Ok(())
}

/// Nothing is wrong without a mark, and nothing there twice.
fn assert_never_wrong(exchanges: &[Exchange], talk: &Talk, unseen: &[Unseen]) -> TestCaseResult {
    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    let blind = talk.pipelines_unseen(unseen);
    for exchange in exchanges {
        let request = exchange.request.as_ref().map(request_id);
        let response = exchange.response.as_ref().map(response_id);
        requests.extend(request);
        responses.extend(response);
        prop_assert!(request.is_some() || exchange.missing.contains(&Missing::Request));
        prop_assert!(response.is_some() || exchange.missing.contains(&Missing::Response));
        let is_uncertain = exchange.missing.contains(&Missing::PairingUncertain);
        if let (Some(request), Some(response)) = (request, response) {
            prop_assert!(
                request == response || is_uncertain || blind,
                "{} with {}: {:?}",
                request,
                response,
                exchange.missing
            );
        }
        if let (Some(message), Some(id)) = (&exchange.request, request) {
            assert_body_holds(message, &talk.kinds[id].request_body(id), exchange, true)?;
        }
        if let (Some(message), Some(id), false) = (&exchange.response, response, blind) {
            assert_body_holds(message, &talk.kinds[id].response_body(id), exchange, false)?;
        }
    }
    for ids in [&mut requests, &mut responses] {
        ids.sort_unstable();
        prop_assert!(ids.windows(2).all(|two| two[0] != two[1]), "twice: {:?}", ids);
    }
    Ok(())
}

/// Exchanges that no loss came near are there and whole. `reach`: how many behind one that was touched may be marked.
fn assert_far_ones_whole(exchanges: &[Exchange], talk: &Talk, unseen: &[Unseen], reach: usize) -> TestCaseResult {
    let mut since = usize::MAX;
    for (id, &kind) in talk.kinds.iter().enumerate() {
        since = if talk.is_touched(id, unseen) || !talk.was_made(id) { 0 } else { since.saturating_add(1) };
        if since <= reach {
            continue;
        }
        let found = exchanges.iter().find(|one| one.request.as_ref().map(request_id) == Some(id));
        prop_assert!(found.is_some(), "{} {:?} is not there", id, kind);
        assert_whole(found.unwrap(), id, kind)?;
    }
    Ok(())
}

fn cases() -> ProptestConfig {
    let asked = std::env::var("CASES").ok().map(|n| n.parse().unwrap());
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    ProptestConfig { cases: asked.unwrap_or(60), rng_seed, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

/// Plays the plan and checks each of its connections; says what came of one where the check fails.
fn check(plan: &Plan, check: impl Fn(&[Exchange], &Talk, &[Unseen]) -> TestCaseResult) -> TestCaseResult {
    let (exchanges, unseen) = play(plan);
    for talk in &plan.talks {
        let of_it = exchanges.get(&talk.id).map_or(&[][..], Vec::as_slice);
        check(of_it, talk, &unseen).map_err(|error| {
            let line = |one: &Exchange| {
                let (request, response) =
                    (one.request.as_ref().map(request_id), one.response.as_ref().map(response_id));
                format!("request {request:?}, response {response:?}, {:?}\n", one.missing)
            };
            let lines: String = of_it.iter().map(line).collect();
            TestCaseError::fail(format!("connection {}: {error}\n{lines}{unseen:?}", talk.id))
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn what_was_said_is_what_comes_out(plan in plan(5)) {
        check(&plan, |exchanges, talk, unseen| {
            prop_assert_eq!(unseen, []);
            prop_assert_eq!(exchanges.len(), talk.kinds.len());
            let mut both = exchanges.iter().zip(&talk.kinds).enumerate();
            both.try_for_each(|(id, (exchange, &kind))| assert_whole(exchange, id, kind))
        })?;
    }

    #[test]
    fn what_was_cut_short_says_so(plan in plan(5).prop_map(cut_short)) {
        check(&plan, |exchanges, talk, _| {
            for exchange in exchanges {
                let Some(id) = exchange.request.as_ref().map(request_id) else {
                    return Err(TestCaseError::fail("a request is missing"));
                };
                if talk.was_made(id) {
                    assert_whole(exchange, id, talk.kinds[id])?;
                } else if !matches!(talk.kinds[id], Kind::UntilClose(_)) {
                    prop_assert!(!exchange.missing.is_empty(), "{} {:?}", id, talk.kinds[id]);
                }
            }
            let whole = (0..talk.kinds.len()).filter(|&id| talk.was_made(id)).count();
            prop_assert!(exchanges.len() >= whole);
            Ok(())
        })?;
    }

    #[test]
    fn losses_cost_what_they_touch(
        mut plan in plan(1), loses in 3usize..60, splices in prop_oneof![Just(0), 3usize..20]
    ) {
        (plan.loses, plan.splices) = (loses, splices);
        check(&plan, |exchanges, talk, unseen| {
            assert_never_wrong(exchanges, talk, unseen)?;
            assert_far_ones_whole(exchanges, talk, unseen, 1)
        })?;
    }

    #[test]
    fn losses_of_a_client_that_pipelines_are_marked(
        mut plan in plan(5), loses in 3usize..60, splices in prop_oneof![Just(0), 3usize..20]
    ) {
        (plan.loses, plan.splices) = (loses, splices);
        check(&plan, assert_never_wrong)?;
    }

    #[test]
    fn a_connection_joined_midway_is_right_or_marked(plan in plan(1).prop_map(joined)) {
        check(&plan, |exchanges, talk, unseen| {
            assert_never_wrong(exchanges, talk, unseen)?;
            if talk.is_doubted(plan.payload) { Ok(()) } else { assert_far_ones_whole(exchanges, talk, unseen, 1) }
        })?;
    }

    #[test]
    fn all_at_once_is_right_or_marked(
        plan in plan(4).prop_map(joined).prop_map(cut_short), loses in 2usize..40, splices in 0usize..20
    ) {
        check(&Plan { loses, splices, ..plan }, |exchanges, talk, unseen| match talk.made == talk.script.calls.len() {
            true => assert_never_wrong(exchanges, talk, unseen),
            false => Ok(()),
        })?;
    }
}
