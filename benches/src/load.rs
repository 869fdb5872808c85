//! The load generator: one thread, raw HTTP/1.1 over kept connections, requests written beforehand.
//!
//! Without a rate the loop is *closed*: each connection sends its next request when the last is answered. That finds
//! the greatest throughput and hides queues, for a slow server is asked less. With a rate the loop is *open*: requests
//! are due at constant intervals whatever the server does, and a latency counts from when its request was due.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::LocalSet,
};

use crate::{
    histogram::Histogram,
    http::{self, Response, Target},
    pacer,
    watch::{Watch, Watched},
};

/// After the last request was due, so long is waited for what is still unanswered.
const GRACE: Duration = Duration::from_secs(3);
/// One body in so many is parsed.
const SAMPLE: u64 = 64;

/// What to send, and how.
pub(crate) struct Plan {
    pub(crate) target: Target,
    /// Sent in turn.
    pub(crate) bodies: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
    /// Requests a second; `None` = as fast as they are answered.
    pub(crate) rate: Option<f64>,
    /// What to look for in the answers; the run may end before its duration then.
    pub(crate) watch: Option<Watch>,
}

/// What came back.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) latency: Histogram,
    /// Open loop: the part of the latency that begins when the request left, which is the server's.
    pub(crate) service: Histogram,
    /// Open loop: how long after it was due a request left, because of the generator or of a lack of free connections.
    pub(crate) lateness: Histogram,
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Connections refused or broken, answers that are no HTTP.
    pub(crate) broken: u64,
    /// Bodies of a 200, among those looked at, that are not JSON with a `score`.
    pub(crate) wrong_bodies: u64,
    /// Requests due or sent that had no answer when the time was up.
    pub(crate) unanswered: u64,
    /// Of a plan that watches.
    pub(crate) watched: Option<Watched>,
}

impl Outcome {
    pub(crate) fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            latency: Histogram::new(),
            service: Histogram::new(),
            lateness: Histogram::new(),
            statuses: BTreeMap::new(),
            broken: 0,
            wrong_bodies: 0,
            unanswered: 0,
            watched: None,
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.latency.count()
    }

    /// Everything that is not a good answer.
    pub(crate) fn errors(&self) -> u64 {
        let refused: u64 = self.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum();
        refused + self.broken + self.wrong_bodies + self.unanswered
    }

    /// Adds another run against the same server.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        self.latency.merge(&other.latency);
        self.service.merge(&other.service);
        self.lateness.merge(&other.lateness);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.broken += other.broken;
        self.wrong_bodies += other.wrong_bodies;
        self.unanswered += other.unanswered;
    }
}

/// Runs the plan to its end, in this thread. It takes the plan's duration, and a few seconds more if answers are late.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    ensure!(plan.connections > 0 && !plan.bodies.is_empty(), "at least one connection and one body are needed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(LocalSet::new().run_until(drive(plan)))
}

/// What all connections share: one thread, so no locks.
struct Shared {
    requests: Vec<Vec<u8>>,
    next: RefCell<usize>,
    outcome: RefCell<Outcome>,
    /// Requests that are due and not taken by a connection yet.
    due: RefCell<VecDeque<Instant>>,
    wake: Notify,
    started: RefCell<u64>,
    end: Cell<Instant>,
}

async fn drive(plan: &Plan) -> Result<Outcome> {
    let shared = Rc::new(Shared {
        requests: plan.bodies.iter().map(|body| plan.target.post(body)).collect(),
        next: RefCell::default(),
        outcome: RefCell::new(Outcome::new()),
        due: RefCell::default(),
        wake: Notify::new(),
        started: RefCell::default(),
        end: Cell::new(Instant::now()),
    });
    let mut connections = Vec::with_capacity(plan.connections);
    for _ in 0..plan.connections {
        connections.push(Connection::open(plan.target.clone()).await?);
    }
    let start = Instant::now();
    let end = start + plan.duration;
    shared.end.set(end);
    shared.outcome.borrow_mut().watched = plan.watch.clone().map(|watch| Watched::new(start, watch));
    let open = plan.rate.is_some();
    let tasks = connections.into_iter().map(|mut connection| {
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            while let Some(due) = shared.next_due(open).await {
                connection.exchange(&shared, due, open).await;
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    if let Some(rate) = plan.rate {
        shared.schedule(rate, start).await?;
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
    outcome.unanswered = *shared.started.borrow() - outcome.answered() - outcome.broken;
    Ok(outcome)
}

impl Shared {
    /// When the next request of a connection is due; `None` when there will be no more.
    async fn next_due(&self, open: bool) -> Option<Instant> {
        if !open {
            let now = Instant::now();
            return (now < self.end(now)).then(|| {
                *self.started.borrow_mut() += 1;
                now
            });
        }
        loop {
            let woken = self.wake.notified();
            if let Some(due) = self.due.borrow_mut().pop_front() {
                return Some(due);
            }
            if Instant::now() >= self.end.get() {
                return None;
            }
            woken.await;
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

    /// Makes requests due at a constant rate until the end.
    async fn schedule(&self, rate: f64, start: Instant) -> Result<()> {
        let interval = Duration::try_from_secs_f64(1.0 / rate).ok().filter(|interval| !interval.is_zero());
        let interval = interval.with_context(|| format!("a rate of {rate} requests a second cannot be kept"))?;
        let mut ticks = pacer::every(start, interval);
        let mut number = 0_u32;
        loop {
            let now = Instant::now();
            let end = self.end(now);
            loop {
                let due = start + Duration::from_secs_f64(f64::from(number) / rate);
                if due >= end {
                    // The tasks see the end by the clock, so they must not be woken before it.
                    tokio::time::sleep_until(end.into()).await;
                    self.wake.notify_waiters();
                    return Ok(());
                }
                if due > now {
                    break;
                }
                number += 1;
                *self.started.borrow_mut() += 1;
                self.due.borrow_mut().push_back(due);
                self.wake.notify_one();
            }
            ticks.recv().await.context("no more ticks")?;
        }
    }

    fn next_request(&self) -> &[u8] {
        let mut next = self.next.borrow_mut();
        let request = &self.requests[*next % self.requests.len()];
        *next += 1;
        request
    }

    fn record(&self, response: &Response, answer: &[u8], due: Instant) {
        let mut outcome = self.outcome.borrow_mut();
        let now = Instant::now();
        outcome.latency.record(now - due);
        if let Some(watched) = &mut outcome.watched {
            watched.record(http::header(answer, "x-model-version").unwrap_or_default(), now, now - due);
        }
        *outcome.statuses.entry(response.status).or_default() += 1;
        if response.status == 200 && outcome.answered() % SAMPLE == 1 && !has_score(&answer[response.body.clone()]) {
            outcome.wrong_bodies += 1;
        }
    }
}

struct Connection {
    target: Target,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(target: Target) -> Result<Self> {
        let stream = Some(connect(&target).await?);
        Ok(Self { target, stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends one request and records its answer, or that there was none.
    async fn exchange(&mut self, shared: &Shared, due: Instant, open: bool) {
        let sent = Instant::now();
        if open {
            shared.outcome.borrow_mut().lateness.record(sent - due);
        }
        match self.try_exchange(shared.next_request()).await {
            Ok(response) => {
                shared.record(&response, &self.buffer, due);
                if open {
                    shared.outcome.borrow_mut().service.record(sent.elapsed());
                }
                if response.close {
                    self.stream = None;
                }
            }
            Err(_) => {
                shared.outcome.borrow_mut().broken += 1;
                self.stream = None;
                tokio::time::sleep(Duration::from_millis(10)).await; // a server that is gone is not hammered
            }
        }
    }

    async fn try_exchange(&mut self, request: &[u8]) -> Result<Response> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(&self.target).await?),
        };
        stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            if let Some(response) = http::parse(&self.buffer)? {
                return Ok(response);
            }
        }
    }
}

async fn connect(target: &Target) -> Result<TcpStream> {
    let stream =
        TcpStream::connect(target.address).await.with_context(|| format!("no server at {}", target.address))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn has_score(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.get("score").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bodies, echo};

    fn plan(rate: Option<f64>, path: &str) -> Plan {
        let target = Target { address: echo::in_thread(), path: path.to_owned() };
        Plan {
            target,
            bodies: bodies::ordinary(),
            connections: 4,
            duration: Duration::from_millis(300),
            rate,
            watch: None,
        }
    }

    #[test]
    fn a_closed_loop_sends_as_fast_as_it_is_answered() {
        let outcome = run(&plan(None, "/predict")).expect("it runs");
        assert!(outcome.answered() > 100, "{}", outcome.answered());
        assert_eq!((outcome.errors(), outcome.statuses.len()), (0, 1));
        assert!(outcome.latency.quantile_us(0.5) > Some(0.0));
    }

    #[test]
    fn an_open_loop_keeps_its_rate() {
        let outcome = run(&plan(Some(500.0), "/predict")).expect("it runs");
        assert_eq!((outcome.answered(), outcome.errors()), (150, 0));
        assert_eq!(outcome.lateness.count(), 150);
    }

    #[test]
    fn refusals_and_bodies_without_a_score_are_errors() {
        let outcome = run(&plan(Some(500.0), "/nothing-here")).expect("it runs");
        assert_eq!((outcome.statuses.get(&404), outcome.errors()), (Some(&150), 150));
        assert!(has_score(br#"{"score":0.1}"#));
        assert!(!has_score(br#"{"error":"no"}"#) && !has_score(b"score"));
    }

    #[test]
    fn a_latency_counts_from_when_the_request_was_due() {
        // A server that accepts and stays silent: with two connections, two are sent and all are unanswered.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let target = Target { address: silent.local_addr().expect("it is bound"), path: "/".to_owned() };
        let duration = Duration::from_millis(100);
        let bodies = bodies::ordinary();
        let plan = Plan { target, bodies, connections: 2, duration, rate: Some(100.0), watch: None };
        let outcome = run(&plan).expect("it runs");
        assert_eq!((outcome.answered(), outcome.unanswered, outcome.lateness.count()), (0, 10, 2));
    }
}
