//! Who runs what and when, with fakes in the place of ONNX Runtime.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ndarray::Array2;

use super::{Call, Lane, Limits, PredictError, Priority, worker};
use crate::metrics::{Metrics, ModelMetrics};
use crate::model::check::{Invariance, Profile};
use crate::model::signature::{GraphIo, Port, Rows, Signature};
use crate::model::tensor::{DType, Tensor};
use crate::model::trial::Trial;
use crate::model::{Answer, Duty, Infer, Model, ModelId, RunError};
use crate::serving::ServingSet;
use crate::shadow::{self, Challenger, Sampler};
use crate::verdict::state::Recorder;

/// Answers each row with itself; notes how many rows each run had; fails and panics on the rows that say so.
#[derive(Clone, Default)]
struct Echo {
    runs: Arc<Mutex<Vec<usize>>>,
    /// Which threads ran something.
    threads: Arc<Mutex<HashSet<ThreadId>>>,
    /// When set, each run waits for a message.
    gate: Option<Arc<Mutex<Receiver<()>>>>,
}

const FAILS: f32 = -1.0;
const PANICS: f32 = -2.0;

impl Infer for Echo {
    fn run(&mut self, inputs: &[Tensor], _: Instant) -> Result<Vec<Tensor>, RunError> {
        let Tensor::F32(x) = &inputs[0] else { return Err(RunError::Failed("not float32".into())) };
        self.runs.lock().expect("no panic").push(x.len());
        self.threads.lock().expect("no panic").insert(std::thread::current().id());
        if let Some(gate) = &self.gate {
            gate.lock().expect("no panic").recv().expect("opened");
        }
        assert!(!x.iter().any(|v| *v == PANICS), "a row that panics");
        if x.iter().any(|v| *v == FAILS) {
            return Err(RunError::Failed("a row that fails".into()));
        }
        Ok(vec![Tensor::from(x.iter().copied().collect::<ndarray::Array1<f32>>().into_dyn())])
    }
}

/// A run takes 1 us, and 0.1 us for each row beyond the first.
fn profile() -> Profile {
    Profile {
        invariance: Invariance::Exact,
        rows: Rows::Any,
        max_batch: 64,
        one_row_us: 1.0,
        row_in_batch_us: 0.1,
        further_row_us: 0.1,
        steady: true,
        trial: Trial::Golden,
        nodes: 1,
        warnings: vec![],
    }
}

fn model(echo: &Echo, inline: bool) -> Model {
    let port = |name: &str, shape: &[i64]| Port { name: name.into(), tensor: Ok((DType::F32, shape.to_vec())) };
    let graph = GraphIo { inputs: vec![port("x", &[-1, 1])], outputs: vec![port("y", &[-1])], ..GraphIo::default() };
    let id = ModelId { name: "m".into(), version: "1".into(), sha256: String::new(), manifest_sha256: None };
    let sessions = || -> Vec<Box<dyn Infer>> { (0..3).map(|_| Box::new(echo.clone()) as Box<dyn Infer>).collect() };
    let signature = Signature::new(&graph, None).expect("a signature");
    Model::with_sessions(id, signature, profile(), Duty::Serve, sessions(), if inline { sessions() } else { vec![] })
}

struct Fixture {
    lane: Arc<Lane>,
    set: Arc<ServingSet>,
    runs: Arc<Mutex<Vec<usize>>>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl Fixture {
    fn new(echo: &Echo, inline: bool, workers: usize, limits: Limits, challenger: Option<Model>) -> Self {
        let metrics = Arc::new(ModelMetrics::new(&Arc::new(Metrics::default()), "m"));
        let shadow = shadow::Limits { sample: 1.0, queue_rows: 1024, cpu: 1.0 };
        let lane = Arc::new(Lane::new("m", limits, Arc::clone(&metrics), Sampler::new(shadow.sample)));
        let start = |model| Challenger::start(Arc::new(model), 0, shadow, metrics, Recorder::default());
        let challengers = challenger.map(|model| Arc::new(start(model).expect("a thread"))).into_iter().collect();
        let champion = Arc::new(model(echo, inline));
        lane.serving.publish(ServingSet { challengers, ..ServingSet::of(champion, 1) });
        let set = lane.serving.get().expect("published");
        let workers = worker::start(&lane, workers).expect("threads");
        Self { lane, set, runs: Arc::clone(&echo.runs), workers }
    }

    async fn ask(&self, x: f32) -> Result<f32, PredictError> {
        let answers = self.send(Array2::from_elem((1, 1), x), Priority::Normal).await?;
        let [answer] = answers.as_slice() else { panic!("one part") };
        let Tensor::F32(y) = &answer.outputs[0] else { panic!("float32") };
        Ok(y[answer.rows.start])
    }

    async fn ask_rows(&self, rows: usize, priority: Priority) -> Result<Vec<Answer>, PredictError> {
        self.send(Array2::from_elem((rows, 1), 1.0), priority).await
    }

    async fn send(&self, rows: Array2<f32>, priority: Priority) -> Result<Vec<Answer>, PredictError> {
        let start = Instant::now();
        let deadline = start + Duration::from_secs(60);
        let call = Call { start, deadline, protocol: "test", accepted: false, priority };
        let count = rows.nrows();
        self.lane.predict(&self.set, vec![rows.into_dyn().into()], count, call, None).await
    }

    /// Waits until so many runs have begun.
    fn wait_for(&self, runs: usize) {
        while self.runs().len() < runs {
            std::thread::yield_now();
        }
    }

    fn runs(&self) -> Vec<usize> {
        self.runs.lock().expect("no panic").clone()
    }

    fn close(self) {
        self.lane.close();
        self.workers.into_iter().for_each(|w| w.join().expect("no panic"));
    }
}

/// Queues what is asked, and does not wait for the answers.
fn start(asked: &mut [Pin<Box<impl Future<Output: Debug>>>]) {
    for ask in asked {
        assert!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

const LIMITS: Limits = Limits { queue_rows: 1024, batch_delay: Duration::ZERO };

fn gated() -> (Echo, Sender<()>) {
    let (open, gate) = channel();
    (Echo { gate: Some(Arc::new(Mutex::new(gate))), ..Echo::default() }, open)
}

#[tokio::test]
async fn requests_that_have_arrived_share_the_leaders_run() {
    let echo = Echo::default();
    let fixture = Fixture::new(&echo, true, 0, LIMITS, None);
    let answers = join_all((0_u8..50).map(|i| fixture.ask(i.into()))).await;
    assert!(answers.into_iter().zip(0_u8..).all(|(got, i)| got == Ok(i.into())));
    assert_eq!(fixture.runs(), [50]);
}

#[tokio::test]
async fn the_follower_of_a_leader_that_left_is_answered() {
    let echo = Echo::default();
    let fixture = Fixture::new(&echo, true, 1, LIMITS, None);
    let mut leader = Box::pin(fixture.ask(1.0));
    assert_eq!(leader.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    let mut follower = Box::pin(fixture.ask(2.0));
    assert_eq!(follower.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    drop(leader);
    assert_eq!(follower.await, Ok(2.0));
    assert_eq!(fixture.runs(), [1], "the one who left was not run");
    fixture.close();
}

#[tokio::test]
async fn a_worker_takes_what_waits_while_it_was_busy() {
    let (echo, open) = gated();
    let fixture = Fixture::new(&echo, false, 1, LIMITS, None);
    let answers = join_all((0_u8..20).map(|i| {
        let (fixture, open) = (&fixture, &open);
        async move {
            if i == 19 {
                // All others are queued: the run in progress may end, and so may the next.
                open.send(()).expect("a run waits");
                open.send(()).expect("a run waits");
            }
            fixture.ask(i.into()).await
        }
    }));
    assert!(answers.await.iter().all(Result::is_ok));
    let runs = fixture.runs();
    assert_eq!(runs.iter().sum::<usize>(), 20);
    assert!(runs.len() <= 2, "{runs:?}");
    fixture.close();
}

/// Of what could take a run long, nobody waits for another's.
#[test]
fn only_a_model_whose_runs_are_alike_lets_rows_wait_for_company() {
    let mut profile = profile();
    assert!((9..=10).contains(&profile.rows_worth_a_run()));
    assert!((profile.run_us(11) - 2.0).abs() < 1e-9);
    profile.steady = false;
    assert_eq!(profile.rows_worth_a_run(), 1);
}

/// What a run costs whatever it has is here as much as ten rows.
#[tokio::test]
async fn what_is_not_worth_a_run_waits_for_the_one_in_progress() {
    let (echo, open) = gated();
    let fixture = Fixture::new(&echo, false, 2, LIMITS, None);
    let rows = [8].into_iter().chain([1; 5]).chain([1; 10]);
    let mut asked: Vec<_> = rows.map(|rows| Box::pin(fixture.ask_rows(rows, Priority::Normal))).collect();
    start(&mut asked[..1]);
    fixture.wait_for(1);
    start(&mut asked[1..6]);
    open.send(()).expect("a run waits");
    fixture.wait_for(2);
    start(&mut asked[6..]);
    // While the second one runs still.
    fixture.wait_for(3);
    assert_eq!(fixture.runs(), [8, 5, 10]);
    (0..2).for_each(|_| open.send(()).expect("a run waits"));
    assert!(join_all(asked).await.iter().all(Result::is_ok));
    fixture.close();
}

#[tokio::test]
async fn where_few_rows_run_as_few_run_beside_them() {
    let (echo, open) = gated();
    let fixture = Fixture::new(&echo, false, 2, LIMITS, None);
    let mut asked: Vec<_> = [2, 2].map(|rows| Box::pin(fixture.ask_rows(rows, Priority::Normal))).into();
    for ask in 0..2 {
        start(&mut asked[ask..=ask]);
        fixture.wait_for(ask + 1);
    }
    (0..2).for_each(|_| open.send(()).expect("a run waits"));
    assert!(join_all(asked).await.iter().all(Result::is_ok));
    assert_eq!(fixture.runs(), [2, 2]);
    fixture.close();
}

#[tokio::test]
async fn the_worker_that_ran_last_runs_next() {
    let echo = Echo::default();
    let fixture = Fixture::new(&echo, false, 3, LIMITS, None);
    for _ in 0..20 {
        while fixture.lane.state().idle.len() < 3 {
            std::thread::yield_now();
        }
        assert_eq!(fixture.ask(1.0).await, Ok(1.0));
    }
    assert_eq!(echo.threads.lock().expect("no panic").len(), 1);
    fixture.close();
}

#[tokio::test]
async fn jobs_that_wait_for_company_share_a_run() {
    let limits = Limits { batch_delay: Duration::from_millis(200), ..LIMITS };
    let fixture = Fixture::new(&Echo::default(), true, 1, limits, None);
    let answers = join_all((0_u8..5).map(|i| fixture.ask(i.into()))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(fixture.runs(), [5]);
    fixture.close();
}

#[tokio::test]
async fn a_row_that_fails_or_panics_fails_alone() {
    for bad in [FAILS, PANICS] {
        let fixture = Fixture::new(&Echo::default(), true, 0, LIMITS, None);
        let rows = [1.0, bad, 2.0];
        let answers = join_all(rows.map(|x| fixture.ask(x))).await;
        assert_eq!((&answers[0], &answers[2]), (&Ok(1.0), &Ok(2.0)));
        assert!(matches!(answers[1], Err(PredictError::Model(_))), "{:?}", answers[1]);
        assert_eq!(fixture.runs(), [3, 1, 1, 1], "together, then each by itself");
    }
}

#[tokio::test]
async fn what_was_queued_before_closing_is_answered() {
    let (echo, open) = gated();
    let fixture = Fixture::new(&echo, false, 1, LIMITS, None);
    let mut asked: Vec<_> = (0_u8..3).map(|i| Box::pin(fixture.ask(i.into()))).collect();
    for ask in &mut asked {
        assert_eq!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    }
    fixture.lane.close();
    assert_eq!(fixture.ask(9.0).await, Err(PredictError::Draining));
    for _ in 0..3 {
        open.send(()).expect("the worker lives");
    }
    assert!(join_all(asked).await.iter().all(Result::is_ok));
    fixture.close();
}

#[tokio::test]
async fn a_queue_that_is_full_says_so_and_expired_jobs_are_told() {
    let (echo, open) = gated();
    let limits = Limits { queue_rows: 2, ..LIMITS };
    let fixture = Fixture::new(&echo, false, 0, limits, None);
    let mut asked: Vec<_> = (0_u8..2).map(|i| Box::pin(fixture.ask(i.into()))).collect();
    for ask in &mut asked {
        assert_eq!(ask.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    }
    assert_eq!(fixture.ask(9.0).await, Err(PredictError::Overloaded));
    assert_eq!(fixture.lane.queued_rows(), 2);
    for job in &mut fixture.lane.state().jobs {
        job.deadline = Instant::now();
    }
    fixture.lane.expire();
    assert!(join_all(asked).await.iter().all(|a| *a == Err(PredictError::Deadline)));
    assert_eq!(fixture.lane.queued_rows(), 0);
    drop(open);
}

#[tokio::test]
async fn a_challenger_that_panics_is_counted_and_nothing_else() {
    struct Panics;
    impl Infer for Panics {
        fn run(&mut self, _: &[Tensor], _: Instant) -> Result<Vec<Tensor>, RunError> {
            panic!("a challenger that panics")
        }
    }
    let Model { id, signature, profile, .. } = model(&Echo::default(), false);
    let challenger = Model::with_sessions(id, signature, profile, Duty::Shadow, vec![Box::new(Panics)], vec![]);
    let fixture = Fixture::new(&Echo::default(), true, 0, LIMITS, Some(challenger));
    let challenger = Arc::clone(fixture.set.challengers.first().expect("a challenger"));
    let lost = || challenger.statistics().lost.get("failed").copied().unwrap_or(0);
    let begin = Instant::now();
    while lost() == 0 && begin.elapsed() < Duration::from_secs(120) {
        assert_eq!(fixture.ask(5.0).await, Ok(5.0));
        // The shadow's thread runs only when nothing else wants the CPU.
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert!(lost() > 0);
}

/// The order is that of the priorities, and within one that of arrival.
#[tokio::test]
async fn what_waits_runs_by_priority() {
    let (echo, open) = gated();
    let fixture = Fixture::new(&echo, false, 1, LIMITS, None);
    // No two of them fit into one run.
    let wanted = [(40, Priority::Normal), (41, Priority::Low), (42, Priority::Normal), (43, Priority::High)];
    let mut asked: Vec<_> = wanted.map(|(rows, priority)| Box::pin(fixture.ask_rows(rows, priority))).into();
    // The first one is being run while the others come.
    start(&mut asked[..1]);
    fixture.wait_for(1);
    start(&mut asked[1..]);
    wanted.iter().for_each(|_| open.send(()).expect("the worker lives"));
    assert!(join_all(asked).await.iter().all(Result::is_ok));
    assert_eq!(fixture.runs(), [40, 43, 42, 41]);
    fixture.close();
}

/// The first job of a batch decides which model runs it: not one before it whose client has left.
#[tokio::test]
async fn a_leader_that_follows_an_abandoned_job_runs_its_own_model() {
    let (old, new) = (Echo::default(), Echo::default());
    let mut fixture = Fixture::new(&old, true, 0, LIMITS, None);
    {
        let mut abandoned = Box::pin(fixture.ask(1.0));
        assert_eq!(abandoned.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
    }
    let champion = Arc::new(model(&new, true));
    fixture.lane.serving.publish(ServingSet::of(champion, 2));
    fixture.set = fixture.lane.serving.get().expect("published");
    assert_eq!(fixture.ask(2.0).await, Ok(2.0));
    assert!(old.runs.lock().expect("no panic").is_empty());
    assert_eq!(*new.runs.lock().expect("no panic"), [1]);
}

/// Closing while a leader is on its way: the workers end as soon as it has run.
#[tokio::test]
async fn closing_does_not_wait_for_ever_on_a_leader() {
    let fixture = Fixture::new(&Echo::default(), true, 2, LIMITS, None);
    {
        let mut leader = Box::pin(fixture.ask(1.0));
        assert_eq!(leader.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        fixture.lane.close();
        assert_eq!(leader.await, Ok(1.0));
    }
    fixture.close();
}
