//! Receiving whole bodies, within the limits of each and of all together. What is limited is what they hold, not the
//! form in which they travel.

use axum::BoxError;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Problem;
use super::{BODY_UNIT, compress};

/// A whole body, and its share of the room for all bodies.
pub(super) struct Received<'a> {
    pub(super) bytes: Bytes,
    pub(super) _room: Option<SemaphorePermit<'a>>,
}

/// What a gzip holds, at most `limit` bytes.
pub(super) async fn gunzip(compressed: Bytes, limit: usize, room: &Semaphore) -> Result<Received<'_>, Problem> {
    read(compress::gunzip(compressed), limit, room).await
}

/// Receives a whole body of at most `limit` bytes, decompressed.
pub(super) async fn whole<'a>(
    headers: &HeaderMap,
    body: Incoming,
    limit: usize,
    room: &'a Semaphore,
) -> Result<Received<'a>, Problem> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        read(compress::decompressed(headers, body)?, limit, room).await
    } else {
        read(body, limit, room).await
    }
}

/// Most bodies have one frame, which is taken as it is.
async fn read<'a, B>(mut body: B, limit: usize, room: &'a Semaphore) -> Result<Received<'a>, Problem>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
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
