//! TLS that is not between a process and its sockets, or not on TCP: told of, and counted by program.

mod support;

use std::fs;
use std::process::{Command, Output};

use support::sidetap::{CapturePath, Sidetap, tap};
use support::tls::{Authority, Key};
use support::{PYTHON, on_each_path, script};

on_each_path!(quic_is_counted, what_the_kernel_seals_is_told_of);

/// As the kernel knows it.
fn python() -> String {
    fs::canonicalize(PYTHON).expect("Python is installed").display().to_string()
}

fn run(name: &str, arguments: &[&str]) -> Output {
    Command::new(PYTHON).arg(script(name)).args(arguments).output().expect("Python is installed")
}

fn quic_is_counted(path: CapturePath) {
    const CONNECTIONS: usize = 12;
    let mut sidetap = Sidetap::start(&tap(&python(), "level: full"), path);
    let output = run("tls/quic.py", &[&CONNECTIONS.to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sidetap.wait_log("speaks QUIC");
    let captured = sidetap.stop();
    assert_eq!(captured.stderr.matches("speaks QUIC").count(), 1, "{}", captured.stderr);
    // At both ends.
    let last = format!("not opened: {} TLS connections of {} (library: quic)", CONNECTIONS * 2, python());
    assert!(captured.stderr.contains(&last), "no {last:?} in {}", captured.stderr);
    assert_eq!(captured.counters["tls.uncovered"], CONNECTIONS as u64 * 2);
}

fn what_the_kernel_seals_is_told_of(path: CapturePath) {
    const REQUESTS: usize = 3;
    const NO_KERNEL_TLS: i32 = 77;
    let authority = Authority::new();
    let mut sidetap = Sidetap::start(&tap(&python(), "level: full"), path);
    let output = run("tls/ktls.py", &[&authority.pem(Key::Ecdsa).display().to_string(), &REQUESTS.to_string()]);
    if output.status.code() == Some(NO_KERNEL_TLS) {
        return println!("skipped: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let is_kernels = |event: &serde_json::Value| event["tls"]["uncovered"] == "ktls";
    sidetap.wait_until("the server's connection", |output| output.connections.iter().any(is_kernels));
    sidetap.wait_for(REQUESTS);
    let captured = sidetap.stop();
    let told: Vec<_> = captured.connections.iter().filter(|event| is_kernels(event)).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["direction"], "ingress", "{told:#?}");
    // The client's TLS is a library's.
    assert_eq!(captured.transactions.len(), REQUESTS);
    for number in 0..REQUESTS {
        let transaction = captured.egress(&format!("ktls-{number}"));
        assert_eq!((transaction.status(), transaction.incomplete()), (200, vec![]), "{:#}", transaction.0);
    }
    let last = format!("not opened: 1 TLS connections of {} (library: ktls)", python());
    assert!(captured.stderr.contains(&last), "no {last:?} in {}", captured.stderr);
}
