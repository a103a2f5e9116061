//! `sidetap reload`: asks the agent that listens at an address to read its configuration again.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::server::NAME;
use super::{Address, Reloaded};

/// How long a reload may take; the agent gives up a little earlier.
const PATIENCE: Duration = Duration::from_secs(25);
/// No answer is larger, in bytes.
const LARGEST: u64 = 1 << 20;

const REQUEST: &[u8] = b"POST /reload HTTP/1.1\r\nHost: sidetap\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// What the agent made of it. An error says that no agent could be asked.
pub fn reload(address: &Address) -> Result<Reloaded> {
    let connected = || format!("no sidetap can be asked at {address}: is it running, and with this --http-listen?");
    let answer = match address {
        Address::None => bail!("an agent without an admin listener cannot be asked: send it SIGHUP (kill -HUP PID)"),
        Address::Tcp(to) => {
            let stream = TcpStream::connect_timeout(to, PATIENCE).with_context(connected)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).with_context(connected)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(stream)
        }
    };
    understand(&answer.with_context(|| format!("the agent at {address} gave no answer"))?)
        .with_context(|| format!("what answers at {address}"))
}

fn ask(mut stream: impl Read + Write) -> std::io::Result<Vec<u8>> {
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    match stream.take(LARGEST).read_to_end(&mut answer) {
        // All that matters has come.
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {}
        other => _ = other?,
    }
    Ok(answer)
}

/// The status and text of a whole answer.
fn understand(answer: &[u8]) -> Result<Reloaded> {
    let answer = String::from_utf8_lossy(answer);
    let (head, text) = answer.split_once("\r\n\r\n").context("is no HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).context("is no HTTP")?;
    let server = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("server"));
    let name = |name: &str| name.trim().split('/').next() == NAME.split('/').next();
    ensure!(server.is_some_and(|(_, value)| name(value)), "is not sidetap");
    let text = text.trim_end().to_owned();
    match status {
        "200" => Ok(Ok(text)),
        "422" => Ok(Err(text)),
        _ => bail!("says: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let answer = |status: &str, text: &str| {
            let head = format!("HTTP/1.1 {status}\r\nserver: {NAME}\r\ncontent-length: {}\r\n\r\n", text.len());
            understand((head + text).as_bytes())
        };
        assert_eq!(answer("200 OK", "reloaded a.yaml\n").unwrap(), Ok("reloaded a.yaml".to_owned()));
        assert_eq!(answer("422 Unprocessable Entity", "a.yaml:1:1: no\nb\n").unwrap(), Err("a.yaml:1:1: no\nb".into()));
        assert_eq!(format!("{:#}", answer("503 Service Unavailable", "stopping\n").unwrap_err()), "says: stopping");
        for other in ["", "SSH-2.0", "HTTP/1.1 200 OK\r\nserver: nginx\r\n\r\nreloaded", "HTTP/1.1 200 OK\r\n\r\n"] {
            assert!(understand(other.as_bytes()).is_err(), "{other}");
        }
    }
}
