//! nghttp2's `h2load`: many requests over few connections.

use std::process::Command;

use super::{Scratch, tls};

/// A load: how many connections, streams at once on each, and requests in all.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub streams: usize,
    pub requests: usize,
}

/// 1,000 paths: three in four exist.
pub fn paths() -> impl Iterator<Item = String> {
    (0..1000).map(|number| if number % 4 == 3 { format!("/none/{number}") } else { format!("/text/{number}") })
}

impl Load {
    /// The command; `options` such as `--h1`.
    pub fn command(&self, port: u16, folder: &Scratch, options: &[&str]) -> Command {
        self.command_to(&format!("http://127.0.0.1:{port}"), port, folder, options)
    }

    fn command_to(&self, origin: &str, port: u16, folder: &Scratch, options: &[&str]) -> Command {
        let urls: String = paths().map(|path| format!("{origin}{path}\n")).collect();
        let list = folder.file(&format!("urls-{port}"), &urls);
        let Load { connections, streams, requests } = self;
        let mut command = Command::new("h2load");
        command.args(["-t", "1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
        command.args(["-n", &requests.to_string()]).args(options).arg("-i").arg(list);
        command
    }

    /// Makes all the requests. Each must be answered, whatever with.
    pub fn run(&self, port: u16, options: &[&str]) {
        let folder = Scratch::new("h2load");
        self.finish(&mut self.command(port, &folder, options));
    }

    /// The command for a server that speaks TLS, under the name of its certificate.
    pub fn tls_command(&self, port: u16, folder: &Scratch, options: &[&str]) -> Command {
        let mut command = self.command_to(&format!("https://{}:{port}", tls::NAME), port, folder, options);
        command.args(["--ciphers=ALL", &format!("--connect-to=127.0.0.1:{port}")]);
        command
    }

    /// As [`Load::run`] over TLS.
    pub fn run_tls(&self, port: u16, options: &[&str]) {
        let folder = Scratch::new("h2load");
        self.finish(&mut self.tls_command(port, &folder, options));
    }

    fn finish(&self, command: &mut Command) {
        let output = command.output().expect("h2load is installed");
        let summary = String::from_utf8_lossy(&output.stdout);
        let expected = format!("{} done,", self.requests);
        let is_whole = summary.contains(&expected) && summary.contains(" 0 errored, 0 timeout");
        assert!(is_whole, "{self:?}: {summary}{}", String::from_utf8_lossy(&output.stderr));
    }
}
