//! nginx as one process, its access log as an oracle.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::program::{Program, listens};
use super::tls::Authority;
use super::{LIMIT, Scratch, data, fill, free_port, until};

/// Where Debian installs it.
pub const EXE: &str = "/usr/sbin/nginx";

/// A line of the access log.
#[derive(Debug, Clone, PartialEq)]
pub struct Accessed {
    pub id: String,
    pub client: Option<SocketAddr>,
    pub method: String,
    pub path: String,
    pub status: u16,
    /// The whole request with its head, in bytes.
    pub request_length: u64,
    /// Body bytes of the response.
    pub body_sent: u64,
    /// When it was logged, at the end of the request: seconds since the epoch, to the millisecond.
    pub ended: f64,
    pub seconds: f64,
    pub connection: u64,
}

pub struct Nginx {
    program: Program,
    port: u16,
    folder: Scratch,
}

impl Nginx {
    /// Serves `files` (name, content) under `/file/`, `/text/…` with a short text, and `/health`.
    pub fn start(sendfile: bool, files: &[(&str, &[u8])]) -> Nginx {
        Nginx::start_on("nginx.conf", sendfile, files, &[])
    }

    /// The same in HTTP/2 with prior knowledge, and 404 under `/none/`. Each response has its request's `X-Request-Id`, or
    /// one that nginx made.
    pub fn http2(files: &[(&str, &[u8])]) -> Nginx {
        Nginx::start_on("nginx-http2.conf", false, files, &[])
    }

    /// The same over TLS, in HTTP/1 or HTTP/2 as the client likes; each response says what it came by.
    pub fn tls(authority: &Authority) -> Nginx {
        Nginx::start_on("nginx-tls.conf", false, &[], &[("authority", &authority.path().display().to_string())])
    }

    fn start_on(config: &str, sendfile: bool, files: &[(&str, &[u8])], more: &[(&str, &str)]) -> Nginx {
        let folder = Scratch::new("nginx");
        let www = folder.path().join("www");
        fs::create_dir_all(&www).expect("the scratch folder is ours");
        for (name, content) in files {
            fs::write(www.join(name), content).expect("the scratch folder is ours");
        }
        let port = free_port();
        let values = [
            ("folder", folder.path().display().to_string()),
            ("sendfile", if sendfile { "on" } else { "off" }.to_owned()),
            ("port", port.to_string()),
        ];
        let mut values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        values.extend(more);
        let file = folder.file("nginx.conf", &fill(&data(config), &values));
        let mut command = Command::new(EXE);
        command.args(["-p", &folder.path().display().to_string(), "-c"]).arg(&file);
        let mut program = Program::start("nginx", &mut command, folder.path());
        program.wait_ready("listening socket", LIMIT, |_| listens(port));
        Nginx { program, port, folder }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub fn log(&self) -> Vec<Accessed> {
        read(&self.folder.path().join("access.log"))
    }

    /// The line of that request id; waits for it.
    pub fn logged_as(&self, id: &str) -> Accessed {
        until(LIMIT, || self.log().into_iter().find(|line| line.id == id))
            .unwrap_or_else(|| panic!("nginx has not logged {id:?}{}", self.program.tail()))
    }

    /// The log once it has so many lines.
    pub fn wait_log(&self, count: usize) -> Vec<Accessed> {
        until(LIMIT, || Some(self.log()).filter(|log| log.len() >= count))
            .unwrap_or_else(|| panic!("nginx logged {} of {count} requests{}", self.log().len(), self.program.tail()))
    }
}

fn read(path: &Path) -> Vec<Accessed> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Accessed> {
    let words: Vec<&str> = line.strip_prefix("tap|")?.split('|').collect();
    let [id, client, method, path, status, length, body, ended, seconds, connection] = words[..] else { return None };
    Some(Accessed {
        id: if id == "-" { String::new() } else { id.to_owned() },
        client: client.parse().ok(),
        method: method.to_owned(),
        path: path.to_owned(),
        status: status.parse().ok()?,
        request_length: length.parse().ok()?,
        body_sent: body.parse().ok()?,
        ended: ended.parse().ok()?,
        seconds: seconds.parse().ok()?,
        connection: connection.parse().ok()?,
    })
}
