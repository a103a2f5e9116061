//! What a gRPC call was and how it ended, of an exchange or of what is known of one.

use super::{Exchange, Message};
use crate::proto::{Head, Trailers, grpc};
use crate::url;

/// One gRPC call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    pub service: Option<&'a [u8]>,
    pub method: Option<&'a [u8]>,
    /// As the server sent it; none where it did not: the call was given up, or what answered was no gRPC.
    pub status: Option<u32>,
    /// With its percent-encoding undone.
    pub message: Vec<u8>,
    /// None where that cannot be told.
    pub request_messages: Option<u64>,
    pub response_messages: Option<u64>,
}

impl<'a> Call<'a> {
    /// None where the exchange is no gRPC.
    pub fn of(exchange: &'a Exchange) -> Option<Call<'a>> {
        let (request, response) = (exchange.request.as_ref(), exchange.response.as_ref());
        let is_call = |message: &Message| message.body.grpc.is_some();
        if !request.is_some_and(is_call) && !response.is_some_and(is_call) {
            return None;
        }
        let (service, method) = request.and_then(|request| called(&request.head)).unzip();
        let (status, message) = match response {
            Some(response) => (status(response), said(response, "grpc-message").map(grpc::message)),
            None => (None, None),
        };
        let messages = |message: Option<&Message>| message?.body.grpc.as_ref()?.count();
        Some(Call {
            service,
            method,
            status,
            message: message.unwrap_or_default(),
            request_messages: messages(request),
            response_messages: messages(response),
        })
    }
}

/// Service and method that a request calls; none where it is no gRPC.
pub fn called(request: &Head) -> Option<(&[u8], &[u8])> {
    grpc::form_of(request)?;
    grpc::called(url::path(request))
}

/// The status with which a call ended; none where the server sent none.
pub fn status(response: &Message) -> Option<u32> {
    grpc::status(said(response, "grpc-status")?)
}

/// In the trailers; in the head of a response that has nothing else.
fn said<'a>(response: &'a Message, name: &str) -> Option<&'a [u8]> {
    let in_trailers = response.trailers.as_ref().and_then(|trailers| field(trailers, name));
    in_trailers.or_else(|| response.head.header(name))
}

fn field<'a>(trailers: &'a Trailers, name: &str) -> Option<&'a [u8]> {
    let mut fields = trailers.fields.iter().map(|(name, value)| (name.of(&trailers.text), value.of(&trailers.text)));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}
