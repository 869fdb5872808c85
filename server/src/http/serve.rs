//! Sockets: accepting, limits on connections, and ending them without losing a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::{Request, Version};
use futures_util::FutureExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::Door;
use super::unread::{Unread, Watched};

/// A client that takes longer to send a request's head is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in parallel on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How often an HTTP/2 connection is asked whether somebody is still there.
const PING: Duration = Duration::from_secs(20);
/// How long the requests are waited for that were on their way when the listener closed.
const LAST_REQUESTS: Duration = Duration::from_millis(50);
/// How long clients are waited for, whose requests are all answered, until they say goodbye as HTTP/2 has it. One that was
/// suspended never does.
const GOODBYE: Duration = Duration::from_secs(3);
/// How often it is looked whether there are such requests.
const LOOK: Duration = Duration::from_millis(50);
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the clients of a listener may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a client may leave an answer unread.
    pub unread: Duration,
}

/// Serves until `stop` becomes true, then stops accepting and returns when every request in progress is answered.
pub async fn serve(listener: TcpListener, door: impl Door, limits: Limits, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(HEADER_TIMEOUT);
    // Each request in progress holds it.
    let requests = Arc::new(());
    let connect = |stream: TcpStream, permit: Option<OwnedSemaphorePermit>| {
        // Only a latency hint; the connection works without it.
        let _ = stream.set_nodelay(true);
        let asked = Arc::new(AtomicBool::new(false));
        let (door, first, requests) = (door.clone(), Arc::clone(&asked), Arc::downgrade(&requests));
        let unread = Arc::new(Unread::new());
        let answers = Arc::clone(&unread);
        let service = service_fn(move |request: Request<Incoming>| {
            first.store(true, Ordering::Relaxed);
            let watched = (request.version() == Version::HTTP_2).then(|| Arc::clone(&answers));
            let (answer, request) = (door.clone().call(request), requests.upgrade());
            async move {
                let watch = |body| Answer { body: Watched::new(body, watched.as_ref()), _request: request };
                Ok::<_, Infallible>(answer.await?.map(watch))
            }
        });
        // A client that does not read its answers is cut off.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.unread));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = graceful.watch(builder.serve_connection(stream, service).into_owned());
        tokio::spawn(async move {
            let _permit = permit;
            let mut connection = std::pin::pin!(connection);
            // A client that connects and asks nothing, in whatever protocol, must not keep its place.
            let ended = match tokio::time::timeout(HEADER_TIMEOUT, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if !asked.load(Ordering::Relaxed) => {
                    return tracing::debug!("a connection without a request was closed");
                }
                Err(_) => tokio::select! {
                    ended = connection => ended,
                    () = unread.beyond(limits.unread) => {
                        return tracing::debug!("a connection was closed whose client left an answer unread");
                    }
                },
            };
            if let Err(e) = ended {
                tracing::debug!("a connection ended: {e}");
            }
        });
    };
    loop {
        let (accepted, permit) = tokio::select! {
            accepted = async {
                // Without a permit nothing is accepted: further clients wait in the system's backlog.
                let permit = Arc::clone(&permits).acquire_owned().await;
                (listener.accept().await, permit.ok())
            } => accepted,
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => connect(stream, permit),
            Err(e) => {
                tracing::warn!("a connection could not be accepted: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Clients that the system has already told that they are connected are served; then nobody can connect any more.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        connect(stream, None);
    }
    drop(listener);
    // What these and idle connections have just sent is read before they are closed.
    tokio::time::sleep(LAST_REQUESTS).await;
    let answered = async {
        let mut since = Instant::now();
        while since.elapsed() < GOODBYE {
            tokio::time::sleep(LOOK).await;
            if Arc::strong_count(&requests) > 1 {
                since = Instant::now();
            }
        }
    };
    tokio::select! {
        () = graceful.shutdown() => {}
        () = answered => tracing::debug!("connections were closed whose clients did not say goodbye"),
    }
}

pin_project! {
    /// An answer's body: its request is in progress until the body ends.
    struct Answer<B> {
        #[pin]
        body: B,
        _request: Option<Arc<()>>,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
