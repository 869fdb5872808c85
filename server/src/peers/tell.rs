//! Passes on what all servers should know, such as labels, without keeping anyone waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::Method;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::{AT_A_TIME, MOST, PATIENCE, Peers, exchange, runtime};

/// Messages that may wait.
const MESSAGES: usize = 1024;
/// Their bytes.
const BYTES: usize = 8 << 20;
/// After what pauses a peer is told again that has no room, as its shadow that waits for a CPU may have none for a while.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];
/// How long a peer is left alone that did not answer in time: each message would wait for it.
const REST: Duration = Duration::from_secs(5);

/// Tells all peers what it is given, one message after another, on a thread of its own. It ends when it is dropped, with
/// what waits untold.
#[derive(Debug)]
pub struct Teller {
    queue: Option<Sender<Message>>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Message {
    path: String,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicUsize,
    told: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Times that a peer took one.
    pub told: u64,
    /// Times that a peer did not, which is not tried again.
    pub failed: u64,
    /// Messages that found no room.
    pub dropped: u64,
}

impl Teller {
    /// Starts it; without peers there is no thread, and nothing to tell.
    ///
    /// # Errors
    /// One sentence when the system refuses a thread.
    pub fn start(peers: Peers) -> Result<Self, String> {
        let counts = Arc::<Counts>::default();
        if peers.is_empty() {
            return Ok(Self { queue: None, counts });
        }
        let (queue, messages) = channel(MESSAGES);
        let (runtime, counted) = (runtime()?, Arc::clone(&counts));
        let tell = move || {
            runtime.block_on(tell_all(&peers, messages, &counted));
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("peers".into()).spawn(tell);
        thread.map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Self { queue: Some(queue), counts })
    }

    /// Posts this JSON to a path of all peers, later. It never waits: without room, the message is dropped and counted.
    pub fn tell(&self, path: &str, body: Bytes) {
        let Some(queue) = &self.queue else { return };
        let bytes = body.len();
        let waiting = self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        let message = Message { path: path.into(), body };
        if waiting + bytes > BYTES || queue.try_send(message).is_err() {
            self.counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of what was told up to now.
    #[must_use]
    pub fn told(&self) -> Told {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { told, failed, dropped, .. } = &*self.counts;
        Told { told: read(told), failed: read(failed), dropped: read(dropped) }
    }
}

async fn tell_all(peers: &Peers, mut messages: Receiver<Message>, counts: &Counts) {
    let (mut resting, mut failing) = (BTreeMap::<SocketAddr, Instant>::new(), BTreeSet::<String>::new());
    while let Some(Message { path, body }) = messages.recv().await {
        let bytes = body.len();
        let (found, unknown) = peers.look_up().await;
        resting.retain(|_, until| *until > Instant::now());
        let (silent, asked): (Vec<_>, Vec<_>) = found.into_iter().partition(|peer| resting.contains_key(&peer.address));
        let (path, body) = (path.as_str(), &body);
        let told = asked.into_iter().map(|peer| async move {
            let begin = Instant::now();
            let mut result = exchange(&peer, Method::POST, path, body.clone()).await;
            for pause in AGAIN {
                if !result.as_ref().is_err_and(|reason| reason.contains("503")) {
                    break;
                }
                tokio::time::sleep(pause).await;
                result = exchange(&peer, Method::POST, path, body.clone()).await;
            }
            (peer, result, begin.elapsed())
        });
        let results: Vec<_> = stream::iter(told).buffer_unordered(AT_A_TIME).collect().await;
        let mut failed = silent.len() + unknown.len();
        // Told once until it goes well again: each message would tell the same.
        let mut warn = |who: String, reason: &str| {
            if failing.len() < MOST && failing.insert(who) {
                tracing::warn!(
                    path,
                    reason,
                    "what another server should know is lost there; more of it is not told here until it takes some again"
                );
            }
        };
        unknown.iter().for_each(|reason| warn(reason.clone(), reason));
        let mut well = vec![];
        for (peer, result, took) in results {
            match result {
                Ok(_) => {
                    counts.told.fetch_add(1, Ordering::Relaxed);
                    well.push(peer.to_string());
                }
                Err(reason) => {
                    failed += 1;
                    warn(peer.to_string(), &reason);
                    if took >= PATIENCE {
                        resting.insert(peer.address, Instant::now() + REST);
                    }
                }
            }
        }
        failing.retain(|peer| !well.contains(peer));
        counts.failed.fetch_add(failed as u64, Ordering::Relaxed);
        counts.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
