//! Passes on what all servers should know, such as labels, without keeping anyone waiting.
//!
//! What is told stands in one log, and each peer reads it at its own pace, on a task and a connection of its own: one that
//! hangs, or that has no room for a while, delays nobody else. The log is bounded; a peer that falls behind its beginning has
//! missed what stood there.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{MOST, Peer, Peers, Wrong, beyond, exchange, runtime};

/// Messages that may wait. Beyond, the oldest go: what they label is seldom waited for that long.
const MESSAGES: usize = 1024;
/// Their bytes; a message that is on its way to a peer for long may be beside them.
const BYTES: usize = 8 << 20;
/// After what pauses a peer is told again that has no room, as its shadow that waits for a CPU may have none for a while.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];
/// How often names are looked up: servers come and go.
const LOOK_UP: Duration = Duration::from_secs(5);

/// Tells all peers what it is given, each in order, on a thread of its own. It ends when it is dropped, with what waits untold.
#[derive(Debug)]
pub struct Teller {
    /// Wakes those that wait for something to tell; `None` without peers.
    news: Option<watch::Sender<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Message {
    path: String,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    told: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What not all peers have taken yet, numbered without end.
#[derive(Debug, Default)]
struct Log {
    /// The number of the first one that is left.
    first: u64,
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// The next one of each peer; `None` until the peers were looked up for the first time.
    readers: Option<BTreeMap<SocketAddr, u64>>,
    /// Names without any address at present: each loses what is told.
    unknown: u64,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Times that a peer took one.
    pub told: u64,
    /// Times that a peer did not, which is not tried again.
    pub failed: u64,
    /// Times that one waited for a peer so long that it made room for others.
    pub dropped: u64,
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    fn push(&mut self, message: Message) {
        self.bytes += message.body.len();
        self.messages.push_back(Arc::new(message));
        while self.messages.len() > MESSAGES || self.bytes > BYTES {
            self.pop();
        }
        self.trim();
    }

    fn pop(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.body.len();
            self.first += 1;
        }
    }

    /// Forgets what all peers have taken.
    fn trim(&mut self) {
        let Some(readers) = &self.readers else { return };
        let least = readers.values().copied().min().unwrap_or(self.end());
        while self.first < least {
            self.pop();
        }
    }

    fn reader(&mut self, peer: SocketAddr) -> Option<&mut u64> {
        self.readers.as_mut()?.get_mut(&peer)
    }

    /// The next message for a peer with its number, and how many it has missed before.
    fn next(&mut self, peer: SocketAddr) -> (u64, Option<(u64, Arc<Message>)>) {
        let first = self.first;
        let Some(next) = self.reader(peer) else { return (0, None) };
        let missed = first.saturating_sub(*next);
        *next = (*next).max(first);
        let number = *next;
        let message = usize::try_from(number - first).ok().and_then(|place| self.messages.get(place));
        (missed, message.map(|message| (number, Arc::clone(message))))
    }

    /// A peer was told this one.
    fn done(&mut self, peer: SocketAddr, number: u64) {
        if let Some(next) = self.reader(peer) {
            *next = number + 1;
        }
        self.trim();
    }

    /// From now on, these are the peers. Gives what those that are gone have not taken.
    fn set_readers(&mut self, peers: &BTreeMap<SocketAddr, Peer>) -> u64 {
        let end = self.end();
        // What was told before any peer was known is for those that are found first.
        let begin = if self.readers.is_none() { 0 } else { end };
        let before = self.readers.take().unwrap_or_default();
        let gone = before.iter().filter(|(peer, _)| !peers.contains_key(peer)).map(|(_, next)| end - next).sum();
        self.readers = Some(peers.keys().map(|peer| (*peer, before.get(peer).copied().unwrap_or(begin))).collect());
        self.trim();
        gone
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, peer: SocketAddr) -> Option<(u64, Arc<Message>)> {
        let (missed, message) = self.log().next(peer);
        self.dropped.fetch_add(missed, Ordering::Relaxed);
        message
    }
}

impl Teller {
    /// Starts it; without peers there is no thread, and nothing to tell.
    ///
    /// # Errors
    /// One sentence when the system refuses a thread.
    pub fn start(peers: Peers) -> Result<Self, String> {
        let shared = Arc::<Shared>::default();
        if peers.is_empty() {
            return Ok(Self { news: None, shared });
        }
        let (news, heard) = watch::channel(());
        let (runtime, telling) = (runtime()?, Arc::clone(&shared));
        let tell = move || {
            runtime.block_on(tell_all(&peers, &telling, heard));
            // A name that is still looked up is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("peers".into()).spawn(tell);
        thread.map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(Self { news: Some(news), shared })
    }

    /// Posts this JSON to a path of all peers, later. It never waits: without room, what has waited longest is dropped and
    /// counted.
    pub fn tell(&self, path: &str, body: Bytes) {
        let Some(news) = &self.news else { return };
        let mut log = self.shared.log();
        log.push(Message { path: path.into(), body });
        self.shared.failed.fetch_add(log.unknown, Ordering::Relaxed);
        drop(log);
        // All of them may have gone.
        let _ = news.send(());
    }

    /// What became of what was told up to now.
    #[must_use]
    pub fn told(&self) -> Told {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Shared { told, failed, dropped, .. } = &*self.shared;
        Told { told: read(told), failed: read(failed), dropped: read(dropped) }
    }
}

/// Keeps a task for each peer that is found, until the teller is dropped.
async fn tell_all(peers: &Peers, shared: &Arc<Shared>, heard: watch::Receiver<()>) {
    let (mut tasks, mut telling) = (JoinSet::new(), BTreeMap::<SocketAddr, AbortHandle>::new());
    let (mut known, mut warned) = (BTreeMap::<SocketAddr, Peer>::new(), vec![]);
    loop {
        let found = peers.find().await;
        let (mut now, mut wrong, mut unknown) = (BTreeMap::new(), vec![], 0);
        for (name, found) in found {
            match found {
                Ok(addresses) => {
                    now.extend(addresses.into_iter().map(|address| (address, Peer { name: name.clone(), address })));
                }
                Err(reason) => {
                    // A name that cannot be looked up for a while keeps the addresses that it had.
                    let kept = now.len();
                    now.extend(
                        known.iter().filter(|(_, peer)| peer.name == name).map(|(at, peer)| (*at, peer.clone())),
                    );
                    unknown += u64::from(now.len() == kept);
                    wrong.push(reason);
                }
            }
        }
        if now.len() > MOST {
            wrong.push(beyond(now.len()));
        }
        while now.len() > MOST {
            now.pop_last();
        }
        // Told once until it goes well again: each time would tell the same.
        for reason in wrong.iter().filter(|reason| !warned.contains(*reason)) {
            tracing::warn!(reason, "a name of other servers is not found; it keeps the addresses that it had, if any");
        }
        (known, warned) = (now, wrong);
        let gone = {
            let mut log = shared.log();
            // Those of the first time had no chance before.
            let waiting = if log.readers.is_none() { log.messages.len() as u64 } else { 0 };
            log.unknown = unknown;
            log.set_readers(&known) + unknown * waiting
        };
        shared.failed.fetch_add(gone, Ordering::Relaxed);
        telling.retain(|address, task| {
            let stays = known.contains_key(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (address, peer) in &known {
            telling
                .entry(*address)
                .or_insert_with(|| tasks.spawn(tell_one(peer.clone(), Arc::clone(shared), heard.clone())));
        }
        while tasks.try_join_next().is_some() {}
        let mut ends = heard.clone();
        let ended = async { while ends.changed().await.is_ok() {} };
        if timeout(LOOK_UP, ended).await.is_ok() {
            return;
        }
    }
}

/// Tells one peer all that is told, in order, until the teller is dropped.
async fn tell_one(peer: Peer, shared: Arc<Shared>, mut heard: watch::Receiver<()>) {
    let mut is_well = true;
    loop {
        let Some((number, message)) = shared.next(peer.address) else {
            if heard.changed().await.is_err() {
                return;
            }
            continue;
        };
        let Message { path, body } = &*message;
        let result = post(&peer, path, body).await;
        shared.log().done(peer.address, number);
        match result {
            Ok(()) => {
                shared.told.fetch_add(1, Ordering::Relaxed);
                is_well = true;
            }
            Err(Wrong { reason, .. }) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                // As above.
                if std::mem::replace(&mut is_well, false) {
                    tracing::warn!(
                        path,
                        reason,
                        "what another server should know is lost there; more of it is not told here until it takes some again"
                    );
                }
            }
        }
    }
}

async fn post(peer: &Peer, path: &str, body: &Bytes) -> Result<(), Wrong> {
    let mut pauses = AGAIN.into_iter();
    loop {
        match (exchange(peer, Method::POST, path, body.clone()).await, pauses.next()) {
            (Err(Wrong { status: Some(StatusCode::SERVICE_UNAVAILABLE), .. }), Some(pause)) => sleep(pause).await,
            (result, _) => return result.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: &[u8]) -> BTreeMap<SocketAddr, Peer> {
        let peer = |number: &u8| {
            let address = SocketAddr::from(([10, 0, 0, *number], 8082));
            (address, Peer { name: "onnxd-peers:8082".into(), address })
        };
        numbers.iter().map(peer).collect()
    }

    fn message(bytes: usize) -> Message {
        Message { path: "/labels".into(), body: vec![b' '; bytes].into() }
    }

    /// How many a peer has missed, and the number of the one that it is told next.
    fn next(log: &mut Log, number: u8) -> (u64, Option<u64>) {
        let (missed, message) = log.next(([10, 0, 0, number], 8082).into());
        (missed, message.map(|(number, _)| number))
    }

    fn done(log: &mut Log, number: u8, message: u64) {
        log.done(([10, 0, 0, number], 8082).into(), message);
    }

    #[test]
    fn who_is_found_first_is_told_all_and_who_comes_later_what_comes_then() {
        let mut log = Log::default();
        (0..3).for_each(|_| log.push(message(1)));
        assert_eq!(log.set_readers(&peers(&[1, 2])), 0);
        assert_eq!((next(&mut log, 1), next(&mut log, 1)), ((0, Some(0)), (0, Some(0))), "until it was told");
        done(&mut log, 1, 0);
        assert_eq!((next(&mut log, 1), next(&mut log, 2)), ((0, Some(1)), (0, Some(0))));
        assert_eq!(log.set_readers(&peers(&[1, 2, 3])), 0);
        assert_eq!(next(&mut log, 3), (0, None));
        log.push(message(1));
        assert_eq!(next(&mut log, 3), (0, Some(3)));
        assert_eq!(next(&mut log, 9), (0, None), "nobody knows it");
    }

    #[test]
    fn what_all_have_taken_goes_and_who_is_gone_keeps_nothing() {
        let mut log = Log::default();
        log.set_readers(&peers(&[1, 2]));
        (0..4).for_each(|_| log.push(message(10)));
        (0..4).for_each(|number| done(&mut log, 1, number));
        assert_eq!((log.messages.len(), log.bytes, next(&mut log, 1)), (4, 40, (0, None)));
        done(&mut log, 2, 0);
        assert_eq!((log.messages.len(), log.bytes), (3, 30));
        assert_eq!(log.set_readers(&peers(&[1])), 3, "three were not taken");
        assert_eq!((log.messages.len(), log.bytes, log.first), (0, 0, 4));
        assert_eq!(log.set_readers(&peers(&[])), 0);
        log.push(message(10));
        assert_eq!((log.messages.len(), log.bytes), (0, 0), "nobody is there to tell");
    }

    #[test]
    fn the_oldest_make_room_and_who_was_slow_has_missed_them() {
        let mut log = Log::default();
        log.set_readers(&peers(&[1, 2]));
        log.push(message(1));
        assert_eq!(next(&mut log, 1), (0, Some(0)));
        (0..9).for_each(|_| log.push(message(1 << 20)));
        assert_eq!((log.messages.len(), log.bytes, log.first), (8, 8 << 20, 2));
        // What was on its way is not missed.
        done(&mut log, 1, 0);
        assert_eq!((next(&mut log, 1), next(&mut log, 2)), ((1, Some(2)), (2, Some(2))));
        assert_eq!(next(&mut log, 1), (0, Some(2)), "counted once");
        log.push(message((8 << 20) + 1));
        assert_eq!((log.messages.len(), next(&mut log, 1)), (0, (9, None)), "larger than all room");
        (0..2000).for_each(|_| log.push(message(0)));
        assert_eq!(log.messages.len(), 1024);
    }
}
