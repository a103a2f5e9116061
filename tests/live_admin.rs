//! The agent as an operator runs it: health and metrics, reloads under traffic, and what it may still do once it captures.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::backend::Backend;
use support::client::{Client, Request};
use support::haproxy::{self, Haproxy};
use support::program::{Program, listens};
use support::scene::{Scene, proxies};
use support::sidetap::{CapturePath, Sidetap, binary, tap};
use support::traffic::{Traffic, possessions};
use support::{LIMIT, PYTHON, Scratch, data, fill, free_port, on_each_path, until};

on_each_path!(reloads_under_traffic_lose_nothing_and_leave_nothing_behind);

/// An agent beside HAProxy, with its admin listener at a port of its own.
struct Admin {
    scene: Scene,
    port: u16,
}

impl Admin {
    fn start(path: CapturePath) -> Admin {
        Admin::with(&tap(haproxy::EXE, "level: headers"), path)
    }

    fn with(config: &str, path: CapturePath) -> Admin {
        let (backend, front, port) = (Backend::start(), free_port(), free_port());
        let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
        let listen = format!("127.0.0.1:{port}");
        let sidetap = Sidetap::start_with(config, path, &["--http-listen", &listen]).of(haproxy.pid());
        let admin = Admin { scene: Scene { sidetap, haproxy, backend, front }, port };
        // It listens before it captures, and says that it captures only after that line.
        until(LIMIT, || (admin.get("/readyz").0 == 200).then_some(())).expect("it is ready once it captures");
        admin
    }

    fn get(&self, path: &str) -> (u16, String) {
        let response = Client::tcp(self.port).get(path, "admin");
        (response.status, String::from_utf8(response.body).expect("it is text"))
    }

    fn metrics(&self) -> Metrics {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200);
        Metrics::read(page)
    }
}

/// A page of metrics, read back.
struct Metrics {
    page: String,
    /// By name and labels, as they are written.
    samples: HashMap<String, f64>,
}

impl Metrics {
    fn read(page: String) -> Metrics {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
        };
        Metrics { samples: lines.map(sample).collect(), page }
    }

    /// Names of all series, without their labels.
    fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|key| key.split('{').next().unwrap_or(key)).collect()
    }

    fn families(&self) -> impl Iterator<Item = &str> {
        self.page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
    }

    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.page))
    }

    fn transactions(&self, direction: &str, status: &str) -> f64 {
        let labels = format!("direction=\"{direction}\",protocol=\"http1\",status=\"{status}\"");
        self.get(&format!("sidetap_transactions_total{{{labels}}}"))
    }
}

#[test]
fn metrics_say_what_was_recorded() {
    let mut admin = Admin::start(CapturePath::best());
    assert_eq!(admin.get("/healthz"), (200, "ok\n".to_owned()));
    let mut client = admin.scene.client();
    for number in 0..5 {
        client.get("/bytes/1000", &format!("good-{number}"));
    }
    client.get("/status/503", "bad");
    client.get("/slow/300", "slow");
    admin.scene.sidetap.wait_for_pair("slow");
    admin.scene.sidetap.wait_for(14);

    let metrics = admin.metrics();
    for direction in ["ingress", "egress-internal"] {
        assert_eq!(metrics.transactions(direction, "2xx"), 6.0);
        assert_eq!(metrics.transactions(direction, "5xx"), 1.0);
        let labels = format!("direction=\"{direction}\",protocol=\"http1\"");
        let durations = |suffix: &str, more: &str| {
            metrics.get(&format!("sidetap_transaction_duration_seconds_{suffix}{{{labels}{more}}}"))
        };
        assert_eq!(durations("count", ""), 7.0);
        assert_eq!(durations("bucket", ",le=\"+Inf\""), 7.0);
        assert!(durations("bucket", ",le=\"0.25\"") <= 6.0 && durations("sum", "") >= 0.3);
        // HAProxy sends the bodies on to the client, and has them from the backend.
        let flow = if direction == "ingress" { "sent" } else { "received" };
        assert!(metrics.get(&format!("sidetap_transaction_bytes_total{{{labels},flow=\"{flow}\"}}")) > 5000.0);
    }
    assert_eq!(metrics.get("sidetap_lost_total{place=\"ring_buffer\",cause=\"data_event\"}"), 0.0);
    assert!(metrics.get("sidetap_store_written_records_total{store=\"stdout\"}") >= 14.0);
    assert!(metrics.get("sidetap_table_entries{table=\"connections\"}") >= 2.0);
    assert!(metrics.get("sidetap_bpf_programs_attached") >= 5.0);
    assert!(metrics.get("process_cpu_seconds_total") > 0.0 && metrics.get("process_open_fds") > 3.0);
    let all = |name: &str| {
        let samples = metrics.samples.iter().filter(|(key, _)| key.split('{').next() == Some(name));
        samples.map(|(_, value)| value).sum::<f64>()
    };
    let (peak, size) = (all("sidetap_ring_buffer_peak_bytes"), all("sidetap_ring_buffer_size_bytes"));
    assert!(peak > 0.0 && peak < size, "{peak} of {size}");

    promtool_finds_nothing(&metrics.page);
    the_dashboard_names_only_what_there_is(&metrics);
    the_readme_names_all_of_them(&metrics);

    let captured = admin.scene.sidetap.stop();
    assert_eq!(captured.counters["lost"], 0, "{}", captured.stderr);
}

fn promtool_finds_nothing(page: &str) {
    let check = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut check) = check else {
        println!("skipped: promtool (of Debian's package prometheus) is not installed");
        return;
    };
    let mut input = check.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut input, page.as_bytes()).expect("promtool reads it");
    drop(input);
    let status = check.wait().expect("promtool ends");
    assert!(status.success(), "promtool finds something in\n{page}");
}

/// The page as Prometheus itself reads it, from a server of its own.
#[test]
fn prometheus_reads_the_page() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        println!("skipped: prometheus (Debian's package of that name) is not installed");
        return;
    }
    let mut admin = Admin::start(CapturePath::best());
    let mut client = admin.scene.client();
    for number in 0..5 {
        client.get("/bytes/1000", &format!("scraped-{number}"));
    }
    admin.scene.sidetap.wait_for_pair("scraped-4");
    let (folder, port) = (Scratch::new("prometheus"), free_port());
    let config = format!(
        "scrape_configs: [{{job_name: sidetap, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]\n",
        admin.port
    );
    let mut command = Command::new("prometheus");
    command.arg("--config.file").arg(folder.file("prometheus.yml", &config));
    command.arg("--storage.tsdb.path").arg(folder.path().join("data"));
    command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]);
    let mut prometheus = Program::start("prometheus", &mut command, folder.path());
    prometheus.wait_ready("server", LIMIT, |_| listens(port));
    let ask = |query: &str| -> Option<f64> {
        let response = Client::tcp(port).get(&format!("/api/v1/query?query={query}"), "query");
        let answer: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let scraped = until(LIMIT, || ask("up").filter(|up| *up == 1.0));
    assert!(scraped.is_some(), "not scraped, up: {:?}{}", ask("up"), prometheus.tail());
    assert_eq!(ask("sum(sidetap_transactions_total)"), Some(10.0));
    // None was left out as a repetition or as out of order.
    assert_eq!(ask("scrape_samples_post_metric_relabeling"), Some(admin.metrics().samples.len() as f64));
    assert_eq!(ask("sidetap_ready"), Some(1.0));
    admin.scene.sidetap.stop();
}

fn the_dashboard_names_only_what_there_is(metrics: &Metrics) {
    let dashboard = fs::read_to_string(repository("config/grafana.json")).expect("the dashboard is there");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("a panel has targets"));
    let mut named = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().expect("a target has an expression");
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        named.extend(words.filter(|word| word.starts_with("sidetap_") || word.starts_with("process_")));
    }
    assert!(named.len() > 20, "{named:?}");
    // A family has no samples before there is something to count.
    let there: BTreeSet<&str> = metrics.names().into_iter().chain(metrics.families()).collect();
    let missing: Vec<&&str> = named.difference(&there).collect();
    assert!(missing.is_empty(), "the dashboard asks for {missing:?}");
}

fn the_readme_names_all_of_them(metrics: &Metrics) {
    let readme = fs::read_to_string(repository("README.md")).expect("the README is there");
    let missing: Vec<&str> =
        metrics.families().filter(|name| name.starts_with("sidetap_") && !readme.contains(*name)).collect();
    assert!(missing.is_empty(), "the README does not name {missing:?}");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn an_address_that_is_taken_does_not_stop_the_capture() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    let backend = Backend::start();
    let front = free_port();
    let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["--http-listen", &listen];
    let config = tap(haproxy::EXE, "level: headers");
    let mut sidetap = Sidetap::start_with(&config, CapturePath::best(), &arguments).of(haproxy.pid());
    sidetap.wait_log("cannot listen at");
    Client::tcp(front).get("/bytes/10", "captured");
    sidetap.wait_for_pair("captured");
    // As when the one that had it was an agent that has ended.
    drop(taken);
    sidetap.wait_log("health and metrics at");
    assert_eq!(Client::tcp(port).get("/readyz", "ready").status, 200);
    let captured = sidetap.stop();
    let complaints = captured.stderr.lines().filter(|line| line.contains("cannot listen")).count();
    assert_eq!(complaints, 1, "{}", captured.stderr);
}

fn run(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env_remove("SIDETAP_CONFIG").env_remove("SIDETAP_HTTP_LISTEN").output().expect("the binary runs")
}

fn outcome(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

/// How often; more by hand.
fn reloads() -> usize {
    std::env::var("RELOADS").ok().and_then(|number| number.parse().ok()).unwrap_or(100)
}

fn reloads_under_traffic_lose_nothing_and_leave_nothing_behind(path: CapturePath) {
    let (backend, front) = (Backend::start(), free_port());
    let haproxy = Haproxy::with(&proxies(front, backend.port(), ""));
    let folder = Scratch::new("admin");
    let socket = folder.path().join("admin.sock").display().to_string();
    let headers = tap(haproxy::EXE, "level: headers");
    let mut sidetap = Sidetap::start_with(&headers, path, &["--http-listen", &socket]).of(haproxy.pid());
    assert_eq!(fs::metadata(&socket).expect("it listens").mode() & 0o777, 0o600);

    // Each takes something away that the one before had: level, rules, stores, tags, filters.
    let rule = "level: none, rules: [{name: all, expr: http.req.method == \"GET\", level: full}]";
    let no_events = tap(haproxy::EXE, "level: full").replacen("    - type: stdout", "    - type: disabled", 1);
    let left_out = "    custom:\n      - exe: /usr/bin/curl\n    only:";
    let variants = [
        headers.clone(),
        no_events,
        tap(haproxy::EXE, rule) + "\ntags:\n  - key: a\n    source: env\n    location: PATH\n",
        headers.replacen("    only:", left_out, 1),
    ];
    let config = sidetap.config_file();
    let traffic = Traffic::start(front, 3);
    let mut slow = Client::tcp(front);
    slow.send(&Request::new("GET", "/drip/40000/700", "slow").bytes());
    slow.exactly(1000);
    let mut before = None;
    for number in 0..reloads() {
        fs::write(&config, &variants[number % variants.len()]).expect("the folder is ours");
        let (code, text) = outcome(&run(&["reload", "--http-listen", &socket], folder.path()));
        assert_eq!(code, Some(0), "{text}");
        traffic.go_on();
        // After a round of all of them, when everything that is made once has been made.
        if number + 1 == variants.len() {
            before = Some(possessions(sidetap.program()));
        }
    }
    // Ended by the same configuration as that round.
    fs::write(&config, &variants[variants.len() - 1]).expect("the folder is ours");
    sidetap.program().signal("HUP");
    let done = format!("reloaded {}", config.display());
    let all = reloads() + 1;
    let is_done = |stderr: String| (stderr.matches(&done).count() == all).then_some(());
    until(LIMIT, || is_done(sidetap.program().stderr())).expect("SIGHUP reloads too");
    slow.exactly(39_000);
    let mut ids = traffic.stop();
    ids.push("slow".to_owned());
    // A sink that has gone ends in its own time.
    let before = before.expect("there was a round");
    let settled = until(LIMIT, || {
        let now = possessions(sidetap.program());
        (now.0 <= before.0 && now.1 <= before.1).then_some(now)
    });
    assert!(settled.is_some(), "threads and files: {before:?} before, {:?} now", possessions(sidetap.program()));

    sidetap.wait_for_pair("slow");
    let captured = sidetap.stop();
    println!("{} requests during {all} reloads", ids.len());
    let mut seen: HashMap<(&str, bool), usize> = HashMap::new();
    for transaction in &captured.transactions {
        *seen.entry((transaction.id(), transaction.is_ingress())).or_default() += 1;
        assert_eq!(transaction.status(), 200, "{:?}", transaction.incomplete());
    }
    for id in &ids {
        for is_ingress in [true, false] {
            assert_eq!(seen.remove(&(id, is_ingress)), Some(1), "{id}, ingress: {is_ingress}");
        }
    }
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(captured.counters["lost"], 0, "{}", captured.stderr);
}

/// A library with two functions that show secrets.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libnettle.so.8";

fn is_library_there() -> bool {
    let is_there = Path::new(LIBRARY).exists();
    if !is_there {
        println!("skipped: {LIBRARY} is not there");
    }
    is_there
}

impl Admin {
    fn attached(&self) -> f64 {
        self.metrics().get("sidetap_tls_probes{state=\"attached\"}")
    }
}

/// A Python that has mapped copies of the library, each with a number, `after` so many seconds.
fn holder(python: &Path, folder: &Scratch, numbers: std::ops::Range<usize>, after: &str) -> Program {
    let copies: Vec<_> = numbers.map(|number| folder.path().join(format!("libnettle-{number}.so"))).collect();
    for copy in &copies {
        fs::copy(LIBRARY, copy).expect("there is room");
    }
    let load = "import ctypes, signal, sys, time\ntime.sleep(float(sys.argv[1]))\n\
                held = [ctypes.CDLL(copy) for copy in sys.argv[2:]]\nprint('held', flush=True)\nsignal.pause()";
    let mut command = Command::new(python);
    command.env("PYTHONHOME", "/usr").args(["-c", load, after]).args(copies);
    let holder = Program::start("holder", &mut command, folder.path());
    until(LIMIT, || holder.stdout().contains("held").then_some(())).expect("it loads them");
    holder
}

/// Also to what runs Pythons whose path has that in it.
fn with_pythons(name: &str) -> String {
    let only = format!("    only:\n      - {{exe: {name}, strategy: contains}}");
    tap(haproxy::EXE, "level: headers").replacen("    only:", &only, 1)
}

/// As on a machine whose containers come and go with libraries of their own.
#[test]
fn libraries_that_nobody_has_mapped_make_room_for_others() {
    const MAX_PROBES: f64 = 256.0;
    if !is_library_there() {
        return;
    }
    let admin = Admin::with(&with_pythons("/python3"), CapturePath::best());
    let folder = Scratch::new("libraries");
    let before = admin.attached();
    let many = ((MAX_PROBES - before) / 2.0) as usize;
    let first = holder(Path::new(PYTHON), &folder, 0..many, "0");
    let full = before + 2.0 * many as f64;
    until(LIMIT, || (admin.attached() == full).then_some(())).expect("all of them are looked at");
    drop(first);
    let _second = holder(Path::new(PYTHON), &folder, many..many + 2, "0");
    until(LIMIT, || (admin.attached() < full - many as f64).then_some(())).expect("those that nobody has are let go");
    let is_there = |left: &f64| *left >= before + 4.0;
    let left = until(LIMIT, || Some(admin.attached()).filter(is_there)).expect("the new ones have room");
    assert!(left < before + 4.0 + many as f64, "{left} of {full} are left");
    assert_eq!(admin.metrics().get("sidetap_tls_probes{state=\"failed\"}"), 0.0);
}

/// Who runs into a program of ours pays for it.
#[test]
fn programs_that_are_left_out_are_not_looked_at_until_they_are_taken_in() {
    if !is_library_there() {
        return;
    }
    let folder = Scratch::new("left-out");
    let tapped = folder.path().join("tapped-python");
    fs::copy(PYTHON, &tapped).expect("there is room");
    let admin = Admin::with(&with_pythons("/tapped-python"), CapturePath::best());
    let before = admin.attached();
    let _other = holder(Path::new(PYTHON), &folder, 0..1, "0");
    // So late that the last look finds it, before which the other one has had all of its looks.
    let _tapped = holder(&tapped, &folder, 1..6, "0.5");
    until(LIMIT, || (admin.attached() >= before + 10.0).then_some(())).expect("what is tapped is looked at");
    assert_eq!(admin.attached(), before + 10.0);
    fs::write(admin.scene.sidetap.config_file(), with_pythons("python")).expect("the folder is ours");
    admin.scene.sidetap.program().signal("HUP");
    until(LIMIT, || (admin.attached() == before + 12.0).then_some(())).expect("what runs already is looked at, too");
}

#[test]
fn a_refused_reload_says_why() {
    let folder = Scratch::new("admin");
    let socket = folder.path().join("admin.sock").display().to_string();
    let reload = || outcome(&run(&["reload", "--http-listen", &socket], folder.path()));
    let (code, text) = reload();
    assert!(code == Some(1) && text.contains("is it running"), "{code:?}: {text}");

    let config = tap(haproxy::EXE, "level: full");
    let sidetap = Sidetap::start_with(&config, CapturePath::best(), &["--http-listen", &socket]);
    fs::write(sidetap.config_file(), tap(haproxy::EXE, "level: nonsense")).expect("the folder is ours");
    let (code, text) = reload();
    assert!(code == Some(2) && text.contains("nonsense") && text.contains("stays in force"), "{code:?}: {text}");

    fs::write(sidetap.config_file(), config).expect("the folder is ours");
    fs::set_permissions(sidetap.config_file(), fs::Permissions::from_mode(0o666)).expect("it is ours");
    let (code, text) = reload();
    assert!(code == Some(2) && text.contains("everyone can write it"), "{code:?}: {text}");

    fs::set_permissions(sidetap.config_file(), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let (code, text) = reload();
    assert!(code == Some(0) && text.contains("reloaded"), "{code:?}: {text}");
    sidetap.stop();
    assert!(!Path::new(&socket).exists(), "the socket goes with the agent");
}

#[test]
fn a_watched_file_is_reloaded_however_it_is_changed() {
    let mut sidetap = Sidetap::start_with(
        &tap(haproxy::EXE, "level: full"),
        CapturePath::best(),
        &["--watch", "--http-listen", "none"],
    );
    let config = sidetap.config_file();
    fs::write(&config, tap(haproxy::EXE, "level: nonsense")).expect("the folder is ours");
    sidetap.wait_log("nonsense");
    // As editors do it.
    let other = sidetap.folder.file("new.yaml", &tap(haproxy::EXE, "level: headers"));
    fs::rename(other, &config).expect("both are ours");
    sidetap.wait_log("reloaded");
    sidetap.stop();
}

#[test]
fn files_that_anybody_could_have_written_and_addresses_are_refused() {
    let folder = Scratch::new("admin");
    let file = folder.file("open.yaml", &tap(haproxy::EXE, "level: full"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let (code, text) = outcome(&run(&["--config", "open.yaml"], folder.path()));
    assert!(code == Some(2) && text.contains("chmod o-w"), "{code:?}: {text}");
    let (code, text) = outcome(&run(&["validate", "open.yaml"], folder.path()));
    assert_eq!(code, Some(0), "whoever only looks may look at anything: {text}");
    for command in [&["--config"][..], &["validate"]] {
        let arguments = [command, &["https://example.test/sidetap.yaml"]].concat();
        let (code, text) = outcome(&run(&arguments, folder.path()));
        assert!(code == Some(2) && text.contains("fetch it first"), "{code:?}: {text}");
    }
}

#[test]
fn privileges_that_are_not_needed_are_given_up() {
    let admin = Admin::start(CapturePath::best());
    let pid = admin.scene.sidetap.program().pid();
    // From linux/capability.h.
    const DAC_OVERRIDE: u64 = 1 << 1;
    const DAC_READ_SEARCH: u64 = 1 << 2;
    const SYS_PTRACE: u64 = 1 << 19;
    const SYS_NICE: u64 = 1 << 23;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let agent = DAC_OVERRIDE | DAC_READ_SEARCH | SYS_PTRACE | SYS_NICE | BPF;
    let probes = SYS_ADMIN | DAC_READ_SEARCH | SYS_PTRACE | BPF;
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let task = task.expect("it runs").path();
        // Those that stay are asked for below.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            u64::from_str_radix(line.unwrap_or_else(|| panic!("no {name} in {status}")), 16).expect("it is a number")
        };
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned();
        let kept = if ["probes", "fallback"].contains(&name.as_str()) { probes } else { agent };
        for set in ["CapPrm", "CapEff"] {
            assert_eq!(field(set) & !kept, 0, "{set} of {status}");
        }
        for set in ["CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), 0, "{set} of {status}");
        }
        assert_eq!(field("NoNewPrivs"), 1, "{status}");
        threads.push(name);
    }
    for name in ["admin", "signals", "identity", "sink stdout", "worker 0"] {
        assert!(threads.iter().any(|thread| thread == name), "no {name} among {threads:?}");
    }
    admin.scene.sidetap.stop();
}

#[test]
fn no_secret_is_shown_at_any_level() {
    const SECRET: &str = "planted-secret-4711";
    let store = format!(
        "    - type: s3\n      bucket: b\n      access_key: {{type: text, value: {SECRET}-a}}\n      \
         secret_key: {{type: env, value: SIDETAP_TEST_SECRET}}\n    - type: stdout\n\nstacks:"
    );
    let good = fill(&data("tap.yaml"), &[("exe", haproxy::EXE), ("capture", "level: full")]);
    let good = good.replacen("    - type: stdout\n\nstacks:", &store, 1);
    assert!(good.contains(SECRET));
    let folder = Scratch::new("admin");
    let file = folder.file("secret.yaml", &good);
    let agent = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(["--log-level", "trace"]).args(arguments).current_dir(folder.path());
        command.env("SIDETAP_TEST_SECRET", format!("{SECRET}-s")).stdin(Stdio::null());
        command
    };
    let port = free_port();
    let mut command = agent(&["--config", "secret.yaml", "--http-listen", &format!("127.0.0.1:{port}")]);
    let mut program = Program::start("agent", &mut command, folder.path());
    program.wait_ready("capturing", Duration::from_secs(30), |program| program.stderr().contains("capturing"));
    let page = String::from_utf8(Client::tcp(port).get("/metrics", "m").body).expect("it is text");
    program.signal("HUP");
    program.wait_ready("reloaded", LIMIT, |program| program.stderr().contains("reloaded"));
    program.signal("TERM");
    assert!(program.wait_exit(LIMIT).success());
    let mut shown = page + &program.stderr();
    // Wrong in ways in which a message might quote what it has found.
    for (place, wrong) in [
        (format!("{{type: text, value: {SECRET}-a}}"), format!("{SECRET}-a")),
        ("type: text, value".to_owned(), "type: text, valeu".to_owned()),
        ("type: text, value".to_owned(), "typo: text, value".to_owned()),
        (format!("value: {SECRET}-a"), format!("value: [{SECRET}-a]")),
        (format!("value: {SECRET}-a"), format!("value: {{{SECRET}-a: 1}}")),
        ("      secret_key:".to_owned(), "      secret_kye:".to_owned()),
    ] {
        assert!(good.contains(&place), "{place}");
        fs::write(&file, good.replacen(&place, &wrong, 1)).expect("the folder is ours");
        for arguments in [&["--config", "secret.yaml"][..], &["validate", "secret.yaml"]] {
            let (code, text) = outcome(&agent(arguments).output().expect("it runs"));
            assert_eq!(code, Some(2), "{wrong}: {text}");
            shown += &text;
        }
    }
    let line = shown.lines().find(|line| line.contains(SECRET));
    assert_eq!(line, None);
}
