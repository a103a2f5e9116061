//! Runtimes for tests: servers on a Unix socket that say whatever a test wants them to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::super::containers::Containers;
use super::{Link, Sockets, Watchers, watch};
use crate::exchange::ContainerFacts;

/// A directory of its own, gone with the test.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sidetap-runtime-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("runtime.sock")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Containers that a runtime is being asked for.
pub struct Watched {
    pub containers: Arc<Containers>,
    changes: Receiver<()>,
    _watchers: Watchers,
}

impl Watched {
    /// `places`: the socket as docker's, containerd's or CRI's.
    pub fn new(sockets: Sockets) -> Watched {
        let none = || Some(PathBuf::new());
        let sockets = Sockets {
            docker: sockets.docker.or_else(none),
            containerd: sockets.containerd.or_else(none),
            cri: sockets.cri.or_else(none),
        };
        let containers = Arc::new(Containers::new());
        let (sender, changes) = channel();
        containers.when_changed(move || sender.send(()).unwrap_or_default());
        let watchers = watch(&sockets, &containers).unwrap();
        Watched { containers, changes, _watchers: watchers }
    }

    /// Waits until what is known is as it should be; how long that took.
    #[track_caller]
    pub fn until(&self, is_so: impl Fn(&Watched) -> bool) -> Duration {
        let started = Instant::now();
        while !is_so(self) {
            let left = Duration::from_secs(20).saturating_sub(started.elapsed());
            assert!(self.changes.recv_timeout(left).is_ok(), "still only {:?}", self.names());
        }
        started.elapsed()
    }

    pub fn facts(&self, id: &str) -> Option<Arc<ContainerFacts>> {
        self.containers.get(id).facts()
    }

    /// In the order of [`Containers::all`].
    pub fn names(&self) -> Vec<String> {
        self.containers.all().iter().filter_map(|container| Some(container.facts()?.name.clone())).collect()
    }
}

/// What a session says of a runtime, with what it has learned by then.
pub fn session_with(
    socket: &Path,
    session: impl AsyncFn(&Link) -> anyhow::Result<Infallible>,
) -> (String, Arc<Containers>) {
    let containers = Arc::new(Containers::new());
    let link = Link::new("runtime", vec![socket.to_owned()], containers.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), session(&link)).await });
    let Err(error) = ended.expect("the session ends");
    (format!("{error:#}"), containers)
}

/// What becomes of a connection when its request has been answered.
pub enum Then {
    Close,
    /// It stays open until the server is dropped.
    Keep,
}

/// Answers HTTP/1.1 requests, one a connection, by writing whatever it likes.
pub struct HttpServer {
    socket: PathBuf,
    stopped: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// `answer` gets each request's target and the connection.
    pub fn new(socket: &Path, answer: impl Fn(&str, &mut UnixStream) -> Then + Send + Sync + 'static) -> HttpServer {
        let listener = UnixListener::bind(socket).unwrap();
        let (stopped, kept) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (answer, stop, keep) = (Arc::new(answer), stopped.clone(), kept.clone());
        let thread = spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, answer, keep) = (stream.unwrap(), answer.clone(), keep.clone());
                spawn(move || {
                    let Some(target) = target(&mut stream) else { return };
                    match answer(&target, &mut stream) {
                        Then::Close => (),
                        Then::Keep => keep.lock().unwrap().push(stream),
                    }
                });
            }
        });
        HttpServer { socket: socket.to_owned(), stopped, kept, thread: Some(thread) }
    }
}

impl Drop for HttpServer {
    /// As if it were killed: the socket stays, connections break.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
        self.thread.take().unwrap().join().unwrap();
        for stream in self.kept.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn target(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()?.split(' ').nth(1).map(str::to_owned)
}

/// A whole answer.
pub fn answer(stream: &mut UnixStream, status: u16, body: &[u8]) -> Then {
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    // Who asked may be gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    Then::Close
}

/// The beginning of an answer of unknown length.
pub fn begin(stream: &mut UnixStream) {
    let _ =
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
}

pub fn chunk(stream: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

/// What a gRPC server says.
pub enum Reply {
    Messages(Vec<Vec<u8>>),
    Error(u8),
    /// Whatever comes, as it comes. As of servers written in Go, nothing is answered before the first message.
    Events(mpsc::UnboundedReceiver<Vec<u8>>),
    /// These bytes instead of messages with their lengths.
    Bytes(Vec<u8>),
    Silence,
}

/// Answers gRPC calls.
pub struct RpcServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RpcServer {
    /// `answer` gets each call's path, containerd's namespace and the message.
    pub fn new(
        socket: &Path,
        answer: impl Fn(&str, &str, &[u8]) -> Reply + Clone + Send + Sync + 'static,
    ) -> RpcServer {
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let answer = answer.clone();
                        let service = service_fn(move |request| reply(request, answer.clone()));
                        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
                    }
                };
                tokio::select! {
                    () = accept => (),
                    _ = stopped => (),
                }
            });
        });
        RpcServer { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn reply(
    request: Request<Incoming>,
    answer: impl Fn(&str, &str, &[u8]) -> Reply,
) -> Result<Response<Frames>, Infallible> {
    let path = request.uri().path().to_owned();
    let namespace = request.headers().get("containerd-namespace");
    let namespace = namespace.map_or("", |value| value.to_str().unwrap()).to_owned();
    let question = request.into_body().collect().await.unwrap().to_bytes();
    let mut frames = Frames { ready: VecDeque::new(), events: None, is_endless: false };
    match answer(&path, &namespace, &question[5..]) {
        Reply::Messages(messages) => {
            frames.ready.extend(messages.iter().map(|message| framed(message)));
            frames.ready.push_back(status(0));
        }
        Reply::Error(code) => frames.ready.push_back(status(code)),
        Reply::Events(mut events) => {
            match events.recv().await {
                Some(first) => frames.ready.push_back(framed(&first)),
                None => frames.ready.push_back(status(0)),
            }
            frames.events = Some(events);
        }
        Reply::Bytes(bytes) => {
            frames.ready.push_back(Frame::data(bytes.into()));
            frames.is_endless = true;
        }
        Reply::Silence => std::future::pending().await,
    }
    Ok(Response::builder().header("content-type", "application/grpc").body(frames).unwrap())
}

fn framed(message: &[u8]) -> Frame<Bytes> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    Frame::data(bytes.into())
}

fn status(code: u8) -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.to_string().parse().unwrap())]))
}

struct Frames {
    ready: VecDeque<Frame<Bytes>>,
    events: Option<mpsc::UnboundedReceiver<Vec<u8>>>,
    is_endless: bool,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.is_endless {
            return Poll::Pending;
        }
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        let event = ready!(events.poll_recv(context));
        if event.is_none() {
            self.events = None;
        }
        Poll::Ready(Some(Ok(event.map_or_else(|| status(0), |event| framed(&event)))))
    }
}

/// One message as an answer.
pub fn message(message: impl Message) -> Reply {
    Reply::Messages(vec![message.encode_to_vec()])
}
