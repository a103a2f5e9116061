//! HAProxy, in the foreground, and its log as an oracle.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{Program, listens};
use super::{LIMIT, Scratch, data, fill, until};

/// Where Debian installs it, and what configurations that tap it name.
pub const EXE: &str = "/usr/sbin/haproxy";

/// Where a HAProxy and its libraries are: the root of this machine, or of a tree with another release of Debian.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    pub fn machine() -> Root {
        Root(PathBuf::from("/"))
    }

    /// That of a release of Debian, as `get_haproxy` of `scripts/lib.sh` has unpacked it. None where it has not; says so.
    pub fn of_release(release: &str) -> Option<Root> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/haproxy").join(release);
        if !folder.join("packages").exists() {
            println!("skipped: Debian {release}'s HAProxy is not in {}: scripts/test gets it", folder.display());
            return None;
        }
        Some(Root(folder.canonicalize().expect("it was just found")))
    }

    pub fn is_other_release(&self) -> bool {
        self.0 != Path::new("/")
    }

    /// The program's path as this machine sees it.
    pub fn exe(&self) -> String {
        self.0.join(EXE.trim_start_matches('/')).display().to_string()
    }

    /// Runs it in there, with the folder for temporary files and the devices of this machine.
    fn command(&self) -> Command {
        if !self.is_other_release() {
            return Command::new(EXE);
        }
        // Each step takes the place of the one before, so the process id stays that of the child.
        let script = r#"root=$1 && shift
            for place in "$1" /dev; do mkdir -p "$root$place" && mount --bind "$place" "$root$place" || exit; done
            shift && exec chroot "$root" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&self.0).arg(std::env::temp_dir()).arg(EXE);
        command
    }

    /// What `haproxy -vv` says of how it was built and what it runs on.
    pub fn version(&self) -> String {
        let output = self.command().arg("-vv").output().expect("unshare is of every Debian");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// A line of its log: what HAProxy says it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub id: String,
    pub client: Option<SocketAddr>,
    /// HAProxy's own end of the connection to the server.
    pub own: Option<SocketAddr>,
    pub server: Option<SocketAddr>,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub bytes_read: u64,
    pub bytes_sent: u64,
    /// First byte of the request to last byte of the response.
    pub active_ms: f64,
    pub ending: String,
}

pub struct Haproxy {
    program: Program,
    /// Dropped last: the program has files here.
    _folder: Scratch,
}

impl Haproxy {
    /// Starts HAProxy on a whole configuration and waits until the ports of its `bind` lines listen.
    pub fn start(config: &str) -> Haproxy {
        let folder = Scratch::new("haproxy");
        Haproxy::start_in(folder, config, Command::new(EXE))
    }

    /// Starts it on the common base with these proxies. A line `@log@` in a frontend stands for the log format that
    /// [`Haproxy::log`] reads.
    pub fn with(proxies: &str) -> Haproxy {
        Haproxy::of(&Root::machine(), proxies)
    }

    /// As [`Haproxy::with`], of that root.
    pub fn of(root: &Root, proxies: &str) -> Haproxy {
        let folder = Scratch::new("haproxy");
        let config = on_base(&folder, proxies);
        Haproxy::start_in(folder, &config, root.command())
    }

    /// As [`Haproxy::with`], by a copy of the program that only the test knows.
    pub fn with_exe(exe: &Path, proxies: &str) -> Haproxy {
        let folder = Scratch::new("haproxy");
        let config = on_base(&folder, proxies);
        Haproxy::start_in(folder, &config, Command::new(exe))
    }

    /// As [`Haproxy::with`], with an `/etc/hosts` of its own, as in a container.
    pub fn with_hosts(proxies: &str, hosts: &str) -> Haproxy {
        let folder = Scratch::new("haproxy");
        let config = on_base(&folder, proxies);
        let hosts = folder.file("hosts", hosts);
        // Each step takes the place of the one before, so the process id stays that of the child.
        let script = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts).arg(EXE);
        Haproxy::start_in(folder, &config, command)
    }

    fn start_in(folder: Scratch, config: &str, mut command: Command) -> Haproxy {
        let file = folder.file("haproxy.cfg", config);
        let mut program = Program::start("haproxy", command.args(["-db", "-f"]).arg(&file), folder.path());
        let places = bound(config);
        program.wait_ready("listening socket", LIMIT, |_| {
            places.iter().all(|place| match place {
                Bound::Port(port) => listens(*port),
                Bound::Path(path) => path.exists(),
            })
        });
        Haproxy { program, _folder: folder }
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub fn tail(&self) -> String {
        self.program.tail()
    }

    /// Everything logged so far in the tests' own format.
    pub fn log(&self) -> Vec<Logged> {
        self.program.stdout().lines().filter_map(parse).collect()
    }

    /// The log once it has so many lines.
    pub fn wait_log(&self, count: usize) -> Vec<Logged> {
        until(LIMIT, || Some(self.log()).filter(|log| log.len() >= count))
            .unwrap_or_else(|| panic!("haproxy logged {} of {count} requests{}", self.log().len(), self.tail()))
    }

    /// What it logged for that request id; waits for it.
    pub fn logged_as(&self, id: &str) -> Logged {
        until(LIMIT, || self.log().into_iter().find(|line| line.id == id))
            .unwrap_or_else(|| panic!("haproxy has not logged {id:?}{}", self.tail()))
    }

    /// Waits for a line of its log that contains `text`, such as a server's change of state.
    pub fn wait_line(&self, text: &str) {
        until(LIMIT, || {
            let found = self.program.stdout().contains(text) || self.program.stderr().contains(text);
            found.then_some(())
        })
        .unwrap_or_else(|| panic!("haproxy has not said {text:?}{}", self.tail()));
    }
}

/// A configuration of the common base and these proxies.
fn on_base(folder: &Scratch, proxies: &str) -> String {
    let stats = folder.path().join("stats.sock").display().to_string();
    let base = fill(&data("base.cfg"), &[("stats", &stats)]);
    base + &proxies.replace("    @log@\n", &data("frontend.cfg"))
}

enum Bound {
    Port(u16),
    Path(PathBuf),
}

/// What the `bind` lines name: `bind 127.0.0.1:8080`, `bind *:80`, `bind unix@/path`.
fn bound(config: &str) -> Vec<Bound> {
    let places = config.lines().filter_map(|line| line.trim().strip_prefix("bind ")?.split_whitespace().next());
    places
        .filter_map(|place| match place.strip_prefix("unix@") {
            Some(path) => Some(Bound::Path(Path::new(path).to_owned())),
            None => place.rsplit(':').next()?.parse().ok().map(Bound::Port),
        })
        .collect()
}

fn parse(line: &str) -> Option<Logged> {
    let words: Vec<&str> = line.strip_prefix("tap|")?.split('|').collect();
    let [id, client, own, server, method, path, status, read, sent, active, ending] = words[..] else { return None };
    Some(Logged {
        id: if id == "-" { String::new() } else { id.to_owned() },
        client: client.parse().ok(),
        own: own.parse().ok(),
        server: server.parse().ok(),
        method: method.to_owned(),
        path: path.to_owned(),
        status: status.parse().ok()?,
        bytes_read: read.parse().ok()?,
        bytes_sent: sent.parse().ok()?,
        active_ms: active.parse().ok()?,
        ending: ending.to_owned(),
    })
}
