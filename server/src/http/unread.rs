//! Answers that an HTTP/2 client leaves unread: it can keep its window shut and its connection alive for ever. (In HTTP/1
//! a client that does not read lets the socket fill up, which is timed there.)

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Bytes of an answer that are handed over at once: beyond that, the client must have read what was there before.
const PIECE: usize = 64 << 10;

/// The answers of a connection that wait for their client, and since when.
#[derive(Debug, Default)]
pub(super) struct Unread {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    since: HashMap<u64, Instant>,
    next: u64,
}

impl Unread {
    /// Returns when an answer has waited longer than `limit`.
    pub(super) async fn beyond(&self, limit: Duration) {
        loop {
            let oldest = self.waiting().since.values().min().copied();
            match oldest.map(|since| since.elapsed()) {
                Some(waited) if waited >= limit => return,
                waited => tokio::time::sleep(limit.saturating_sub(waited.unwrap_or_default())).await,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pin_project! {
    /// An answer's body whose client is waited for between its pieces.
    pub(super) struct Watched<B> {
        #[pin]
        body: B,
        rest: Bytes,
        place: Option<Place>,
    }
}

/// The place of an answer among those of its connection.
struct Place {
    all: Arc<Unread>,
    number: u64,
}

impl<B> Watched<B> {
    /// In HTTP/2, for the answers of a connection; nothing is watched without them.
    pub(super) fn new(body: B, all: Option<&Arc<Unread>>) -> Self {
        let place = all.map(|all| {
            let mut waiting = all.waiting();
            let number = waiting.next;
            waiting.next += 1;
            waiting.since.insert(number, Instant::now());
            Place { all: Arc::clone(all), number }
        });
        Self { body, rest: Bytes::new(), place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.waiting().since.remove(&self.number);
    }
}

impl Place {
    /// The next piece was asked for: whether it is there decides who waits.
    fn asked(&self, is_there: bool) {
        let mut waiting = self.all.waiting();
        if is_there {
            waiting.since.insert(self.number, Instant::now());
        } else {
            waiting.since.remove(&self.number);
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(place) = this.place else { return this.body.poll_frame(context) };
        let frame = if this.rest.is_empty() {
            match this.body.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        *this.rest = data;
                        None
                    }
                    Err(other) => Some(Poll::Ready(Some(Ok(other)))),
                },
                other => Some(other),
            }
        } else {
            None
        };
        let frame = frame.unwrap_or_else(|| {
            let piece = this.rest.split_to(this.rest.len().min(PIECE));
            Poll::Ready(Some(Ok(Frame::data(piece))))
        });
        place.asked(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
