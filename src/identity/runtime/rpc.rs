//! gRPC over a Unix socket, with a bound on the size and the time of each answer. Messages are written out by hand in
//! `containerd` and `cri`: of those services a few fields are needed.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataValue;
use tonic_prost::ProstCodec;

use super::{TO_CONNECT, in_time};

pub use tonic::{Code, Status};

/// Bytes of one message.
const MAX_MESSAGE: usize = 8 << 20;

/// Events that may wait.
const MAX_EVENTS: usize = 1024;

/// One connection. Dropping it ends all that goes over it.
pub struct Rpc {
    client: Grpc<Http2>,
    tasks: JoinSet<()>,
}

impl Rpc {
    pub async fn over(stream: UnixStream) -> Result<Rpc> {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = in_time(TO_CONNECT, handshake).await??;
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            // What the connection fails of, the calls over it fail of too.
            let _ = connection.await;
        });
        let origin = Uri::from_static("http://localhost");
        let client = Grpc::with_origin(Http2(sender), origin).max_decoding_message_size(MAX_MESSAGE);
        Ok(Rpc { client, tasks })
    }

    /// One message for one message. `namespace`: containerd's, which goes beside the message.
    pub async fn call<Q, A>(
        &mut self,
        path: &'static str,
        namespace: Option<&str>,
        question: Q,
        limit: Duration,
    ) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let question = request(namespace, question)?;
        let answer = in_time(limit, async {
            self.client.ready().await.context("the connection ended")?;
            let answer = self.client.unary(question, PathAndQuery::from_static(path), codec()).await;
            answer.map_err(|status| failed(path, status))
        });
        Ok(answer.await??.into_inner())
    }

    /// One message for a stream of messages, of which `take` gets each until it says enough.
    pub async fn list<Q, A>(
        &mut self,
        path: &'static str,
        namespace: Option<&str>,
        question: Q,
        limit: Duration,
        mut take: impl FnMut(A) -> bool,
    ) -> Result<()>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let question = request(namespace, question)?;
        let all = in_time(limit, async {
            self.client.ready().await.context("the connection ended")?;
            let answer = self.client.server_streaming(question, PathAndQuery::from_static(path), codec()).await;
            let mut messages = answer.map_err(|status| failed(path, status))?.into_inner();
            while let Some(message) = messages.message().await.map_err(|status| failed(path, status))? {
                if !take(message) {
                    break;
                }
            }
            Ok(())
        });
        all.await?
    }

    /// Subscribes to an endless stream of messages. Servers written in Go answer with the first message, not before:
    /// so nobody waits for the answer here. The last that is received is how the stream ended, or nothing where the
    /// server ended it properly.
    pub fn follow<Q, A>(&mut self, path: &'static str, question: Q) -> mpsc::Receiver<Result<A>>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        let mut client = self.client.clone();
        self.tasks.spawn(async move {
            if let Err(error) = stream(&mut client, path, question, &sender).await {
                // Nobody is there any more to be told.
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }
}

async fn stream<Q, A>(
    client: &mut Grpc<Http2>,
    path: &'static str,
    question: Q,
    sender: &mpsc::Sender<Result<A>>,
) -> Result<()>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    client.ready().await.context("the connection ended")?;
    let answer = client.server_streaming(request(None, question)?, PathAndQuery::from_static(path), codec()).await;
    let mut messages = answer.map_err(|status| failed(path, status))?.into_inner();
    while let Some(message) = messages.message().await.map_err(|status| failed(path, status))? {
        if sender.send(Ok(message)).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn request<Q>(namespace: Option<&str>, question: Q) -> Result<tonic::Request<Q>> {
    let mut request = tonic::Request::new(question);
    if let Some(namespace) = namespace {
        let value = MetadataValue::try_from(namespace).context("a namespace that cannot be asked for")?;
        request.metadata_mut().insert("containerd-namespace", value);
    }
    Ok(request)
}

fn codec<Q, A>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

/// The status without its metadata, which is the runtime's to fill.
fn failed(path: &'static str, status: Status) -> anyhow::Error {
    let said: String = status.message().chars().take(200).collect();
    anyhow::Error::new(Failed { path, code: status.code(), said })
}

/// A call that was answered with an error.
#[derive(Debug)]
pub struct Failed {
    path: &'static str,
    pub code: Code,
    said: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "{}: {:?}: {:?}", self.path, self.code, self.said)
    }
}

impl std::error::Error for Failed {}

/// Whether the runtime does not know what it was asked for.
pub fn failed_with(error: &anyhow::Error, code: Code) -> bool {
    error.downcast_ref::<Failed>().is_some_and(|failed| failed.code == code)
}

/// hyper's connection, as tonic wants to call it.
#[derive(Clone)]
struct Http2(SendRequest<Body>);

impl GrpcService<Body> for Http2 {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A message whose first field is a list, as all lists of these services are. What comes after the first `N` is read
/// over, not kept: 8 MiB have place for millions of empty messages.
#[derive(Debug)]
pub struct List<const N: usize, T>(pub Vec<T>);

impl<const N: usize, T> Default for List<N, T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<const N: usize, T: Message + Default> Message for List<N, T> {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        prost::encoding::message::encode_repeated(1, &self.0, buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::WireType,
        buffer: &mut impl prost::bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        if tag == 1 && self.0.len() < N {
            return prost::encoding::message::merge_repeated(wire_type, &mut self.0, buffer, context);
        }
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        prost::encoding::message::encoded_len_repeated(1, &self.0)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Name {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[test]
    fn of_a_list_no_more_is_kept_than_is_wanted() {
        let three: List<3, Name> = List(["a", "b", "c"].map(|name| Name { name: name.into() }).into());
        let bytes = three.encode_to_vec();
        let two = List::<2, Name>::decode(&*bytes).unwrap();
        assert_eq!(two.0, three.0[..2]);
        let millions = [0x0a, 0].repeat(4 << 20);
        assert_eq!(List::<10, Name>::decode(&*millions).unwrap().0.len(), 10);
        assert!(List::<10, Name>::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(List::<0, Name>::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
