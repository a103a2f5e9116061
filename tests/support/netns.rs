//! Two network namespaces with a cable between them, as another network of this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::program::Program;
use super::{LIMIT, Scratch};

pub struct Pair {
    client: String,
    server: String,
    folder: Scratch,
}

impl Pair {
    /// The client has one address, the server the other, in a network of 256.
    pub fn new(client_ip: &str, server_ip: &str) -> Pair {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (client, server) = (format!("st-client-{unique}"), format!("st-server-{unique}"));
        let pair = Pair { client, server, folder: Scratch::new("netns") };
        ip(&format!("netns add {}", pair.client));
        ip(&format!("netns add {}", pair.server));
        ip(&format!("-n {} link add cable type veth peer name cable netns {}", pair.client, pair.server));
        for (namespace, address) in [(&pair.client, client_ip), (&pair.server, server_ip)] {
            ip(&format!("-n {namespace} addr add {address}/24 dev cable"));
            ip(&format!("-n {namespace} link set cable up"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        pair
    }

    /// Runs the guide's service on the server's side.
    pub fn serve(&self, script: &Path, port: u16) -> Program {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.server, "/usr/bin/python3", "-u"]).arg(script).arg(port.to_string());
        let mut server = Program::start("server", &mut command, self.folder.path());
        server.wait_ready("line \"listening\"", LIMIT, |server| server.stdout().contains("listening"));
        server
    }

    /// Gives the client's side an `/etc/hosts` of its own.
    pub fn set_hosts(&self, hosts: &str) {
        let folder = self.hosts_folder();
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        fs::write(folder.join("hosts"), hosts).expect("the folder was just made");
    }

    /// Where `ip netns exec` looks for what it puts in the place of files in /etc.
    fn hosts_folder(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.client)
    }

    /// Runs curl on the client's side.
    pub fn curl(&self, arguments: &[&str]) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.client, "curl", "-sS", "--fail", "-m", "10", "-o", "/dev/null"])
            .args(arguments)
            .output()
            .expect("ip is installed");
        assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The same under a shell that stays: with its last process a mount namespace goes, and the `/etc/hosts` in it.
    pub fn curl_and_stay(&self, arguments: &[&str]) -> Program {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.client, "sh", "-c", r#""$@" && echo asked && exec sleep 60"#, "sh"])
            .args(["curl", "-sS", "--fail", "-m", "10", "-o", "/dev/null"])
            .args(arguments);
        let mut shell = Program::start("curl", &mut command, self.folder.path());
        shell.wait_ready("end of curl", LIMIT, |shell| shell.stdout().contains("asked"));
        shell
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
        let _ = fs::remove_dir_all(self.hosts_folder());
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
