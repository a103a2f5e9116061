//! The Docker engine, and containers that go with their owner.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use super::program::Program;
use super::sidetap::{CapturePath, Sidetap, assert_root, binary};
use super::{LIMIT, Scratch, until};

/// How long the engine may take to start, and to end.
const ENGINE: Duration = Duration::from_secs(60);

/// What the services of the tests are made of; `scripts/images` makes them.
const IMAGES: [&str; 2] = ["haproxy:2.9-alpine", "python:3.11-slim"];

/// The agent's image while a test runs.
const AGENT: &str = "sidetap:test";

/// The engine that runs, or else one for the duration of a test.
pub struct Engine {
    own: Option<(Program, Scratch)>,
}

impl Engine {
    /// The engine; without one, says why.
    pub fn or_skip() -> Option<Engine> {
        assert_root();
        Engine::get().inspect_err(|reason| println!("skipped: no Docker: {reason}")).ok()
    }

    fn get() -> Result<Engine, String> {
        let mut engine = Engine { own: None };
        engine.start_if_installed()?;
        if !IMAGES.iter().all(|image| ask(&["image", "inspect", image]).is_ok()) {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/images");
            run(Command::new(script).env("SIDETAP_BIN", binary()))?;
            engine.start_if_installed()?;
        }
        ask(&["info"]).map(|_| engine)
    }

    fn start_if_installed(&mut self) -> Result<(), String> {
        if ask(&["info"]).is_ok() || Command::new("dockerd").arg("--version").output().is_err() {
            return Ok(());
        }
        let folder = Scratch::new("dockerd");
        let mut program = Program::start("dockerd", &mut Command::new("dockerd"), folder.path());
        let up = until(ENGINE, || {
            let gone = program.has_exited().map(|status| Err(format!("dockerd: {status}{}", program.tail())));
            if ask(&["info"]).is_ok() { Some(Ok(())) } else { gone }
        });
        self.own = Some((program, folder));
        up.unwrap_or_else(|| Err(format!("dockerd does not answer within {ENGINE:?}")))
    }

    /// Makes the agent's image, of the binary under test.
    pub fn agent_image(&self) {
        let folder = Scratch::new("image");
        let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/docker/Dockerfile");
        fs::copy(binary(), folder.path().join("sidetap")).expect("the binary is there");
        let context = folder.path().display().to_string();
        docker(&["build", "-q", "-t", AGENT, "-f", &dockerfile.display().to_string(), &context]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = ask(&["image", "rm", "-f", AGENT]);
        let Some((program, _folder)) = &mut self.own else { return };
        if program.has_exited().is_none() {
            // Killed outright it would leave its containerd behind.
            program.signal("TERM");
            until(ENGINE, || program.has_exited());
        }
    }
}

/// Runs a docker command and returns its standard output.
pub fn docker(arguments: &[&str]) -> String {
    ask(arguments).unwrap_or_else(|error| panic!("docker {}: {error}", arguments.join(" ")))
}

fn ask(arguments: &[&str]) -> Result<String, String> {
    run(Command::new("docker").args(arguments))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let lines = text(&output.stdout) + &text(&output.stderr);
    let last: Vec<&str> = lines.lines().rev().take(10).collect();
    Err(last.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A compose file with what it names, in a folder of its own. All of it is removed with its owner.
pub struct Project<'a> {
    name: String,
    folder: Scratch,
    variables: Vec<(&'static str, String)>,
    _engine: &'a Engine,
}

impl<'a> Project<'a> {
    /// Of these files, `docker-compose.yaml` among them. Nothing runs yet.
    pub fn new(engine: &'a Engine, name: &str, files: &[(&str, &str)]) -> Project<'a> {
        let folder = Scratch::new(name);
        for (file, content) in files {
            folder.file(file, content);
        }
        let project = Project { name: format!("sidetap-test-{name}"), folder, variables: Vec::new(), _engine: engine };
        project.down(); // what an earlier run may have left, had it been killed
        project
    }

    /// Sets an environment variable that the compose file asks for.
    pub fn set(&mut self, name: &'static str, value: impl ToString) {
        self.variables.push((name, value.to_string()));
    }

    /// Adds what is to be different from the compose file.
    pub fn amend(&self, text: &str) {
        self.folder.file("docker-compose.override.yaml", text);
    }

    /// Starts these services, all of them where none is named, without waiting for what they do then.
    pub fn up(&self, services: &[&str]) {
        let arguments = [&["up", "-d"], services].concat();
        self.compose(&arguments).unwrap_or_else(|error| panic!("docker compose {}: {error}", arguments.join(" ")));
    }

    fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("docker");
        command.args(["compose", "-p", &self.name]).args(arguments).current_dir(self.folder.path());
        run(command.envs(self.variables.iter().map(|(name, value)| (name, value))))
    }

    fn down(&self) {
        if let Err(error) = self.compose(&["down", "-v", "--remove-orphans", "--rmi", "local", "-t", "0"]) {
            println!("docker compose down: {error}");
        }
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.compose(&["logs", "--tail", "15", "--no-color"]).unwrap_or_default());
        }
        self.down();
    }
}

/// A running container, by its name.
#[derive(Clone, Copy)]
pub struct Container(pub &'static str);

impl Container {
    fn field(self, path: &str) -> String {
        docker(&["inspect", "-f", &format!("{{{{{path}}}}}"), self.0]).trim().to_owned()
    }

    pub fn id(self) -> String {
        self.field(".Id")
    }

    /// The machine's id of its first process.
    pub fn pid(self) -> u32 {
        self.field(".State.Pid").parse().expect("a number")
    }

    /// The machine's ids of all its processes.
    pub fn pids(self) -> Vec<u32> {
        docker(&["top", self.0, "-o", "pid"]).lines().skip(1).filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// HAProxy's worker: the process that its first one, the master, has made.
    pub fn worker(self) -> u32 {
        let worker = until(LIMIT, || self.pids().into_iter().find(|pid| *pid != self.pid()));
        worker.unwrap_or_else(|| panic!("{} has no second process", self.0))
    }

    /// What it has written to standard output and standard error.
    pub fn log(self) -> (String, String) {
        let output: Output = Command::new("docker").args(["logs", self.0]).output().expect("docker runs");
        (text(&output.stdout), text(&output.stderr))
    }

    pub fn remove(self) {
        docker(&["rm", "-f", self.0]);
    }
}

/// The agent under test, on the machine or as a container.
pub enum Agent {
    Machine(Sidetap),
    Container { container: Container, log: Program, _folder: Scratch },
}

impl Agent {
    /// Starts it on the machine, seeing socket I/O the way this kernel does it best.
    pub fn on_machine(config: &str) -> Agent {
        Agent::Machine(Sidetap::start(config, CapturePath::best()))
    }

    /// Follows one that was started as a container, and waits until it captures.
    pub fn in_container(container: Container) -> Agent {
        let folder = Scratch::new("agent");
        let mut log =
            Program::start(container.0, Command::new("docker").args(["logs", "-f", container.0]), folder.path());
        log.wait_ready("line \"capturing\"", 2 * LIMIT, |log| log.stderr().contains("capturing"));
        Agent::Container { container, log, _folder: folder }
    }

    pub fn wait_text(&mut self, what: &str, ready: impl Fn(&str) -> bool) {
        match self {
            Agent::Machine(sidetap) => sidetap.wait_text(what, ready),
            Agent::Container { log, .. } => log.wait_ready(what, LIMIT, |log| ready(&log.stdout())),
        }
    }

    /// Ends it as its surroundings would, and returns what it wrote to standard output.
    pub fn stop(self) -> String {
        match self {
            Agent::Machine(sidetap) => sidetap.stop().stdout,
            Agent::Container { container, mut log, .. } => {
                docker(&["stop", "-t", "20", container.0]);
                log.wait_exit(LIMIT);
                let status = container.field(".State.ExitCode");
                assert_eq!(status, "0", "exit status of the agent{}", log.tail());
                println!("{}", log.stderr().lines().last().unwrap_or_default());
                log.stdout()
            }
        }
    }
}
