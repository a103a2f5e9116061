//! What the agent weighs.

mod support;

use std::process::Command;

use support::backend::Backend;
use support::client::Client;
use support::haproxy::{self, Haproxy};
use support::scene::{Scene, proxies};
use support::sidetap::{CapturePath, Sidetap, tap};
use support::{allow_open_files, free_port, on_each_path};

on_each_path!(
    ten_thousand_idle_connections_are_light,
    large_bodies_leave_nothing_behind,
    a_reader_that_stops_costs_records_not_memory,
);

const MIB: u64 = 1 << 20;

fn ten_thousand_idle_connections_are_light(path: CapturePath) {
    const IDLE: usize = 10_000;
    allow_open_files(12_000);
    // With the server's side shared, the idle connections are the clients' alone.
    let mut scene = Scene::with_options(path, "level: full", "    http-reuse always\n");
    let mut clients: Vec<Client> = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let mut client = scene.client();
        client.get("/bytes/10", &format!("open-{number}"));
        clients.push(client);
    }
    scene.sidetap.wait_for(2 * IDLE);
    let resident = scene.sidetap.program().resident() / MIB;
    let peak = scene.sidetap.program().peak_resident() / MIB;
    println!("with {IDLE} idle connections: {resident} MiB resident, {peak} MiB at most");
    assert!(resident < 64, "{resident} MiB resident with {IDLE} idle connections");
    // They are still known: the first and the last go on.
    for number in [0, IDLE - 1] {
        clients[number].get("/bytes/20", &format!("again-{number}"));
        scene.sidetap.wait_for_pair(&format!("again-{number}"));
    }
    let ports: Vec<_> = [0, IDLE - 1].map(|number| clients[number].local()).to_vec();
    let captured = scene.sidetap.stop();
    assert_eq!(captured.transactions.len(), 2 * IDLE + 4);
    assert_eq!(captured.ingress("again-0").source(), Some(ports[0]));
    assert_eq!(captured.ingress(&format!("again-{}", IDLE - 1)).source(), Some(ports[1]));
}

fn large_bodies_leave_nothing_behind(path: CapturePath) {
    let mut scene = Scene::start(path, "level: full, max_body_bytes: 33554432");
    let mut client = scene.client();
    client.get("/bytes/1000", "first");
    scene.sidetap.wait_for_pair("first");
    let before = scene.sidetap.program().resident();
    for number in 0..12 {
        client.get("/bytes/20000000", &format!("large-{number}"));
        scene.sidetap.wait_for_pair(&format!("large-{number}"));
    }
    client.get("/bytes/1000", "last");
    scene.sidetap.wait_for_pair("last");
    let grown = scene.sidetap.program().resident().saturating_sub(before) / MIB;
    println!("after 24 bodies of 20 MB: {grown} MiB more than before");
    assert!(grown < 128, "480 MB went by and {grown} MiB stayed");
    assert_eq!(scene.sidetap.stop().transactions.len(), 28);
}

fn a_reader_that_stops_costs_records_not_memory(path: CapturePath) {
    const REQUESTS: u64 = 40_000;
    let (backend, front) = (Backend::start(), free_port());
    let _haproxy = Haproxy::with(&proxies(front, backend.port(), "    http-reuse always\n"));
    let config = tap(haproxy::EXE, "level: full");
    let (sidetap, _end) = Sidetap::start_unread(&config, path, &["--memory-limit", "32"]);
    let before = sidetap.program().resident();
    let url = format!("http://127.0.0.1:{front}/bytes/2000");
    let arguments = ["--h1", "-c", "16", "-t", "1", "-n", &REQUESTS.to_string(), &url];
    let output = Command::new("h2load").args(arguments).output().expect("h2load is installed");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("{REQUESTS} succeeded")), "{output:?}");
    let grown = sidetap.program().peak_resident().saturating_sub(before) / MIB;
    println!("nobody read {} exchanges: {grown} MiB more than before", 2 * REQUESTS);
    assert!(grown < 64, "{grown} MiB more, with a ceiling of 32 MiB");
    // It ends by itself although nobody reads, and says what was lost.
    let counters = sidetap.stop_unread();
    assert!(counters.get("lost") >= Some(&1), "{counters:?}");
}
