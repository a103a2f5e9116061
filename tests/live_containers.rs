//! The guide's set-up in containers, on a real engine: whose each transaction is, by the machine's process id and the
//! container's name, and which service it went to, by its name. HAProxy's own log and the engine are the oracles.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::captured::{Block, blocks};
use support::docker::{Agent, Container, Engine, Project};
use support::{LIMIT, data, free_port, guide, until};

#[test]
fn the_guides_walk_with_the_agent_in_a_container_started_first() {
    walk(Place::Container, Order::AgentFirst);
}

#[test]
fn the_guides_walk_with_the_agent_in_a_container_started_last() {
    walk(Place::Container, Order::AgentLast);
}

#[test]
fn the_guides_walk_with_the_agent_on_the_machine_started_first() {
    walk(Place::Machine, Order::AgentFirst);
}

#[test]
fn the_guides_walk_with_the_agent_on_the_machine_started_last() {
    walk(Place::Machine, Order::AgentLast);
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Container,
    Machine,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    AgentFirst,
    AgentLast,
}

const HAPROXY: Container = Container("haproxy-demo");
const AGENT: Container = Container("qtap-haproxy");
/// HAProxy's name of a server, the service's name, its port.
const SERVICES: [(&str, &str, u16); 5] = [
    ("api1", "backend-api-1", 8001),
    ("api2", "backend-api-2", 8002),
    ("web1", "backend-web-1", 8003),
    ("web2", "backend-web-2", 8004),
    ("static1", "backend-static", 8005),
];
const POSTED: &str = r#"{"name": "Alice", "role": "admin"}"#;
/// The guide's requests: how often, and the status. Nothing listens where its HAProxy sends `/health`.
const REQUESTS: [(&str, &str, usize, u16); 6] = [
    ("GET", "/", 7, 200),
    ("GET", "/api/users", 1, 200),
    ("GET", "/api/data", 6, 200),
    ("POST", "/api/create", 1, 200),
    ("GET", "/static/image.png", 1, 200),
    ("GET", "/health", 1, 503),
];

/// A transaction as text output and HAProxy's log both tell it: method, URL, status.
type Told = (String, String, u16);

fn walk(place: Place, order: Order) {
    let Some(engine) = Engine::or_skip() else { return };
    let config = guide("quick-start");
    let project = Project::new(
        &engine,
        "guide",
        &[
            ("docker-compose.yaml", &data("containers/docker-compose.yaml")),
            ("haproxy.cfg", &data("containers/haproxy.cfg")),
            ("backend-service.py", &data("guide/backend-service.py")),
            ("qtap.yaml", &config),
        ],
    );
    amend_for_this_machine(&project);
    let start_agent = || match place {
        Place::Machine => Agent::on_machine(&config),
        Place::Container => {
            engine.agent_image();
            project.up(&["qtap"]);
            Agent::in_container(AGENT)
        }
    };
    let services = || {
        // HAProxy gives up when a server has no address yet, so it is the last to be started.
        project.up(&SERVICES.map(|(_, service, _)| service));
        project.up(&["haproxy"]);
        wait_checked(8086);
    };
    let mut agent = match order {
        Order::AgentFirst => {
            let agent = start_agent();
            services();
            agent
        }
        Order::AgentLast => {
            services();
            start_agent()
        }
    };
    ask(8085);

    let logged = Logged::read(HAPROXY, "http://localhost:8085");
    assert_eq!(logged.ingress.len(), REQUESTS.iter().map(|(_, _, count, _)| count).sum::<usize>());
    let worker = HAPROXY.worker();
    let wanted = logged.ingress.len() + logged.egress.len();
    agent.wait_text("both sides of each request, and the health checks", |text| {
        let found = of_process(text, worker);
        found.iter().filter(|block| is_asked(block)).count() >= wanted && both_checked(&found)
    });
    let pids = SERVICES.map(|(_, service, _)| (service, Container(service).pids()));
    let text = agent.stop();
    let found = blocks(&text);
    assert_eq!(text.matches("HTTP Transaction").count(), found.len(), "grep -c counts transactions");

    let of_haproxy = of_process(&text, worker);
    for block in &of_haproxy {
        let process = format!("haproxy (PID: {worker}, Container: haproxy-demo)");
        assert_eq!(block.field("Source Process"), process, "{block:#?}");
    }
    check_both_sides(&of_haproxy, &logged);
    check_turns(&logged);
    check_bodies(&of_haproxy);
    check_services(&text, &pids);
    check_clients(&found, logged.ingress.len());
}

/// Takes out of the compose file what this machine refuses, whatever the agent does.
fn amend_for_this_machine(project: &Project) {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").expect("every process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let has = u64::from_str_radix(line.trim(), 16).expect("capabilities are hexadecimal");
    if has & CAP_SYS_RESOURCE == 0 {
        println!("without CAP_SYS_RESOURCE no limit can be raised: leaving out the agent's `ulimits`");
        project.amend("services: {qtap: {ulimits: !reset {}}}\n");
    }
}

/// Waits until HAProxy has found every server up, by its statistics.
fn wait_checked(port: u16) {
    let url = format!("http://localhost:{port}/stats;csv");
    let mut seen = String::new();
    let done = until(LIMIT, || {
        let output = Command::new("curl").args(["-sS", "-m", "5", &url]).output().expect("curl is installed");
        seen = String::from_utf8_lossy(&output.stdout).into_owned();
        let up = seen.lines().filter(|line| line.contains(",UP,") && (line.contains("L4OK") || line.contains("L7OK")));
        (up.count() == SERVICES.len()).then_some(())
    });
    assert!(done.is_some(), "not all servers are up: {seen}{:?}", HAPROXY.log());
}

/// The guide's requests, as the guide sends them.
fn ask(port: u16) {
    for (method, path, count, status) in REQUESTS {
        for _ in 0..count {
            let mut command = Command::new("curl");
            command.args(["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"]);
            command.arg(format!("http://localhost:{port}{path}"));
            if method == "POST" {
                command.args(["-X", "POST", "-H", "Content-Type: application/json", "-d", POSTED]);
            }
            let output = command.output().expect("curl is installed");
            let got = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(got, status.to_string(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// What HAProxy's own log tells.
struct Logged {
    ingress: Vec<Told>,
    /// Those that a server answered.
    egress: Vec<Told>,
    /// The servers in the order of the requests.
    servers: Vec<String>,
}

impl Logged {
    /// From lines such as `… front api/api1 0/0/0/1/1 200 246 - - ---- 1/1/0/0/0 0/0 "GET /api/users HTTP/1.1"`. The last
    /// request is logged before it is answered in full, so all are there.
    fn read(haproxy: Container, front: &str) -> Logged {
        let mut logged = Logged { ingress: Vec::new(), egress: Vec::new(), servers: Vec::new() };
        for line in haproxy.log().0.lines() {
            let Some((head, request)) = line.strip_suffix('"').and_then(|line| line.split_once(" \"")) else {
                continue;
            };
            let (method, path) =
                request.rsplit_once(' ').and_then(|(rest, _)| rest.split_once(' ')).expect("a request");
            if path.starts_with("/stats") {
                continue;
            }
            let words: Vec<&str> = head.rsplit(' ').collect();
            let [_, _, _, _, _, _, status, _, place, ..] = words[..] else { panic!("not a line of httplog: {line}") };
            let status: u16 = status.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            let server = place.split_once('/').map_or("", |(_, server)| server).to_owned();
            logged.ingress.push((method.to_owned(), format!("{front}{path}"), status));
            if let Some((_, service, port)) = SERVICES.iter().find(|(name, _, _)| *name == server) {
                logged.egress.push((method.to_owned(), format!("http://{service}:{port}{path}"), status));
            }
            logged.servers.push(server);
        }
        logged
    }
}

/// The blocks of a process, those that have been written to their end. The guide's configuration records the whole
/// machine, so the others are not even read.
fn of_process(text: &str, pid: u32) -> Vec<Block> {
    const START: &str = "=== HTTP Transaction ===\n";
    const END: &str = "\n========================\n";
    let (and_more, and_end) = (format!("(PID: {pid},"), format!("(PID: {pid})"));
    let found = text.split_inclusive(END).filter_map(|piece| {
        let block = &piece[piece.find(START)?..];
        let source = block.lines().nth(1)?;
        (block.ends_with(END) && (source.contains(&and_more) || source.contains(&and_end))).then_some(block)
    });
    blocks(&found.collect::<String>())
}

/// Whether somebody asked HAProxy for it. Its own checks name no host, and its statistics are ours.
fn is_asked(block: &Block) -> bool {
    block.header("Request Headers", "host").is_some() && !block.field("URL").contains("/stats")
}

fn is_ingress(block: &Block) -> bool {
    block.field("Direction").starts_with("INGRESS")
}

fn told(block: &Block) -> Told {
    let status = block.field("Status").split(' ').next().and_then(|status| status.parse().ok());
    (block.field("Method").to_owned(), block.field("URL").to_owned(), status.unwrap_or(0))
}

fn sorted(mut told: Vec<Told>) -> Vec<Told> {
    told.sort();
    told
}

/// Both sides are those of HAProxy's log, each once: the distribution over the servers with it.
fn check_both_sides(of_haproxy: &[Block], logged: &Logged) {
    let (asked, checks): (Vec<&Block>, Vec<&Block>) = of_haproxy.iter().partition(|block| is_asked(block));
    let (ingress, egress): (Vec<&Block>, Vec<&Block>) = asked.iter().partition(|block| is_ingress(block));
    let tell = |side: Vec<&Block>| sorted(side.into_iter().map(told).collect());
    assert_eq!(tell(ingress), sorted(logged.ingress.clone()));
    assert_eq!(tell(egress), sorted(logged.egress.clone()));
    for block in checks.into_iter().filter(|block| !block.field("URL").contains("/stats")) {
        let (method, url, _) = told(block);
        assert!(method == "GET" && url.ends_with("/health") && !is_ingress(block), "{block:#?}");
    }
    for block in asked {
        let direction =
            if is_ingress(block) { "INGRESS ← (client to haproxy)" } else { "EGRESS → (haproxy to backend)" };
        assert_eq!(block.field("Direction"), direction);
        let fields = ["Source Process", "Direction", "Method", "URL", "Status", "Duration"];
        assert_eq!(block.order, fields, "{block:#?}");
    }
}

/// Whether HAProxy's own check of both API servers is there, by their names. The first checks may come before the
/// runtime has told of the services.
fn both_checked(found: &[Block]) -> bool {
    let urls = ["http://backend-api-1:8001/health", "http://backend-api-2:8002/health"];
    urls.iter().all(|url| found.iter().any(|block| block.field("URL") == *url && !is_asked(block)))
}

/// Round robin: no server of the API twice in a row.
fn check_turns(logged: &Logged) {
    let api: Vec<&String> = logged.servers.iter().filter(|server| server.starts_with("api")).collect();
    assert!(api.len() == 8 && api.windows(2).all(|two| two[0] != two[1]), "{api:?}");
}

/// The service in the URL is the one that says so in its answer.
fn check_bodies(of_haproxy: &[Block]) {
    for block in of_haproxy.iter().filter(|block| is_asked(block) && !is_ingress(block)) {
        let body = block.section("Response Body").unwrap_or_else(|| panic!("no body: {block:#?}"));
        let answer: Value = serde_json::from_str(&body).expect("the services answer in JSON");
        let service = answer["service"].as_str().unwrap_or_default();
        assert!(block.field("URL").starts_with(&format!("http://{service}:")), "{service}: {}", block.field("URL"));
    }
    let posts: Vec<_> = of_haproxy.iter().filter(|block| block.field("Method") == "POST").collect();
    assert_eq!(posts.len(), 2);
    for block in posts {
        assert_eq!(block.section("Request Body").as_deref(), Some(POSTED));
    }
}

/// The services are containers too.
fn check_services(text: &str, pids: &[(&str, Vec<u32>)]) {
    for (service, pids) in pids {
        let [pid] = pids[..] else { panic!("{service}: processes {pids:?}") };
        let found = of_process(text, pid);
        let names: BTreeSet<&str> = found.iter().map(|block| block.field("Source Process")).collect();
        let expected = format!("python3.11 (PID: {pid}, Container: {service})");
        assert_eq!(names, BTreeSet::from([expected.as_str()]));
    }
}

/// curl is no container, and lives for milliseconds.
fn check_clients(found: &[Block], count: usize) {
    let of_curl = |block: &&Block| {
        block.field("Source Process").starts_with("curl (PID: ")
            && block.field("URL").starts_with("http://localhost:8085/")
    };
    let clients: Vec<&Block> = found.iter().filter(of_curl).collect();
    assert_eq!(clients.len(), count, "transactions of curl");
    for block in clients {
        assert!(!block.field("Source Process").contains("Container"), "{block:#?}");
        assert!(block.field("Direction").starts_with("EGRESS"), "{block:#?}");
    }
}

#[test]
fn the_projects_own_compose_file_shows_each_request_on_both_sides() {
    let Some(engine) = Engine::or_skip() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/docker");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let files = ["compose.yaml", "haproxy.cfg", "backend-service.py", "qtap.yaml"].map(|name| (name, read(name)));
    let mut project = Project::new(&engine, "own", &files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let (front, stats) = (free_port(), free_port());
    project.set("FRONT_PORT", front);
    project.set("STATS_PORT", stats);
    project.amend("services: {sidetap: {image: 'sidetap:test'}}\n");
    engine.agent_image();
    project.up(&[]);
    wait_checked(stats);
    let mut agent = Agent::in_container(Container("sidetap-demo"));
    for (method, path) in [("GET", "/api/users"), ("GET", "/api/data"), ("GET", "/"), ("GET", "/health")] {
        let url = format!("http://localhost:{front}{path}");
        let output = Command::new("curl").args(["-sS", "--fail", "-m", "10", "-X", method, &url]).output();
        assert!(output.is_ok_and(|output| output.status.success()), "{url}: {:?}", HAPROXY.log());
    }
    let logged = Logged::read(HAPROXY, &format!("http://localhost:{front}"));
    assert_eq!((logged.ingress.len(), logged.egress.len()), (4, 4));
    let worker = HAPROXY.worker();
    agent.wait_text("both sides of each request, and the health checks", |text| {
        let found = of_process(text, worker);
        found.iter().filter(|block| is_asked(block)).count() >= 8 && both_checked(&found)
    });
    let process = format!("haproxy (PID: {worker}, Container: haproxy-demo)");
    let found = of_process(&agent.stop(), worker);
    for block in &found {
        assert_eq!(block.field("Source Process"), process);
    }
    check_both_sides(&found, &logged);
}
