//! HTTP over a Unix socket, with a bound on the size and the time of each answer. A connection carries one request.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::super::{TO_CONNECT, connect, in_time};

/// Bytes of one event, which has all labels of its container.
const MAX_EVENT: usize = 8 << 20;

/// The answer's body, of at most `largest` bytes; none where there is no such thing (404).
pub async fn get(socket: &Path, path: &str, largest: usize, limit: Duration) -> Result<Option<Bytes>> {
    in_time(limit, async {
        let response = request(connect(socket).await?, path).await?;
        match response.status() {
            StatusCode::OK => {
                let body = Limited::new(response.into_body(), largest).collect().await;
                Ok(Some(body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => bail!("GET {path} was answered with status {}", status.as_u16()),
        }
    })
    .await?
}

async fn request(stream: UnixStream, path: &str) -> Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer, or when that is dropped. What it fails of, the request fails of too.
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, "localhost").body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// An endless answer, one JSON text a line.
pub struct Events {
    body: Incoming,
    /// What came, from the first line that was not given yet.
    text: Vec<u8>,
    /// Bytes of `text` in which no line ends.
    searched: usize,
}

impl Events {
    pub async fn open(stream: UnixStream, path: &str) -> Result<Events> {
        let response = in_time(TO_CONNECT, request(stream, path)).await??;
        let status = response.status();
        ensure!(status == StatusCode::OK, "GET {path} was answered with status {}", status.as_u16());
        Ok(Events { body: response.into_body(), text: Vec::new(), searched: 0 })
    }

    /// The next line. Nothing is lost where it is given up waiting for.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.text[self.searched..].iter().position(|&byte| byte == b'\n') {
                let rest = self.text.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(std::mem::replace(&mut self.text, rest));
            }
            self.searched = self.text.len();
            ensure!(self.searched <= MAX_EVENT, "one of more than {} MiB", MAX_EVENT >> 20);
            let frame = self.body.frame().await.context("the stream ended")??;
            if let Ok(data) = frame.into_data() {
                self.text.extend_from_slice(&data);
            }
        }
    }
}
