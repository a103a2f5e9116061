//! A client that knows exactly what it sent, what it got, and when.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::socket::Socket;
use super::wire::{Fields, Head, Reader, chunks};

/// A request to be sent.
pub struct Request {
    method: String,
    target: String,
    headers: Fields,
    body: Vec<u8>,
    chunk: Option<usize>,
}

impl Request {
    /// `id` goes into `X-Request-Id`, by which records and logs are matched.
    pub fn new(method: &str, target: &str, id: &str) -> Request {
        let headers = vec![("Host".into(), "example.test".into()), ("X-Request-Id".into(), id.into())];
        Request { method: method.into(), target: target.into(), headers, body: Vec::new(), chunk: None }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The headers of the example in RFC 6455 section 1.3.
    pub fn websocket(self) -> Request {
        self.header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    /// A body with Content-Length.
    pub fn body(self, body: Vec<u8>) -> Request {
        let length = body.len().to_string();
        Request { body, ..self }.header("Content-Length", &length)
    }

    /// A body in chunks of at most `size` bytes.
    pub fn chunked(self, body: Vec<u8>, size: usize) -> Request {
        Request { body, chunk: Some(size), ..self }.header("Transfer-Encoding", "chunked")
    }

    /// The head as it goes out.
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body as it goes out.
    pub fn body_bytes(&self) -> Vec<u8> {
        let Some(size) = self.chunk else { return self.body.clone() };
        let mut framed = chunks(&self.body, size, "");
        framed.extend_from_slice(b"0\r\n\r\n");
        framed
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head_bytes();
        bytes.extend(self.body_bytes());
        bytes
    }
}

/// A response as it came in.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Statuses of the interim responses before it.
    pub interim: Vec<u16>,
    pub first_byte: SystemTime,
    pub last_byte: SystemTime,
}

/// One connection.
pub struct Client(Reader<Socket>);

impl Client {
    pub fn tcp(port: u16) -> Client {
        Client::over(Socket::tcp(port))
    }

    pub fn unix(path: &Path) -> Client {
        Client::over(Socket::unix(path))
    }

    fn over(socket: Socket) -> Client {
        socket.set_read_timeout(Duration::from_secs(20));
        Client(Reader::new(socket))
    }

    /// This end's address, which is the record's `source` on ingress.
    pub fn local(&mut self) -> SocketAddr {
        self.0.stream().local().expect("a TCP socket has an address")
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send {} bytes: {error}", bytes.len()));
    }

    /// Sends where the other end may hang up midway.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.stream().write_all(bytes)
    }

    /// Sends a request and reads its response.
    pub fn ask(&mut self, request: &Request) -> Response {
        self.send(&request.bytes());
        self.response(&request.method)
    }

    pub fn get(&mut self, target: &str, id: &str) -> Response {
        self.ask(&Request::new("GET", target, id))
    }

    /// The next response, interim ones before it included. `method` is that of its request.
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|error| panic!("no response to {method}: {error}"))
    }

    pub fn try_response(&mut self, method: &str) -> io::Result<Response> {
        self.0.has_more()?;
        let first_byte = SystemTime::now();
        let mut interim = Vec::new();
        let (status, head) = loop {
            let head = self.0.head()?.ok_or_else(|| io::Error::other("the connection ended"))?;
            let status = head.word(1).parse().map_err(|_| io::Error::other(format!("no status: {:?}", head.first)))?;
            if (102..200).contains(&status) || status == 100 {
                interim.push(status);
                continue;
            }
            break (status, head);
        };
        let (body, trailers) = self.body(method, status, &head)?;
        Ok(Response { status, head, body, trailers, interim, first_byte, last_byte: SystemTime::now() })
    }

    /// Waits for an interim response, such as 100 before the body is sent.
    pub fn wait_interim(&mut self, status: u16) {
        let head = self.0.head().ok().flatten().unwrap_or_else(|| panic!("no interim response {status}"));
        assert_eq!(head.word(1), status.to_string());
    }

    /// RFC 9112 section 6.3.
    fn body(&mut self, method: &str, status: u16, head: &Head) -> io::Result<(Vec<u8>, Fields)> {
        let tunnel = status == 101 || (method == "CONNECT" && (200..300).contains(&status));
        if method == "HEAD" || tunnel || matches!(status, 204 | 304) {
            return Ok((Vec::new(), Vec::new()));
        }
        if head.has("transfer-encoding", "chunked") {
            return self.0.chunked();
        }
        match head.content_length() {
            Some(length) => Ok((self.0.exactly(length)?, Vec::new())),
            None => Ok((self.0.rest()?, Vec::new())),
        }
    }

    /// So many raw bytes, behind an upgrade.
    pub fn exactly(&mut self, count: usize) -> Vec<u8> {
        self.0.exactly(count).unwrap_or_else(|error| panic!("no {count} bytes: {error}"))
    }

    /// Waits until the other end has closed, dropping what still comes.
    pub fn wait_closed(&mut self) {
        // A reset is a close too.
        let _ = self.0.rest();
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        self.0.stream().shutdown(Shutdown::Write);
    }
}
