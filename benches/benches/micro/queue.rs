//! What a request pays to share a run: queueing, cutting the batch, stacking its rows, the run, and handing each its answer.
//!
//! `onnxd` is all of that, through `Lane::predict`; the model run alone on as many rows is its floor. Cutting has no public
//! function of its own and is measured with the rest.

use std::{collections::BTreeMap, hint::black_box, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use benches::prepared::PATIENCE;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use onnxd::{
    batch::{Call, PredictError},
    codec::decode,
    model::{Answer, tensor::Tensor},
};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinSet, yield_now},
};

use crate::{
    Served,
    rows::{self, MANY},
};

const CALLERS: usize = 64;
const ONNXD: &str = "onnxd";
const ALONE: &str = "the run alone";
const SOUND: &str = "a model that answered just now answers";

pub(crate) fn measure(criterion: &mut Criterion, served: &Served) -> Result<()> {
    let runtime = Builder::new_current_thread().build()?;
    let plain = rows::plain()?;
    let tensors = |rows: &[String]| -> Result<Vec<Tensor>> {
        Ok(decode::body(&served.set.champion.signature, rows::array(rows).as_bytes(), MANY)?.inputs)
    };
    let singles = plain[..CALLERS].iter().map(|row| tensors(std::slice::from_ref(row))).collect::<Result<Vec<_>>>()?;

    let mut group = criterion.benchmark_group("queue");
    for (name, rows) in [("a row of 1 caller", 1), ("1,000 rows of 1 caller", MANY)] {
        let inputs = tensors(&plain[..rows])?;
        let answers = runtime.block_on(ask(served, inputs.clone(), rows))?;
        let alone = runs(name, &answers, |run| tensors(&plain[..run]))?;
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::new(name, ONNXD), |b| {
            let answered = |inputs| runtime.block_on(ask(served, inputs, rows)).expect(SOUND);
            b.iter_batched(|| inputs.clone(), answered, BatchSize::PerIteration);
        });
        group.bench_function(BenchmarkId::new(name, ALONE), |b| {
            b.iter_batched(|| alone.clone(), |runs| run(served, runs), BatchSize::PerIteration);
        });
    }

    let name = format!("a row of each of {CALLERS} callers");
    let answers = all(&runtime, served, singles.clone())?;
    let alone = runs(&name, &answers, |run| tensors(&plain[..run]))?;
    group.throughput(Throughput::Elements(CALLERS as u64));
    group.bench_function(BenchmarkId::new(&name, ONNXD), |b| {
        let answered = |inputs| all(&runtime, served, inputs).expect(SOUND);
        b.iter_batched(|| singles.clone(), answered, BatchSize::PerIteration);
    });
    group.bench_function(BenchmarkId::new(&name, ALONE), |b| {
        b.iter_batched(|| alone.clone(), |runs| run(served, runs), BatchSize::PerIteration);
    });
    // A server has tasks anyway, for its connections.
    group.bench_function(BenchmarkId::new(&name, "their tasks alone"), |b| b.iter(|| tasks(&runtime)));
    group.finish();
    Ok(())
}

/// What a request that comes now may ask for.
fn call(served: &Served) -> Call {
    served.engine.call("micro")
}

async fn ask(served: &Served, inputs: Vec<Tensor>, rows: usize) -> Result<Vec<Answer>, PredictError> {
    served.lane.predict(&served.set, inputs, rows, call(served), None).await
}

/// Asks for each of these rows from a task of its own.
fn all(runtime: &Runtime, served: &Served, singles: Vec<Vec<Tensor>>) -> Result<Vec<Answer>, PredictError> {
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        for inputs in singles {
            let (lane, set, call) = (Arc::clone(&served.lane), Arc::clone(&served.set), call(served));
            callers.spawn(async move { lane.predict(&set, inputs, 1, call, None).await });
        }
        let mut answers = Vec::with_capacity(CALLERS);
        while let Some(answer) = callers.join_next().await {
            answers.extend(answer.expect("a caller does not panic")?);
        }
        Ok(answers)
    })
}

/// As many tasks, which wait for one another and do nothing else.
fn tasks(runtime: &Runtime) {
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for number in 0..CALLERS {
            tasks.spawn(async move {
                yield_now().await;
                black_box(number)
            });
        }
        while tasks.join_next().await.is_some() {}
    });
}

/// The inputs of the runs that gave these answers: the floor is to run as many rows as often.
fn runs(name: &str, answers: &[Answer], inputs: impl Fn(usize) -> Result<Vec<Tensor>>) -> Result<Vec<Vec<Tensor>>> {
    let distinct: BTreeMap<*const Tensor, usize> =
        answers.iter().map(|answer| (answer.outputs.as_ptr(), answer.outputs[0].rows().unwrap_or(0))).collect();
    ensure!(!distinct.is_empty(), "{name}: the model gave no answer");
    let sizes: Vec<usize> = distinct.into_values().collect();
    eprintln!("queue/{name}: runs of {sizes:?} rows");
    sizes.into_iter().map(inputs).collect()
}

/// Runs the model on each of these, and gives its outputs: like an answer, they are dropped when nothing is timed.
fn run(served: &Served, runs: Vec<Vec<Tensor>>) -> Vec<Vec<Tensor>> {
    let mut session = served.set.champion.session(0);
    let deadline = Instant::now() + PATIENCE;
    runs.into_iter().map(|inputs| session.run(black_box(&inputs), deadline).expect(SOUND)).collect()
}
