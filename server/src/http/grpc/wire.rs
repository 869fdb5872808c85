//! Messages of a call: each with five bytes before it that say how long it is and whether it is compressed.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::batch::PredictError;
use crate::http::body::{self, Received};
use crate::http::error::Problem;
use crate::text::shown;

/// The bytes before a message.
const PREFIX: usize = 5;
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// Messages smaller than this do not become smaller.
const COMPRESSIBLE: usize = 1024;

/// The messages of a request, one after the other.
pub(super) struct Messages {
    body: Incoming,
    buffer: BytesMut,
    gzip: bool,
    /// Whether answers are compressed: clients that compress their requests and take compressed answers get them.
    pub(super) compress: bool,
}

impl Messages {
    pub(super) fn new(headers: &HeaderMap, body: Incoming) -> Result<Self, Status> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let gzip = match text(ENCODING) {
            "gzip" => true,
            "" | "identity" => false,
            other => {
                let shown = shown(other);
                let mut status = Status::unimplemented(format!("{ENCODING} {shown:?} is not taken: send gzip or none"));
                status.metadata_mut().insert(ACCEPT_ENCODING, "gzip,identity".parse().expect("it is ASCII"));
                return Err(status);
            }
        };
        let accepts = text(ACCEPT_ENCODING).split(',').any(|encoding| encoding.trim() == "gzip");
        Ok(Self { body, buffer: BytesMut::new(), gzip, compress: gzip && accepts })
    }

    /// Waits until a message begins; `false` when there is no more.
    pub(super) async fn begins(&mut self) -> Result<bool, Status> {
        while self.buffer.is_empty() {
            let Some(data) = self.read().await? else { return Ok(false) };
            self.buffer.extend_from_slice(&data);
        }
        Ok(true)
    }

    /// What comes next of the body.
    async fn read(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            // Clients send no trailers that mean something.
            if let Ok(data) = frame.map_err(|e| body::unreadable(e.into()))?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The next message, of at most `limit` bytes when decompressed; `None` when there is no more.
    pub(super) async fn next<'a>(&mut self, limit: usize, room: &'a Semaphore) -> Result<Option<Received<'a>>, Status> {
        let mut taken = None;
        loop {
            if let Some((compressed, size)) = self.prefix(limit)?
                && self.buffer.len() >= PREFIX + size
            {
                self.buffer.advance(PREFIX);
                let bytes = self.buffer.split_to(size).freeze();
                if !compressed {
                    return Ok(Some(Received { bytes, _room: taken }));
                }
                return Ok(Some(body::gunzip(bytes, limit, room).await?));
            }
            let Some(data) = self.read().await? else {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(Status::invalid_argument("the request ends within a message"));
            };
            self.buffer.extend_from_slice(&data);
            body::make_room(&mut taken, self.buffer.len(), room)?;
        }
    }

    /// Whether the next message is compressed, and its size; `None` when that has not arrived.
    fn prefix(&self, limit: usize) -> Result<Option<(bool, usize)>, Status> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else { return Ok(None) };
        let compressed = match prefix.get_u8() {
            0 => false,
            1 if self.gzip => true,
            1 => return Err(Status::internal("a message is compressed, and no grpc-encoding says how")),
            _ => return Err(Status::internal("a message has a flag that gRPC does not know")),
        };
        let size = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
        if size > limit {
            return Err(body::too_large(limit).into());
        }
        Ok(Some((compressed, size)))
    }
}

/// A message with the bytes before it, compressed if that is wanted and makes it smaller.
pub(super) fn framed(message: &impl prost::Message, compress: bool) -> Bytes {
    let size = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + size);
    bytes.put_bytes(0, PREFIX);
    message.encode(&mut bytes).expect("a buffer in memory takes any message");
    if compress && size >= COMPRESSIBLE {
        let mut packed = Vec::with_capacity(PREFIX + size / 2);
        packed.extend_from_slice(&[0; PREFIX]);
        let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        let packed = std::io::Write::write_all(&mut encoder, &bytes[PREFIX..]).and_then(|()| encoder.finish());
        let packed = packed.expect("memory can always be written to");
        if packed.len() < bytes.len() {
            bytes = BytesMut::from(Bytes::from(packed));
            bytes[0] = 1;
        }
    }
    let size = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    bytes[1..PREFIX].copy_from_slice(&size.to_be_bytes());
    bytes.freeze()
}

/// The head of an answer that has messages.
fn head(compress: bool) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if compress {
        response.headers_mut().insert(ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// The answer to a call: one message.
pub(super) fn one(message: Bytes, compress: bool) -> Response<Body> {
    let trailers = async { Some(Ok(trailers(&Status::ok("")))) };
    head(compress).map(|()| Body::new(Full::new(message).with_trailers(trailers)))
}

/// The answer to a call: messages, each of which is made when the client has taken the one before.
pub(super) fn many<S, F>(start: S, compress: bool, next: impl FnMut(S) -> F + Send + 'static) -> Response<Body>
where
    S: Send + 'static,
    F: Future<Output = Result<Option<(Bytes, S)>, Status>> + Send + 'static,
{
    let mut next = next;
    let frames = stream::unfold(Some(start), move |state| {
        let message = state.map(&mut next);
        async move {
            // The panic itself was written to the log by the panic hook.
            let message = AssertUnwindSafe(message?).catch_unwind().await;
            let end = match message.unwrap_or_else(|_| Err(Problem::internal().into())) {
                Ok(Some((message, state))) => return Some((Ok::<_, Infallible>(Frame::data(message)), Some(state))),
                Ok(None) => Status::ok(""),
                Err(status) => status,
            };
            Some((Ok(Frame::trailers(trailers(&end))), None))
        }
    });
    head(compress).map(|()| Body::new(StreamBody::new(frames)))
}

/// A body that ends when the server stops, even if it is not finished.
pub(super) fn until(stopped: watch::Receiver<bool>, body: Body) -> Body {
    let frames = stream::unfold(Some((stopped, body)), |state| async move {
        let (mut stopped, mut body) = state?;
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame?,
            // An error means that nobody can stop it any more.
            _ = stopped.wait_for(|stopped| *stopped) => {
                return Some((Ok(Frame::trailers(trailers(&stopping()))), None));
            }
        };
        Some((frame, Some((stopped, body))))
    });
    Body::new(StreamBody::new(frames))
}

/// What ends the calls that are open when the server stops: clients go on elsewhere.
pub(super) fn stopping() -> Status {
    PredictError::Draining.into()
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, HeaderValue::from_static("13"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of an answer and its status.
    async fn read(answer: Response<Body>) -> (Vec<u8>, String) {
        let body = answer.into_body().collect().await.expect("it cannot fail");
        let status = body.trailers().and_then(|trailers| trailers.get(Status::GRPC_STATUS)).expect("a status");
        let status = status.to_str().expect("a number").to_owned();
        (body.to_bytes().to_vec(), status)
    }

    #[tokio::test]
    async fn answers_end_with_their_status() {
        assert_eq!(read(one(Bytes::from_static(b"a"), false)).await, (b"a".to_vec(), "0".to_owned()));
        let count = |n: u8| async move { Ok((n < 3).then(|| (Bytes::from(vec![n]), n + 1))) };
        assert_eq!(read(many(0_u8, false, count)).await, (vec![0, 1, 2], "0".to_owned()));
        let fail = |n: u8| async move {
            if n < 2 { Ok(Some((Bytes::from(vec![n]), n + 1))) } else { Err(Status::unavailable("no more")) }
        };
        assert_eq!(read(many(0_u8, false, fail)).await, (vec![0, 1], "14".to_owned()));
    }

    /// Where the head of an answer is out already, a panic still ends it in good order.
    #[tokio::test]
    async fn a_panic_in_a_stream_becomes_its_status() {
        let fault = |n: u8| async move {
            assert!(n < 2, "a fault of ours");
            Ok(Some((Bytes::from(vec![n]), n + 1)))
        };
        assert_eq!(read(many(0_u8, false, fault)).await, (vec![0, 1], "13".to_owned()));
    }

    #[test]
    fn messages_are_compressed_where_that_makes_them_smaller() {
        let text = |text: &str| super::super::proto::ModelMetadataRequest { name: text.into(), version: String::new() };
        let framed = |message, compress| framed(&message, compress);
        let size = |bytes: &[u8]| u32::from_be_bytes(bytes[1..PREFIX].try_into().expect("four bytes"));
        for (message, compress, flag) in
            [(text("a"), true, 0), (text(&"a".repeat(5000)), true, 1), (text(&"a".repeat(5000)), false, 0)]
        {
            let bytes = framed(message.clone(), compress);
            assert_eq!((bytes[0], size(&bytes) as usize), (flag, bytes.len() - PREFIX));
            assert_eq!(bytes.len() < message.name.len(), flag == 1);
        }
    }
}
