//! Processes that are gone before anybody can look at them: each transaction still says whose it was.

mod support;

use std::collections::HashMap;
use std::fs;
use std::process::Command;

use support::backend::Backend;
use support::captured::Transaction;
use support::program::Program;
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{LIMIT, Scratch, on_each_path};

on_each_path!(a_thousand_curls);

const COUNT: usize = 1000;

/// Four at a time, each for one request. Says `NUMBER PID` of each.
const CURLS: &str = r#"
for n in $(seq "$1"); do
    curl -sS --fail -m 10 -o /dev/null -H "X-Request-Id: curl-$n" "$2" &
    echo "curl-$n $!"
    [ $((n % 4)) -ne 0 ] || wait
done
wait
"#;

fn a_thousand_curls(path: CapturePath) {
    let backend = Backend::start();
    // No filter to find them early by.
    let config = tap("/", "level: headers, format: json").replace("strategy: exact", "strategy: prefix");
    let mut sidetap = Sidetap::start(&config, path).containing("curl-");
    let folder = Scratch::new("curls");
    let url = format!("http://127.0.0.1:{}/bytes/100", backend.port());
    let mut command = Command::new("bash");
    command.args(["-c", CURLS, "bash", &COUNT.to_string(), &url]);
    let mut curls = Program::start("curls", &mut command, folder.path());
    assert!(curls.wait_exit(8 * LIMIT).success(), "{}", curls.tail());
    assert_eq!(curls.stderr(), "", "every curl was answered");
    let pids: HashMap<String, String> = curls
        .stdout()
        .lines()
        .map(|line| line.split_once(' ').map(|(id, pid)| (id.to_owned(), pid.to_owned())).expect("an id and a pid"))
        .collect();
    let is_curls = |transaction: &Transaction| transaction.is_egress();
    sidetap.wait_until("a transaction of each curl", |output| {
        output.transactions.iter().filter(|transaction| is_curls(transaction)).count() >= COUNT
    });
    let captured = sidetap.stop();

    let exe = fs::canonicalize("/usr/bin/curl").expect("curl is installed").display().to_string();
    let of_curl: Vec<&Transaction> = captured.transactions.iter().filter(|t| is_curls(t)).collect();
    assert_eq!(of_curl.len(), COUNT);
    let wrong: Vec<String> = of_curl
        .iter()
        .filter(|t| t.exe() != exe || Some(t.pid()) != pids.get(t.id()).map(String::as_str))
        .map(|t| format!("{}: exe {:?} pid {:?}, was {:?}", t.id(), t.exe(), t.pid(), pids.get(t.id())))
        .collect();
    assert!(wrong.is_empty(), "{} of {COUNT} are wrong, such as {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
}
