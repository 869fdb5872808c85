//! As much of gRPC as a load generator needs: one message there, one back, over a kept HTTP/2 connection.

use std::cell::RefCell;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{Builder, SendRequest};

use super::connection::connect;

/// The bytes before a message.
const PREFIX: usize = 5;
/// As much as a server may send at once: answers are never kept waiting for room here.
const WINDOW: u32 = 16 << 20;
/// The call that is made.
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// A message with the bytes before it.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("messages are smaller than 4 GiB"));
    bytes.extend_from_slice(message);
    bytes.freeze()
}

/// The message of an answer; nothing where there is none.
pub(super) fn message(body: &[u8]) -> &[u8] {
    body.get(PREFIX..).unwrap_or_default()
}

/// A connection that calls share.
pub(super) struct Channel {
    address: SocketAddr,
    head: request::Parts,
    sender: RefCell<Option<SendRequest<Bytes>>>,
}

impl Channel {
    pub(super) async fn open(address: SocketAddr) -> Result<Self> {
        let uri: Uri = format!("http://{address}{PATH}").parse().context("the address makes no URI")?;
        let request = Request::builder().method(Method::POST).uri(uri).version(Version::HTTP_2);
        let request = request.header(header::CONTENT_TYPE, "application/grpc");
        let request = request.header(header::TE, HeaderValue::from_static("trailers"));
        let (head, ()) = request.body(())?.into_parts();
        let channel = Self { address, head, sender: RefCell::new(None) };
        channel.connect().await?;
        Ok(channel)
    }

    /// A sender of the present connection, or of a new one where it broke.
    async fn connect(&self) -> Result<SendRequest<Bytes>> {
        let present = self.sender.borrow().clone();
        if let Some(sender) = present {
            return Ok(sender);
        }
        let stream = connect(self.address).await?;
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::task::spawn_local(async move {
            // What breaks it is told to the calls on it.
            drop(connection.await);
        });
        self.sender.replace(Some(sender.clone()));
        Ok(sender)
    }

    /// Sends a message and reads the answer's into `body`: its status, 200 or a gRPC code, and its headers.
    pub(super) async fn call(&self, message: Bytes, body: &mut Vec<u8>) -> Result<(u16, HeaderMap)> {
        let answer = self.try_call(message, body).await;
        if answer.is_err() {
            self.sender.replace(None);
        }
        answer
    }

    async fn try_call(&self, message: Bytes, body: &mut Vec<u8>) -> Result<(u16, HeaderMap)> {
        body.clear();
        let mut sender = self.connect().await?.ready().await?;
        let (answer, mut stream) = sender.send_request(Request::from_parts(self.head.clone(), ()), false)?;
        stream.send_data(message, true)?;
        let (head, mut received) = answer.await?.into_parts();
        while let Some(data) = received.data().await {
            let data = data?;
            received.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        let trailers = received.trailers().await?;
        let code = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status");
        let code = code.and_then(|code| code.to_str().ok()?.parse::<u16>().ok());
        let status = match code {
            _ if head.status != StatusCode::OK => head.status.as_u16(),
            Some(0) => 200,
            Some(code) => code,
            None => anyhow::bail!("an answer without grpc-status"),
        };
        Ok((status, head.headers))
    }
}
