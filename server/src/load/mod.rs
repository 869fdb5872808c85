//! The load generator: one thread, kept connections, requests written beforehand, so that it takes little of the machine
//! it shares with the server.
//!
//! Without a rate the loop is *closed*: each connection sends its next request when the last is answered. That finds
//! the greatest throughput and hides queues, for a slow server is asked less. With a rate the loop is *open*: requests
//! are due at constant intervals whatever the server does, and a latency counts from when its request was due.

mod connection;
mod grpc;
mod histogram;
pub mod http;
pub mod model;
mod outcome;
mod pacer;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use self::connection::Connection;
pub use self::histogram::Histogram;
use self::http::Target;
pub use self::outcome::Outcome;
pub use self::watch::{Watch, Watched};
use crate::http::grpc::proto::ModelInferResponse;

/// How often an open loop looks at the clock at least.
const TICK: Duration = Duration::from_micros(100);
/// After the last request was due, so long is waited for what is still unanswered.
const GRACE: Duration = Duration::from_secs(3);
/// One answer in so many is looked at.
const SAMPLE: u64 = 64;
/// A server that is gone is not hammered.
const PAUSE: Duration = Duration::from_millis(10);

/// What to send, and how.
#[derive(Clone)]
pub struct Plan {
    /// Where to; the path is that of HTTP requests, gRPC has its own.
    pub target: Target,
    /// Sent in turn.
    pub requests: Requests,
    /// How many requests there are at a time, at most: HTTP connections, or gRPC streams.
    pub connections: usize,
    /// How long requests are sent.
    pub duration: Duration,
    /// Requests a second; `None` = as fast as they are answered.
    pub rate: Option<f64>,
    /// Whether the body of a 200, or the message of an answered call, is what was asked for. It sees one answer in 64.
    pub is_good: fn(&[u8]) -> bool,
    /// What to look for in the answers; the run may end before its duration then.
    pub watch: Option<Watch>,
}

/// Requests, ready to be sent.
#[derive(Clone)]
pub enum Requests {
    /// Bodies of JSON, over HTTP/1.1.
    Json(Vec<Bytes>),
    /// Bodies of the Open Inference Protocol with tensors as bytes, over HTTP/1.1.
    Binary(Vec<Binary>),
    /// Messages to `ModelInfer`, over HTTP/2.
    Grpc {
        /// Without the five bytes that gRPC puts before each.
        messages: Vec<Bytes>,
        /// How many HTTP/2 connections the streams are spread over.
        connections: usize,
    },
}

/// A body of JSON and then of tensors' bytes.
#[derive(Clone)]
pub struct Binary {
    /// How much of it is JSON, as `Inference-Header-Content-Length` tells.
    pub json: usize,
    /// All of it.
    pub body: Bytes,
}

impl Requests {
    /// JSON bodies.
    pub fn json(bodies: impl IntoIterator<Item = String>) -> Self {
        Self::Json(bodies.into_iter().map(Bytes::from).collect())
    }

    fn count(&self) -> usize {
        match self {
            Self::Json(bodies) => bodies.len(),
            Self::Binary(bodies) => bodies.len(),
            Self::Grpc { messages, .. } => messages.len(),
        }
    }
}

impl Plan {
    /// A closed loop. Good answers are JSON where requests are, and have outputs where they are tensors.
    #[must_use]
    pub fn new(target: Target, requests: Requests, connections: usize, duration: Duration) -> Self {
        let is_good = match requests {
            Requests::Json(_) => is_json,
            Requests::Binary(_) => has_outputs,
            Requests::Grpc { .. } => is_inference,
        };
        Self { target, requests, connections, duration, rate: None, is_good, watch: None }
    }

    /// The same as an open loop.
    #[must_use]
    pub fn at(self, rate: f64) -> Self {
        Self { rate: Some(rate), ..self }
    }
}

/// Whether a body is JSON.
#[must_use]
pub fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(body).is_ok()
}

/// Whether a body with tensors as bytes begins with JSON that names outputs.
#[must_use]
pub fn has_outputs(body: &[u8]) -> bool {
    const OUTPUTS: &[u8] = b"\"outputs\":[{";
    body.starts_with(b"{") && body.windows(OUTPUTS.len()).any(|bytes| bytes == OUTPUTS)
}

/// Whether a message is an answer to `ModelInfer` with outputs.
#[must_use]
pub fn is_inference(message: &[u8]) -> bool {
    ModelInferResponse::decode(message).is_ok_and(|answer| !answer.outputs.is_empty())
}

/// Runs the plan to its end, in this thread. It takes the plan's duration, and a few seconds more if answers are late.
///
/// # Errors
/// What is wrong with the plan; or that no connection could be made at its start. Later failures are counted.
pub fn run(plan: &Plan) -> Result<Outcome> {
    ensure!(plan.connections > 0 && plan.requests.count() > 0, "at least one connection and one request are needed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(LocalSet::new().run_until(drive(plan)))
}

/// What all connections share: one thread, so no locks.
struct Shared {
    next: Cell<usize>,
    outcome: RefCell<Outcome>,
    is_good: fn(&[u8]) -> bool,
    /// Requests that are due and not taken by a connection yet.
    due: RefCell<VecDeque<Instant>>,
    wake: Notify,
    started: Cell<u64>,
    start: Instant,
    end: Cell<Instant>,
    /// Whether every request that the rate asks for is due.
    is_complete: Cell<bool>,
}

async fn drive(plan: &Plan) -> Result<Outcome> {
    let connections = Connection::open_all(plan).await?;
    let start = Instant::now();
    let end = start + plan.duration;
    let outcome = Outcome { watched: plan.watch.clone().map(|watch| Watched::new(start, watch)), ..Outcome::default() };
    let shared = Rc::new(Shared {
        next: Cell::new(0),
        outcome: RefCell::new(outcome),
        is_good: plan.is_good,
        due: RefCell::default(),
        wake: Notify::new(),
        started: Cell::new(0),
        start,
        end: Cell::new(end),
        is_complete: Cell::new(false),
    });
    let rate = plan.rate;
    let tasks = connections.into_iter().map(|mut connection| {
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            while let Some(due) = shared.next_due(rate).await {
                shared.exchange(&mut connection, due, rate.is_some()).await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    if let Some(rate) = rate {
        shared.schedule(rate).await?;
    }
    let finished = async {
        for task in tasks {
            task.await.context("a connection's task ended badly")?;
        }
        Ok::<_, anyhow::Error>(())
    };
    if let Ok(result) = tokio::time::timeout_at((end + GRACE).into(), finished).await {
        result?;
    }
    let mut outcome = shared.outcome.borrow().clone();
    outcome.elapsed = start.elapsed();
    outcome.unanswered = shared.started.get() - outcome.answered() - outcome.broken;
    Ok(outcome)
}

impl Shared {
    /// When the next request of a connection is due; `None` when there will be no more.
    async fn next_due(&self, rate: Option<f64>) -> Option<Instant> {
        let Some(rate) = rate else {
            let now = Instant::now();
            return (now < self.end(now)).then(|| {
                self.started.update(|started| started + 1);
                now
            });
        };
        loop {
            let woken = self.wake.notified();
            self.admit(rate);
            let due = self.due.borrow_mut().pop_front();
            if due.is_some() {
                self.wake_one();
                return due;
            }
            if self.is_complete.get() {
                return None;
            }
            woken.await;
        }
    }

    /// Wakes a connection if there is a request for it, which wakes the next one.
    fn wake_one(&self) {
        if !self.due.borrow().is_empty() {
            self.wake.notify_one();
        }
    }

    /// When the run ends: as planned, or when what it watches for was seen.
    fn end(&self, now: Instant) -> Instant {
        if now < self.end.get()
            && self.outcome.borrow_mut().watched.as_mut().is_some_and(|watched| watched.is_over(now))
        {
            self.end.set(now);
        }
        self.end.get()
    }

    /// Makes requests due at a constant rate until the end. Connections that are busy look for them by themselves, and seldom
    /// need a tick: thousands of ticks a second would take the CPU from the server beside.
    async fn schedule(&self, rate: f64) -> Result<()> {
        let interval = Duration::try_from_secs_f64(1.0 / rate).ok().filter(|interval| !interval.is_zero());
        let interval = interval.with_context(|| format!("a rate of {rate} requests a second cannot be kept"))?;
        let mut ticks = pacer::every(self.start, interval.max(TICK));
        while !self.admit(rate) {
            self.wake_one();
            ticks.recv().await.context("no more ticks")?;
        }
        self.wake_one();
        tokio::time::sleep_until(self.end.get().into()).await;
        self.is_complete.set(true);
        self.wake.notify_waiters();
        Ok(())
    }

    /// Counts the requests that are due by now; gives whether there will be no more.
    fn admit(&self, rate: f64) -> bool {
        let now = Instant::now();
        let end = self.end(now);
        loop {
            // As many as were started before.
            let due = self.start + Duration::from_secs_f64(self.started.get() as f64 / rate);
            if due >= end || due > now {
                return due >= end;
            }
            self.started.update(|started| started + 1);
            self.due.borrow_mut().push_back(due);
        }
    }

    /// Sends one request and records its answer, or that there was none.
    async fn exchange(&self, connection: &mut Connection, due: Instant, open: bool) {
        let number = self.next.replace(self.next.get() + 1);
        let sent = Instant::now();
        if open {
            self.outcome.borrow_mut().lateness.record(sent - due);
        }
        let Ok(answer) = connection.exchange(number).await else {
            self.outcome.borrow_mut().broken += 1;
            tokio::time::sleep(PAUSE).await;
            return;
        };
        let now = Instant::now();
        let mut outcome = self.outcome.borrow_mut();
        outcome.latency.record(now - due);
        if open {
            outcome.service.record(now - sent);
        }
        *outcome.statuses.entry(answer.status).or_default() += 1;
        if answer.status == 200 && outcome.answered() % SAMPLE == 1 && !(self.is_good)(answer.body) {
            outcome.wrong_bodies += 1;
        }
        if let Some(watched) = &mut outcome.watched {
            watched.record(answer.header("x-model-version").unwrap_or_default(), now, now - due);
        }
    }
}

#[cfg(test)]
mod tests;
