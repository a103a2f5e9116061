//! Plugins: what is done with an exchange. They decide what is kept of it and hand records to the sinks.
//!
//! A plugin sees exchanges, never bytes or sockets, and runs on a worker's path: it must not wait for anything.
//!
//! # How to add a plugin
//!
//! 1. Add a file with a function that turns an [`Exchange`] into [`Record`]s, and one that says how much of the bodies
//!    it may still want, as [`http_capture`] has them.
//! 2. Give `config`'s `Stack` a list of its settings, and check them where the others are checked.
//! 3. Call both functions below.
//!
//! `access_logs` and `detect_errors` are [`http_capture`] with other keys and defaults.

pub mod http_capture;
pub mod http_metrics;
pub mod lot;
pub mod report_usage;

use crate::config::{Stack, Tags};
use crate::exchange::pairing::Wanted;
use crate::exchange::{Connection, Exchange, Missing, Record};
use crate::proto::Head;
use crate::stats::Stats;

/// What any plugin of the stack may still want, given the heads seen so far.
pub fn wanted(
    stack: &Stack,
    tags: &Tags,
    connection: &Connection,
    request: Option<&Head>,
    response: Option<&Head>,
) -> Wanted {
    let others = Wanted { body: 0, record: stack.metrics.is_some() || !stack.usage.is_empty() };
    stack.capture.iter().fold(others, |before, capture| {
        let more = http_capture::wanted(capture, tags, connection, request, response);
        Wanted { body: before.body.max(more.body), record: before.record || more.record }
    })
}

/// What the stack's plugins make of a finished exchange.
pub fn finish(stack: &Stack, tags: &Tags, stats: &Stats, exchange: Box<Exchange>, records: &mut Vec<Record>) {
    // What goes on is finished later, and counts once.
    if !exchange.missing.contains(&Missing::StillOpen) {
        if let Some(metrics) = &stack.metrics {
            stats.http.add(metrics, &exchange);
        }
        records.extend(stack.usage.iter().filter_map(|usage| report_usage::record(usage, tags, &exchange)));
    }
    let Some((last, others)) = stack.capture.split_last() else { return };
    for capture in others {
        records.extend(http_capture::record(capture, tags, exchange.clone()));
    }
    records.extend(http_capture::record(last, tags, exchange));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::sample::ingress;

    fn stack_of(plugin: &str) -> Stack {
        let text = format!("version: 2\nstacks: {{s: {{plugins: [{plugin}]}}}}\ntap: {{http: {{stack: s}}}}\n");
        let settings = crate::config::parse("test", text.as_bytes()).expect("a good configuration");
        settings.stack_for("").expect("a stack").clone()
    }

    /// What is wanted once the request is known, and once the response is; and whether a record comes of it.
    fn told(plugin: &str, response: &str) -> (bool, bool, bool) {
        let (stack, tags, stats) = (stack_of(plugin), Tags::default(), Stats::default());
        let exchange = ingress().request("GET /api/users HTTP/1.1\n", "").response(response, "");
        let heads =
            [&exchange.request, &exchange.response].map(|message| message.as_ref().map(|message| &message.head));
        let wanted = |response| wanted(&stack, &tags, &exchange.connection, heads[0], response).record;
        let (early, late) = (wanted(None), wanted(heads[1]));
        let mut records = Vec::new();
        finish(&stack, &tags, &stats, Box::new(exchange.clone()), &mut records);
        (early, late, !records.is_empty())
    }

    #[test]
    fn what_no_rule_can_want_any_more_is_known_before_its_end() {
        let capture = |config: &str| format!("{{type: http_capture, config: {{{config}}}}}");
        let errors = capture("level: none, rules: [{name: e, expr: http.res.status >= 500, level: full}]");
        let slow = capture("level: none, rules: [{name: s, expr: http.res.duration_ms > 1e9, level: full}]");
        let path = capture("level: none, rules: [{name: p, expr: http.req.path == '/other', level: full}]");
        let usage = "{type: report_usage, config: {}}";
        for (plugins, response, expected) in [
            (errors.as_str(), "HTTP/1.1 200 OK\n", (true, false, false)),
            (&errors, "HTTP/1.1 503 Service Unavailable\n", (true, true, true)),
            (&slow, "HTTP/1.1 200 OK\n", (true, true, false)),
            (&path, "HTTP/1.1 200 OK\n", (false, false, false)),
            (&capture("level: summary"), "HTTP/1.1 200 OK\n", (true, true, true)),
            (usage, "HTTP/1.1 200 OK\n", (true, true, true)),
            (&format!("{errors}, {usage}"), "HTTP/1.1 200 OK\n", (true, true, true)),
            (&format!("{path}, {errors}"), "HTTP/1.1 200 OK\n", (true, false, false)),
        ] {
            assert_eq!(told(plugins, response), expected, "{plugins} {response}");
        }
    }
}
