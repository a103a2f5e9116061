//! Listening, and the answer to each request. One request a connection, so that none is held for nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, ORIGIN, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::address::{Address, Listener, Peer};
use super::{ReloadRequest, State, metrics};

/// Connections at once; others wait.
const MAX_CONNECTIONS: usize = 32;
/// A request's head: its size in bytes, its fields, and the time it may take to come.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A connection's whole time, that of a reload included.
const DONE_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries to get the address, and after a connection that could not be accepted.
const TRY_EVERY: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_millis(100);

/// How the answers name who gives them.
pub(super) const NAME: &str = concat!("sidetap/", env!("CARGO_PKG_VERSION"));

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

type Answer = Response<Full<Bytes>>;

/// Listens and answers for good.
pub(super) async fn run(address: &Address, state: &Arc<State>) -> Infallible {
    let listener = listen(address).await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("nobody closes it");
        let state = state.clone();
        match listener.accept().await {
            Ok(peer) => {
                _ = tokio::spawn(async move {
                    // Whatever ends it, somebody who asks again gets an answer.
                    let _ = match peer {
                        Peer::Tcp { stream, is_near } => timeout(DONE_WITHIN, serve(stream, is_near, &state)).await,
                        Peer::Unix(stream) => timeout(DONE_WITHIN, serve(stream, true, &state)).await,
                    };
                    drop(place);
                })
            }
            // Such as too many open files, of which more tries would make no fewer.
            Err(_) => sleep(REST).await,
        }
    }
}

/// Tries until the address can be had: another agent that has it may be about to end.
async fn listen(address: &Address) -> Listener {
    let mut has_complained = false;
    loop {
        match Listener::bind(address) {
            Ok(listener) => {
                log::info!("health and metrics at {address}");
                if let Address::Tcp(address) = address
                    && !is_near(address)
                {
                    log::warn!("health and metrics can be read by everyone who reaches {address}");
                }
                return listener;
            }
            Err(error) if !has_complained => {
                has_complained = true;
                log::warn!(
                    "no health and metrics, but captured all the same: cannot listen at {address}: {error}; tried again \
                     every {} s (another address, or none: --http-listen)",
                    TRY_EVERY.as_secs()
                );
            }
            Err(_) => {}
        }
        sleep(TRY_EVERY).await;
    }
}

fn is_near(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// One connection. `is_near`: from this machine.
async fn serve<S>(stream: S, is_near: bool, state: &State) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request, is_near, state).await) });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn answer(request: &Request<Incoming>, is_near: bool, state: &State) -> Answer {
    let allowed = match request.uri().path() {
        "/healthz" | "/readyz" | "/metrics" => "GET, HEAD",
        "/reload" => "POST",
        _ => return plain(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics, and POST /reload"),
    };
    if !allowed.split(", ").any(|method| method == request.method().as_str()) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, &format!("only {allowed}"));
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    match request.uri().path() {
        "/healthz" => healthy(state),
        "/readyz" => ready(state),
        "/metrics" => page(METRICS, StatusCode::OK, metrics::page(state)),
        // Browsers say on behalf of which page they post.
        _ if !is_near || request.headers().contains_key(ORIGIN) => {
            plain(StatusCode::FORBIDDEN, "only for programs of this machine")
        }
        _ => reload(state).await,
    }
}

fn healthy(state: &State) -> Answer {
    if state.is_broken.load(Ordering::Relaxed) {
        let what = "a worker has ended early: what its CPU sees is lost; the agent has to be started again";
        return plain(StatusCode::SERVICE_UNAVAILABLE, what);
    }
    plain(StatusCode::OK, "ok")
}

fn ready(state: &State) -> Answer {
    match state.is_ready() {
        true => plain(StatusCode::OK, "capturing"),
        false if state.is_stopping.load(Ordering::Relaxed) => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        false => plain(StatusCode::SERVICE_UNAVAILABLE, "starting"),
    }
}

/// Has the main thread do it, and waits for what became of it.
async fn reload(state: &State) -> Answer {
    let (answer, reloaded) = oneshot::channel();
    match state.reloads.try_send(ReloadRequest { answer }) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => return plain(StatusCode::SERVICE_UNAVAILABLE, "busy with other reloads"),
        Err(TrySendError::Disconnected(_)) => return plain(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
    match reloaded.await {
        Ok(Ok(done)) => plain(StatusCode::OK, &done),
        Ok(Err(why)) => plain(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    }
}

fn plain(status: StatusCode, text: &str) -> Answer {
    page(PLAIN, status, format!("{text}\n"))
}

fn page(content_type: HeaderValue, status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer.headers_mut().insert(SERVER, HeaderValue::from_static(NAME));
    answer
}

#[cfg(test)]
mod tests;
