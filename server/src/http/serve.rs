//! Sockets: accepting, limits on connections, and ending them without losing a request.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::Door;

/// A client that takes longer to send a request's head is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests in parallel on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` becomes true, then stops accepting and returns when every request in progress is answered.
pub async fn serve(listener: TcpListener, door: impl Door, max_connections: usize, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(max_connections));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).writev(false);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                // Without a permit nothing is accepted: further clients wait in the system's backlog.
                let permit = Arc::clone(&permits).acquire_owned().await;
                (listener.accept().await, permit)
            } => accepted,
            _ = stop.wait_for(|stopped| *stopped) => break,
        };
        let stream = match accepted.0 {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("a connection could not be accepted: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Only a latency hint; the connection works without it.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(door.clone());
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        let permit = accepted.1;
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(e) = connection.await {
                tracing::debug!("a connection ended: {e}");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}
