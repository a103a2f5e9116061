//! What was recorded of a load, both sides of each request, and how it is held against nginx's log.

use std::collections::HashMap;

use super::captured::Transaction;
use super::nginx::Accessed;
use super::sidetap::Sidetap;

/// What was recorded of one request, by direction.
#[derive(Default)]
pub struct Sides {
    pub ingress: Vec<Transaction>,
    pub egress: Vec<Transaction>,
}

/// By request id.
pub type Recorded = HashMap<String, Sides>;

/// All that the agent wrote of this process; nothing may have been lost.
pub fn recorded(sidetap: Sidetap, pid: u32) -> Recorded {
    recorded_each(sidetap, pid, |_| {})
}

/// The same; `look` is shown each transaction first.
pub fn recorded_each(sidetap: Sidetap, pid: u32, mut look: impl FnMut(&Transaction)) -> Recorded {
    let pid = pid.to_string();
    let mut recorded = Recorded::new();
    let counters = sidetap.stop_each(|line| {
        let transaction = Transaction(serde_json::from_str(line).expect("stdout is JSON lines"));
        if transaction.0["type"] != "http_transaction" || transaction.pid() != pid {
            return;
        }
        look(&transaction);
        let id = transaction.header("response", "x-request-id").or(transaction.header("request", "x-request-id"));
        let sides = recorded.entry(id.unwrap_or_default().to_owned()).or_default();
        let side = if transaction.is_ingress() { &mut sides.ingress } else { &mut sides.egress };
        side.push(transaction);
    });
    assert_eq!(counters.get("lost"), Some(&0), "counters at the end: {counters:?}");
    recorded
}

/// Whether the record is whole and is what nginx logged, which repeats the path in what it answers.
pub fn is_as_logged(transaction: &Transaction, logged: &Accessed) -> bool {
    let (status, body) = match logged.path.starts_with("/none/") {
        true => (404, format!("no {}\n", logged.path)),
        false => (200, format!("hello from nginx to {}\n", logged.path)),
    };
    transaction.incomplete().is_empty()
        && transaction.path() == logged.path
        && transaction.method() == logged.method
        && (transaction.status(), u64::from(logged.status)) == (status, status)
        && transaction.body("response").as_deref() == Some(body.as_bytes())
}

/// No problem with any of the requests that nginx logged, and nothing is left of what was recorded.
pub fn assert_all(served: &[Accessed], problems: &[String], left: &Recorded) {
    println!("{} requests, {} problems", served.len(), problems.len());
    if let Some(first) = problems.first() {
        panic!("{} problems with {} requests, the first: {first}", problems.len(), served.len());
    }
    let unknown: Vec<_> = left.keys().take(5).collect();
    assert!(left.is_empty(), "{} ids were recorded that nginx did not log: {unknown:?}", left.len());
}
