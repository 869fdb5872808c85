//! Receiving bodies, within the limits of each and of all together. What is limited is what they hold, not the form in
//! which they travel.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Problem;
use super::head::find;
use super::observe::RequestId;
use super::{BODY_UNIT, State, compress};

/// How long a client may go on sending a body that nobody reads any more.
const LINGER: Duration = Duration::from_secs(5);

/// A request's body. What is left of it when its request is answered is read and thrown away, for a while: HTTP/1 has
/// the next request behind it, and a connection that is closed under a client that sends loses the answer.
pub(super) struct Incoming {
    body: Option<hyper::body::Incoming>,
    ended: bool,
    /// Whether the client waits to be told that its body is wanted: unless it is read, it is not sent.
    waits: bool,
    /// Of the request that it is of.
    pub(super) id: RequestId,
}

impl Incoming {
    /// The same request, whose body is read to its end.
    pub(super) fn of(request: Request<hyper::body::Incoming>, id: RequestId) -> Request<Self> {
        let expects = find(request.headers(), "expect").map(HeaderValue::as_bytes);
        let waits = request.version() == Version::HTTP_11
            && expects.is_some_and(|expects| expects.eq_ignore_ascii_case(b"100-continue"));
        // On other connections, requests do not stand in each other's way.
        let ended = request.version() >= Version::HTTP_2;
        request.map(|body| Self { body: Some(body), ended, waits, id })
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        self.ended |= !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.ended || self.waits || self.is_end_stream() {
            return;
        }
        if let (Some(mut rest), Ok(runtime)) = (self.body.take(), tokio::runtime::Handle::try_current()) {
            let read = async move { while let Some(Ok(_)) = rest.frame().await {} };
            // After that the connection is closed.
            runtime.spawn(tokio::time::timeout(LINGER, read));
        }
    }
}

/// A whole body, and its share of the room for all bodies.
pub(super) struct Received<'a> {
    pub(super) bytes: Bytes,
    pub(super) _room: Option<SemaphorePermit<'a>>,
}

/// What a gzip holds, at most `limit` bytes.
pub(super) async fn gunzip(compressed: Bytes, limit: usize, room: &Semaphore) -> Result<Received<'_>, Problem> {
    read(compress::gunzip(compressed), limit, room).await
}

/// Receives a whole body, decompressed, until a deadline.
pub(super) async fn whole<'a, B>(
    state: &'a State,
    headers: &HeaderMap,
    body: B,
    deadline: Instant,
) -> Result<Received<'a>, Problem>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let receiving = async {
        if find(headers, "content-encoding").is_some() {
            read(compress::decompressed(headers, body)?, state.body_limit, &state.bodies).await
        } else {
            read(body, state.body_limit, &state.bodies).await
        }
    };
    let received = until(deadline, receiving).await;
    received.unwrap_or_else(|| Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into())))
}

/// What comes of `work` if it is there before a deadline. Mostly it is there at once, and no timer is set. The timer stands in
/// a box since it is aligned to cache lines, and whatever holds it is too.
pub(super) async fn until<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    if let Poll::Ready(done) = std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(done);
    }
    Box::pin(tokio::time::timeout_at(deadline.into(), work)).await.ok()
}

/// Receives the body of a call that asks for no prediction.
pub(super) async fn order<'a>(
    state: &'a State,
    headers: &HeaderMap,
    body: axum::body::Body,
) -> Result<Received<'a>, Problem> {
    whole(state, headers, body, Instant::now() + state.engine.options().request_timeout).await
}

/// Most bodies have one frame, which is taken as it is.
async fn read<'a, B>(mut body: B, limit: usize, room: &'a Semaphore) -> Result<Received<'a>, Problem>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let mut all = Bytes::new();
    let mut many = BytesMut::new();
    let mut taken: Option<SemaphorePermit<'a>> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| unreadable(e.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = all.len() + many.len() + data.len();
        if size > limit {
            return Err(too_large(limit));
        }
        make_room(&mut taken, size, room)?;
        if all.is_empty() && many.is_empty() {
            all = data;
        } else {
            many.extend_from_slice(&std::mem::take(&mut all));
            many.extend_from_slice(&data);
        }
    }
    Ok(Received { bytes: if many.is_empty() { all } else { many.freeze() }, _room: taken })
}

/// Takes of the room for all bodies what a body needs that has grown to `size` bytes.
pub(super) fn make_room<'a>(
    taken: &mut Option<SemaphorePermit<'a>>,
    size: usize,
    room: &'a Semaphore,
) -> Result<(), Problem> {
    let units = (size / BODY_UNIT).saturating_sub(taken.as_ref().map_or(0, SemaphorePermit::num_permits));
    if units == 0 {
        return Ok(());
    }
    let more = u32::try_from(units).ok().and_then(|units| room.try_acquire_many(units).ok());
    let more = more.ok_or_else(|| {
        let detail = "too many large bodies are being received: try again, or send the rows in several requests";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into())
    })?;
    match taken {
        Some(taken) => taken.merge(more),
        None => *taken = Some(more),
    }
    Ok(())
}

pub(super) fn unreadable(error: BoxError) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
}

pub(super) fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is larger than {limit} bytes: send the rows in several requests");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}
