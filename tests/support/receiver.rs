//! A server that keeps what it is sent, for a bucket or for a collector of OpenTelemetry: HTTP/1.1 with plain lengths.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;

/// It goes with the test's process.
pub struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What it answers to the next requests, before it takes those after them.
    refusals: VecDeque<u16>,
    /// Path and content, in order.
    taken: Vec<(String, Vec<u8>)>,
}

impl Receiver {
    /// Listens at a port that `free_port` has given.
    pub fn start(port: u16) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        let state = Arc::<Mutex<State>>::default();
        let shelf = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = shelf.clone();
                thread::spawn(move || while serve(&stream, &shelf).is_ok() {});
            }
        });
        Receiver { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers the next requests with these.
    pub fn refuse(&self, statuses: &[u16]) {
        self.state.lock().expect("no thread panics with it locked").refusals.extend(statuses);
    }

    /// Path and content of what it took, in order.
    pub fn taken(&self) -> Vec<(String, Vec<u8>)> {
        self.state.lock().expect("no thread panics with it locked").taken.clone()
    }

    /// All log records that it took.
    pub fn log_records(&self) -> Vec<LogRecord> {
        let decode = |body: &Vec<u8>| ExportLogsServiceRequest::decode(&body[..]).expect("it is of OTLP");
        let requests = self.taken().into_iter().filter(|(path, _)| path == "/v1/logs");
        let logs = requests.flat_map(|(_, body)| decode(&body).resource_logs);
        logs.flat_map(|logs| logs.scope_logs).flat_map(|logs| logs.log_records).collect()
    }
}

/// One request.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("it is a number");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let status = {
        let mut state = state.lock().expect("no thread panics with it locked");
        let refusal = state.refusals.pop_front();
        if refusal.is_none() {
            state.taken.push((path, body));
        }
        refusal.unwrap_or(200)
    };
    let mut stream = stream;
    stream.write_all(format!("HTTP/1.1 {status} Said\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n").as_bytes())
}
