//! Answers that an HTTP/2 client leaves unread: it can keep its window shut and its connection alive for ever. (In HTTP/1
//! a client that does not read lets the socket fill up, which is timed there.)

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Bytes of an answer that are handed over at once: beyond that, the client must have read what was there before.
const PIECE: usize = 16 << 10;

/// The answers of a connection that wait for their client. One that waits beside others that go on is let be: to cut it off
/// would cut them off as well.
#[derive(Debug)]
pub(super) struct Unread(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    answers: usize,
    /// When the client last took a piece of any of them, or the first of them was there.
    since: Instant,
}

impl Unread {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Waiting { answers: 0, since: Instant::now() }))
    }

    /// How long answers have waited, all of them.
    pub(super) fn waited(&self) -> Duration {
        let waiting = self.waiting();
        if waiting.answers == 0 { Duration::ZERO } else { waiting.since.elapsed() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    waits: bool,
}

impl<B> Watched<B> {
    /// In HTTP/2, for the answers of a connection; nothing is watched without them.
    pub(super) fn new(body: B, all: Option<&Arc<Unread>>) -> Self {
        let place = all.map(|all| {
            let mut place = Place { all: Arc::clone(all), waits: false };
            place.waits(true);
            place
        });
        Self { body, rest: Bytes::new(), place }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waits(false);
    }
}

impl Place {
    /// The client took what was there before: whether the next piece is there decides who waits.
    fn waits(&mut self, waits: bool) {
        let mut waiting = self.all.waiting();
        waiting.answers = waiting.answers + usize::from(waits) - usize::from(self.waits);
        waiting.since = Instant::now();
        self.waits = waits;
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
        place.waits(frame.is_ready());
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn answers_wait_from_piece_to_piece() {
        let all = Arc::new(Unread::new());
        let answers = || all.waiting().answers;
        let answer = |size: usize| Watched::new(Full::new(Bytes::from(vec![b'a'; size])), Some(&all));
        let (stalled, mut read) = (answer(1), answer(PIECE + 1));
        assert_eq!(answers(), 2);
        let before = all.waiting().since;
        let mut next = || {
            let frame = read.frame().now_or_never().expect("no wait")?.expect("a frame");
            frame.into_data().ok().map(|data| data.len())
        };
        assert_eq!(next(), Some(PIECE));
        // While one of them goes on, none is beyond any limit.
        assert!(all.waiting().since > before);
        assert!(all.waited() < Duration::from_secs(3600));
        assert_eq!((next(), next(), answers()), (Some(1), None, 2));
        drop(read);
        assert_eq!(answers(), 1);
        drop(stalled);
        assert_eq!(answers(), 0);
        let unwatched = Watched::new(Full::new(Bytes::from(vec![b'a'; 2 * PIECE])), None);
        let whole = unwatched.collect().now_or_never().expect("no wait").expect("a body").to_bytes();
        assert_eq!((whole.len(), answers()), (2 * PIECE, 0));
    }

    #[test]
    fn an_answer_that_is_made_still_waits_for_nobody() {
        let all = Arc::new(Unread::new());
        let endless = http_body_util::StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, ()>>());
        let mut answer = Watched::new(endless, Some(&all));
        assert!(answer.frame().now_or_never().is_none());
        assert_eq!(all.waiting().answers, 0);
    }
}
