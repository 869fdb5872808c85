//! Sockets: accepting, limits on connections, and ending them without losing a request.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::{Request, Version};
use futures_util::FutureExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::either::Either;

use super::Door;
use super::connection::{Connections, HEADER_TIMEOUT, Open, Socket, Timed};
use super::tls::Tls;
use super::unread::Watched;

/// Bytes of a request's head in HTTP/1, and of what is read at a time of its body: each connection may take as much.
const HEAD: usize = 128 << 10;
/// Requests in parallel on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How often an HTTP/2 connection is asked whether somebody is still there.
const PING: Duration = Duration::from_secs(20);
/// How long the requests are waited for that were on their way when the listener closed.
const LAST_REQUESTS: Duration = Duration::from_millis(50);
/// How long clients are waited for, whose requests are all answered, until they say goodbye as HTTP/2 has it. One that was
/// suspended never does.
const GOODBYE: Duration = Duration::from_secs(3);
/// How often it is looked whether there is such a request, and a connection.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// How often it is looked whose time is over.
const LOOK: Duration = Duration::from_millis(500);
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the log says so.
const REFUSALS: Duration = Duration::from_secs(10);

/// What the clients of a listener may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// How long a client may leave an answer unread.
    pub unread: Duration,
}

/// Serves until `stop` becomes true, then stops accepting and returns when every request in progress is answered. With `tls`,
/// connections are encrypted, and others end.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    door: impl Door,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = Connections::new(limits.unread);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().header_read_timeout(None).writev(false).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(HEADER_TIMEOUT);
    let builder = Arc::new(builder);
    let connect = |stream: TcpStream, permit: Option<OwnedSemaphorePermit>| {
        // Only a latency hint; the connection works without it.
        let _ = stream.set_nodelay(true);
        let (door, pulse) = (door.clone(), connections.add());
        let asked = Arc::clone(&pulse);
        let service = service_fn(move |request: Request<Incoming>| {
            let open = asked.open(request.version());
            let watched = (request.version() == Version::HTTP_2).then(|| Arc::clone(&asked.unread));
            let answer = door.clone().call(request);
            async move {
                let watch = |body| Answer { body: Watched::new(body, watched.as_ref()), _open: open };
                Ok::<_, Infallible>(answer.await?.map(watch))
            }
        });
        let socket = Socket::new(stream, Arc::clone(&pulse));
        let (builder, tls) = (Arc::clone(&builder), tls.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let socket = match tls {
                None => Either::Left(socket),
                // Whoever takes longer to agree on keys than another one for a request's head is cut off.
                Some(tls) => match timeout(HEADER_TIMEOUT, tls.accept(socket)).await {
                    Ok(Ok(socket)) => Either::Right(Box::new(socket)),
                    Ok(Err(e)) => return tracing::debug!("a connection did not become one of TLS: {e}"),
                    Err(_) => return tracing::debug!("a connection did not become one of TLS in time"),
                },
            };
            let connection = builder.serve_connection(TokioIo::new(socket), service).into_owned();
            if let Err(e) = Timed::new(connection, pulse).await {
                tracing::debug!("a connection ended: {e}");
            }
        });
    };
    let mut refused = None;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (accepted, permit) = tokio::select! {
            accepted = async {
                // Without a permit nothing is accepted: further clients wait in the system's backlog.
                let permit = Arc::clone(&permits).acquire_owned().await;
                (listener.accept().await, permit.ok())
            } => accepted,
            _ = looks.tick() => {
                connections.look(permits.available_permits() == 0);
                continue;
            }
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, _)) => connect(stream, permit),
            Err(e) => {
                if refused.is_none_or(|at: Instant| at.elapsed() > REFUSALS) {
                    tracing::warn!("connections cannot be accepted: {e}");
                    refused = Some(Instant::now());
                }
                // No descriptor is left: what idle connections have is room too.
                connections.look(true);
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
    connections.end();
    let mut since = Instant::now();
    while connections.count() > 0 {
        tokio::time::sleep(LAST_LOOK).await;
        connections.look(false);
        if connections.has_requests() {
            since = Instant::now();
        } else if since.elapsed() >= GOODBYE {
            return tracing::debug!("connections were closed whose clients did not say goodbye");
        }
    }
}

pin_project! {
    /// An answer's body: its request is in progress until the body ends.
    struct Answer<B> {
        #[pin]
        body: B,
        _open: Open,
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
