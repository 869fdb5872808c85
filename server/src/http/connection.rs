//! One connection: what it waits for, and how long it may.
//!
//! Times are looked at now and then for all connections together, so that a request sets no timer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::Version;
use futures_util::task::AtomicWaker;
use hyper_util::server::graceful::GracefulConnection;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unread::Unread;

/// A client that takes longer to send a request's head is cut off; so is one that connects and asks nothing.
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept on which nothing is asked any more: longer than load balancers keep theirs (the longest,
/// Google's, for 600 s), so that none of them sends a request while we close. Where there is no place left for another
/// connection, such a one is closed after [`HEADER_TIMEOUT`].
const IDLE_TIMEOUT: Duration = Duration::from_secs(620);

/// Nothing is the matter.
const GOES_ON: u8 = 0;
/// The server stops: the request in progress is the last one.
const LAST: u8 = 1;
/// Its client is not waited for any longer.
const CUT: u8 = 2;

/// The connections of a listener.
pub(super) struct Connections {
    all: Mutex<Vec<Weak<Pulse>>>,
    /// How long a client may leave an answer unread.
    unread: Duration,
    start: Instant,
    /// Milliseconds since the start, as of the last look.
    now: AtomicU64,
}

/// What one connection waits for.
pub(super) struct Pulse {
    connections: Arc<Connections>,
    /// Requests that are not answered to their end.
    open: AtomicUsize,
    /// Whether there ever was a request, and whether it was one of HTTP/2.
    asked: AtomicBool,
    is_http2: AtomicBool,
    /// Whether a part of the next request has arrived.
    has_begun: AtomicBool,
    /// Since when it waits for that request, or for its rest.
    since: AtomicU64,
    /// Since when the socket takes no more of the answers; 0 when it does.
    blocked: AtomicU64,
    /// The answers that an HTTP/2 client leaves unread.
    pub(super) unread: Arc<Unread>,
    fate: AtomicU8,
    task: AtomicWaker,
}

impl Connections {
    pub(super) fn new(unread: Duration) -> Arc<Self> {
        Arc::new(Self { all: Mutex::default(), unread, start: Instant::now(), now: AtomicU64::new(1) })
    }

    /// One more.
    pub(super) fn add(self: &Arc<Self>) -> Arc<Pulse> {
        let pulse = Arc::new(Pulse {
            connections: Arc::clone(self),
            open: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            since: AtomicU64::new(self.now()),
            blocked: AtomicU64::new(0),
            unread: Arc::new(Unread::new()),
            fate: AtomicU8::new(GOES_ON),
            task: AtomicWaker::new(),
        });
        self.all().push(Arc::downgrade(&pulse));
        pulse
    }

    /// Cuts off those whose time is over. `is_full` says that there is no place for another one.
    pub(super) fn look(&self, is_full: bool) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.now.store(now, Ordering::Relaxed);
        self.all().retain(|pulse| {
            let Some(pulse) = pulse.upgrade() else { return false };
            if let Some((why, fate)) = pulse.overdue(now, is_full) {
                tracing::debug!("a connection was closed {why}");
                pulse.end(fate);
            }
            true
        });
    }

    /// Makes the requests in progress the last ones.
    pub(super) fn end(&self) {
        self.all().iter().filter_map(Weak::upgrade).for_each(|pulse| pulse.end(LAST));
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all().iter().filter(|pulse| pulse.strong_count() > 0).count()
    }

    /// Whether any of them has a request that is not answered to its end.
    pub(super) fn has_requests(&self) -> bool {
        self.all().iter().filter_map(Weak::upgrade).any(|pulse| pulse.open.load(Ordering::Relaxed) > 0)
    }

    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Pulse>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pulse {
    /// A request came; it is in progress until what is returned is dropped.
    pub(super) fn open(self: &Arc<Self>, version: Version) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.has_begun.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        Open(Arc::clone(self))
    }

    fn received(&self) {
        if self.open.load(Ordering::Relaxed) > 0 || self.has_begun.swap(true, Ordering::Relaxed) {
            return;
        }
        // The first request must be there in time from the connection on.
        if self.asked.load(Ordering::Relaxed) {
            self.since.store(self.connections.now(), Ordering::Relaxed);
        }
    }

    fn took(&self, took: bool) {
        let since = if took { 0 } else { self.connections.now() };
        if took || self.blocked.load(Ordering::Relaxed) == 0 {
            self.blocked.store(since, Ordering::Relaxed);
        }
    }

    /// Why it is not waited for any longer, and what becomes of it.
    fn overdue(&self, now: u64, is_full: bool) -> Option<(&'static str, u8)> {
        let waited = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let unread = self.connections.unread;
        let blocked = self.blocked.load(Ordering::Relaxed);
        if (blocked > 0 && waited(blocked) > unread) || self.unread.waited() > unread {
            return Some(("whose client left an answer unread", CUT));
        }
        if self.open.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let waited = waited(self.since.load(Ordering::Relaxed));
        if !self.asked.load(Ordering::Relaxed) {
            return (waited > HEADER_TIMEOUT).then_some(("that asked nothing", CUT));
        }
        if self.is_http2.load(Ordering::Relaxed) {
            // Its client is asked by pings whether it is there. Where others wait for the place, it is told to go, as HTTP/2 has it,
            // and may ask again on another connection.
            return (is_full && waited > HEADER_TIMEOUT).then_some(("that was idle", LAST));
        }
        if self.has_begun.load(Ordering::Relaxed) {
            return (waited > HEADER_TIMEOUT).then_some(("whose request did not arrive in time", CUT));
        }
        let most = if is_full { HEADER_TIMEOUT } else { IDLE_TIMEOUT };
        (waited > most).then_some(("that was idle", CUT))
    }

    fn end(&self, fate: u8) {
        self.fate.fetch_max(fate, Ordering::Relaxed);
        self.task.wake();
    }
}

/// A request in progress.
pub(super) struct Open(Arc<Pulse>);

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.since.store(self.0.connections.now(), Ordering::Relaxed);
        }
    }
}

pin_project! {
    /// A connection until it ends, by itself or since its time is over.
    pub(super) struct Timed<C> {
        #[pin]
        connection: C,
        pulse: Arc<Pulse>,
        is_last: bool,
    }
}

impl<C> Timed<C> {
    pub(super) const fn new(connection: C, pulse: Arc<Pulse>) -> Self {
        Self { connection, pulse, is_last: false }
    }
}

impl<C: GracefulConnection> Future for Timed<C> {
    type Output = Result<(), C::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        this.pulse.task.register(context.waker());
        match this.pulse.fate.load(Ordering::Relaxed) {
            CUT => return Poll::Ready(Ok(())),
            LAST if !*this.is_last => {
                *this.is_last = true;
                this.connection.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        this.connection.poll(context)
    }
}

pin_project! {
    /// A socket that tells when its client sends, and when it takes nothing.
    pub(super) struct Socket<S> {
        #[pin]
        socket: S,
        pulse: Arc<Pulse>,
    }
}

impl<S> Socket<S> {
    pub(super) const fn new(socket: S, pulse: Arc<Pulse>) -> Self {
        Self { socket, pulse }
    }
}

impl<S: AsyncRead> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.socket.poll_read(context, buffer);
        if buffer.filled().len() > before {
            this.pulse.received();
        }
        read
    }
}

impl<S: AsyncWrite> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let wrote = this.socket.poll_write(context, bytes);
        this.pulse.took(wrote.is_ready());
        wrote
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().socket.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().socket.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const UNREAD: Duration = Duration::from_secs(5);

    /// Whether it is cut off when this long has passed since the connections' last look.
    fn is_overdue(pulse: &Pulse, after: Duration, is_full: bool) -> bool {
        let after = u64::try_from(after.as_millis()).expect("short");
        pulse.overdue(pulse.connections.now() + after, is_full).is_some()
    }

    #[test]
    fn a_connection_that_asks_nothing_has_as_long_as_a_head() {
        let pulse = Connections::new(UNREAD).add();
        assert!(!is_overdue(&pulse, HEADER_TIMEOUT, true));
        assert!(is_overdue(&pulse, HEADER_TIMEOUT * 2, false));
        // What it sends buys no time.
        pulse.received();
        pulse.connections.now.store(5000, Ordering::Relaxed);
        pulse.received();
        assert!(is_overdue(&pulse, HEADER_TIMEOUT, false));
    }

    #[test]
    fn after_months_nobody_is_waited_for_longer() {
        let connections = Connections::new(UNREAD);
        // 32 bits of milliseconds are 49.7 days.
        connections.now.store(u64::from(u32::MAX) * 3, Ordering::Relaxed);
        let pulse = connections.add();
        assert!(!is_overdue(&pulse, HEADER_TIMEOUT, false));
        assert!(is_overdue(&pulse, HEADER_TIMEOUT * 2, false));
    }

    #[test]
    fn between_requests_there_is_time_unless_others_wait_for_the_place() {
        let pulse = Connections::new(UNREAD).add();
        let open = pulse.open(Version::HTTP_11);
        assert!(!is_overdue(&pulse, IDLE_TIMEOUT * 2, true), "a request is in progress");
        drop(open);
        assert!(!is_overdue(&pulse, IDLE_TIMEOUT, false));
        assert!(is_overdue(&pulse, IDLE_TIMEOUT * 2, false));
        assert!(is_overdue(&pulse, HEADER_TIMEOUT * 2, true));
        // A request that has begun must go on.
        pulse.received();
        assert!(is_overdue(&pulse, HEADER_TIMEOUT * 2, false));
    }

    #[test]
    fn an_http2_connection_is_asked_by_pings_unless_others_wait_for_the_place() {
        let pulse = Connections::new(UNREAD).add();
        let open = pulse.open(Version::HTTP_2);
        assert!(!is_overdue(&pulse, IDLE_TIMEOUT * 2, true), "a request is in progress");
        drop(open);
        pulse.received();
        assert!(!is_overdue(&pulse, IDLE_TIMEOUT * 2, false));
        assert!(is_overdue(&pulse, HEADER_TIMEOUT * 2, true));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_not_waited_for() {
        let pulse = Connections::new(UNREAD).add();
        let _open = pulse.open(Version::HTTP_11);
        let (server, mut client) = tokio::io::duplex(4);
        let mut server = Socket::new(server, Arc::clone(&pulse));
        server.write_all(b"1234").await.expect("there is room");
        assert!(!is_overdue(&pulse, UNREAD * 2, false));
        assert!(server.write_all(b"5").now_or_never().is_none());
        assert!(is_overdue(&pulse, UNREAD * 2, false));
        client.read_exact(&mut [0; 4]).await.expect("four bytes");
        server.write_all(b"5").await.expect("there is room");
        assert!(!is_overdue(&pulse, UNREAD * 2, false));
    }

    #[test]
    fn those_that_ended_are_forgotten() {
        let connections = Connections::new(UNREAD);
        let (first, second) = (connections.add(), connections.add());
        let open = first.open(Version::HTTP_11);
        assert_eq!((connections.count(), connections.has_requests()), (2, true));
        drop((second, open));
        connections.look(false);
        assert_eq!((connections.count(), connections.has_requests()), (1, false));
    }
}
