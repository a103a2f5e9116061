//! A server whose path says what it does, and which remembers what it served.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | N bytes of `payload::bytes` with Content-Length |
//! | `/chunked/N?size=S&extension=1&trailers=1` | the same in chunks of S bytes (4096) |
//! | `/close/N` | the same up to the end of the connection |
//! | `/coded/CODING/N` | N bytes of text in gzip, deflate, br or zstd |
//! | `/status/NNN` | that status, with a body where it may have one |
//! | `/echo` | `LENGTH CHECKSUM` of the request's body |
//! | `/mirror` | the request's body, Content-Length |
//! | `/slow/MS` | an empty 200 after so long |
//! | `/drip/N/MS` | N bytes in four parts, so long apart |
//! | `/early-hints` | 103, then 200 |
//! | `/upgrade` | 101, then sends back what it receives |
//! | `/drop` | half of the body it announced, then the end of the connection |
//! | CONNECT | 200, then sends back what it receives |
//! | `/health` | 200, or what `set_health` said |
//! | other | 200 with the path as its body |

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::socket::Socket;
use super::wire::{Head, Reader, chunks};
use super::{LIMIT, payload, until};

/// One request as the backend saw it.
#[derive(Debug, Clone)]
pub struct Served {
    /// The request's `x-request-id`, empty where it has none.
    pub id: String,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub received: usize,
    pub checksum: u64,
    /// Body bytes of the answer, without framing.
    pub sent: usize,
    pub peer: Option<SocketAddr>,
    /// Which connection of this backend, counted from 0.
    pub connection: usize,
}

struct Shared {
    served: Mutex<Vec<Served>>,
    open: Mutex<Vec<Socket>>,
    health: AtomicU16,
    ending: AtomicBool,
}

enum Place {
    Tcp(SocketAddr),
    Path(PathBuf),
}

pub struct Backend {
    shared: Arc<Shared>,
    place: Place,
}

impl Backend {
    pub fn start() -> Backend {
        Backend::start_at("127.0.0.1")
    }

    /// Listens on another address of this machine.
    pub fn start_at(ip: &str) -> Backend {
        let listener = TcpListener::bind((ip, 0)).unwrap_or_else(|error| panic!("bind {ip}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        Backend::run(Place::Tcp(address), move || {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        })
    }

    /// Listens on a Unix socket instead.
    pub fn start_unix(path: &Path) -> Backend {
        let listener = UnixListener::bind(path).unwrap_or_else(|error| panic!("bind {}: {error}", path.display()));
        Backend::run(Place::Path(path.to_owned()), move || listener.accept().map(|(stream, _)| Socket::Unix(stream)))
    }

    fn run(place: Place, accept: impl Fn() -> io::Result<Socket> + Send + 'static) -> Backend {
        let shared = Arc::new(Shared {
            served: Mutex::default(),
            open: Mutex::default(),
            health: AtomicU16::new(200),
            ending: AtomicBool::new(false),
        });
        let for_accept = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in 0.. {
                let Ok(socket) = accept() else { return };
                if for_accept.ending.load(Ordering::Acquire) {
                    return;
                }
                let Ok(handle) = socket.again() else { continue };
                for_accept.open.lock().expect("no holder panicked").push(handle);
                let shared = Arc::clone(&for_accept);
                // A peer that goes away midway is what some tests want to see.
                thread::spawn(move || drop(serve(&shared, socket, connection)));
            }
        });
        Backend { shared, place }
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        match &self.place {
            Place::Tcp(address) => address.port(),
            Place::Path(path) => panic!("the backend listens on {}, not on a port", path.display()),
        }
    }

    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::Release);
    }

    pub fn served(&self) -> Vec<Served> {
        self.shared.served.lock().expect("no holder panicked").clone()
    }

    /// The request with that id; waits for it.
    pub fn served_as(&self, id: &str) -> Served {
        until(LIMIT, || self.served().into_iter().find(|served| served.id == id))
            .unwrap_or_else(|| panic!("the backend has not served {id:?}; it served {:#?}", self.served()))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        for socket in self.shared.open.lock().expect("no holder panicked").drain(..) {
            socket.shutdown(Shutdown::Both);
        }
        // The accepting thread is woken by one last connection.
        match &self.place {
            Place::Tcp(address) => drop(std::net::TcpStream::connect(address)),
            Place::Path(path) => drop(std::os::unix::net::UnixStream::connect(path)),
        }
    }
}

fn serve(shared: &Shared, socket: Socket, connection: usize) -> io::Result<()> {
    let peer = socket.peer();
    let mut out = socket.again()?;
    let mut reader = Reader::new(socket);
    while let Some(head) = reader.head()? {
        if head.has("expect", "100-continue") {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = if head.has("transfer-encoding", "chunked") {
            reader.chunked()?.0
        } else {
            reader.exactly(head.content_length().unwrap_or(0))?
        };
        let answer = Answer::to(shared, &head, &body);
        let entry = Served {
            id: head.header("x-request-id").unwrap_or_default().to_owned(),
            method: head.word(0).to_owned(),
            path: head.word(1).to_owned(),
            status: answer.status,
            received: body.len(),
            checksum: payload::checksum(&body),
            sent: answer.sent,
            peer,
            connection,
        };
        shared.served.lock().expect("no holder panicked").push(entry);
        for (part, pause) in &answer.parts {
            thread::sleep(*pause);
            out.write_all(part)?;
        }
        match answer.then {
            Then::Tunnel => return echo(&mut reader, &mut out),
            Then::Close => break,
            Then::KeepAlive if head.has("connection", "close") || head.word(2) == "HTTP/1.0" => break,
            Then::KeepAlive => {}
        }
    }
    out.shutdown(Shutdown::Both);
    Ok(())
}

/// Sends back what comes, as it comes.
fn echo<S: Read>(reader: &mut Reader<S>, out: &mut Socket) -> io::Result<()> {
    while reader.has_more()? {
        let bytes = reader.what_is_there();
        out.write_all(&bytes)?;
    }
    Ok(())
}

enum Then {
    KeepAlive,
    Close,
    Tunnel,
}

/// What to send: parts, each after a pause.
struct Answer {
    status: u16,
    parts: Vec<(Vec<u8>, Duration)>,
    sent: usize,
    then: Then,
}

impl Answer {
    fn to(shared: &Shared, head: &Head, body: &[u8]) -> Answer {
        let target = head.word(1);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut words = path.split('/').skip(1);
        let what = words.next().unwrap_or_default();
        let arguments: Vec<&str> = words.collect();
        let number = |n: usize| arguments.get(n).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
        let answer = match what {
            "bytes" => Answer::sized(200, &payload::bytes(number(0))),
            "chunked" => Answer::chunked(number(0), query),
            "close" => Answer::until_close(number(0)),
            "coded" => Answer::coded(arguments.first().copied().unwrap_or_default(), number(1)),
            "status" => Answer::sized(number(0) as u16, format!("status {}\n", number(0)).as_bytes()),
            "echo" => Answer::sized(200, format!("{} {:016x}", body.len(), payload::checksum(body)).as_bytes()),
            "mirror" => Answer::sized(200, body),
            "slow" => Answer::sized(200, b"").after(Duration::from_millis(number(0) as u64)),
            "drip" => Answer::drip(number(0), Duration::from_millis(number(1) as u64)),
            "early-hints" => Answer::sized(200, b"after the hints")
                .behind(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"),
            "upgrade" => Answer::upgrade(head),
            "drop" => Answer::dropped(),
            "health" => Answer::sized(shared.health.load(Ordering::Acquire), b"health\n"),
            _ if head.word(0) == "CONNECT" => Answer::raw(200, "", b"", 0, Then::Tunnel),
            _ => Answer::sized(200, path.as_bytes()),
        };
        if head.word(0) == "HEAD" { answer.without_body() } else { answer }
    }

    fn raw(status: u16, head: &str, body: &[u8], sent: usize, then: Then) -> Answer {
        let mut bytes = format!("HTTP/1.1 {status} {}\r\n{head}\r\n", reason(status)).into_bytes();
        bytes.extend_from_slice(body);
        Answer { status, parts: vec![(bytes, Duration::ZERO)], sent, then }
    }

    fn sized(status: u16, body: &[u8]) -> Answer {
        if matches!(status, 204 | 304) {
            return Answer::raw(status, "ETag: \"x\"\r\n", b"", 0, Then::KeepAlive);
        }
        let head = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len());
        Answer::raw(status, &head, body, body.len(), Then::KeepAlive)
    }

    fn chunked(count: usize, query: &str) -> Answer {
        let argument = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let size = argument("size").and_then(|size| size.parse().ok()).unwrap_or(4096);
        let extension = if argument("extension").is_some() { ";name=\"a value\";other" } else { "" };
        let mut framed = chunks(&payload::bytes(count), size, extension);
        framed.extend_from_slice(b"0\r\n");
        if argument("trailers").is_some() {
            framed.extend_from_slice(b"X-Checked: yes\r\n");
        }
        framed.extend_from_slice(b"\r\n");
        Answer::raw(200, "Transfer-Encoding: chunked\r\n", &framed, count, Then::KeepAlive)
    }

    fn until_close(count: usize) -> Answer {
        Answer::raw(200, "Connection: close\r\n", &payload::bytes(count), count, Then::Close)
    }

    /// A text (so that its decoded form is readable in the record) in a content coding.
    fn coded(coding: &str, count: usize) -> Answer {
        let text = coded_text(count);
        let body = encode(coding, text.as_bytes()).expect("writing to memory works");
        let head =
            format!("Content-Type: text/plain\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n", body.len());
        Answer::raw(200, &head, &body, body.len(), Then::KeepAlive)
    }

    fn drip(count: usize, pause: Duration) -> Answer {
        let body = payload::bytes(count);
        let mut answer = Answer::raw(200, &format!("Content-Length: {count}\r\n"), b"", count, Then::KeepAlive);
        answer.parts.extend(body.chunks(count.div_ceil(4).max(1)).map(|part| (part.to_vec(), pause)));
        answer
    }

    fn upgrade(head: &Head) -> Answer {
        if !head.has("connection", "upgrade") {
            return Answer::sized(426, b"upgrade needed");
        }
        // The answer to the key of the example in RFC 6455 section 1.3, which HAProxy checks.
        let head =
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
        Answer::raw(101, head, b"", 0, Then::Tunnel)
    }

    fn dropped() -> Answer {
        Answer::raw(200, "Content-Length: 1000\r\n", &payload::bytes(500), 500, Then::Close)
    }

    fn after(mut self, pause: Duration) -> Answer {
        self.parts[0].1 = pause;
        self
    }

    fn behind(mut self, interim: &[u8]) -> Answer {
        self.parts.insert(0, (interim.to_vec(), Duration::ZERO));
        self
    }

    fn without_body(mut self) -> Answer {
        let head = &mut self.parts[0].0;
        let end = head.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        head.truncate(end + 4);
        self.parts.truncate(1);
        self.sent = 0;
        self
    }
}

/// The text behind `/coded/…/N`.
pub fn coded_text(count: usize) -> String {
    "the quick brown fox jumps over the lazy dog; ".chars().cycle().take(count).collect()
}

fn encode(coding: &str, text: &[u8]) -> io::Result<Vec<u8>> {
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text)?;
            encoder.finish()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text)?;
            encoder.finish()
        }
        "br" => {
            let mut out = Vec::new();
            brotli::CompressorWriter::new(&mut out, 4096, 5, 20).write_all(text)?;
            Ok(out)
        }
        "zstd" => zstd::encode_all(text, 3),
        _ => Ok(text.to_vec()),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Whatever",
    }
}
