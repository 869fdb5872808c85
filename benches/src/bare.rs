//! The floor without a server: ONNX Runtime in this process, on one thread or on several with a session each, and with the
//! JSON of the same rows read before each run.

use std::{
    path::{Path, PathBuf},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use onnxd::{
    load::{
        Outcome, Requests,
        model::{Input, Model, Protocol, Table},
    },
    model::{
        Artifact, Infer as _, ModelId,
        runtime::Runtime,
        session::{self, Session},
        sha256,
        signature::GraphIo,
        tensor::{DType, Tensor},
    },
};

use crate::{
    parse,
    report::{Figures, median},
};

/// Batches that differ, so that no figure stands for rows kept warm.
const BATCHES: usize = 16;
/// What the model is called here.
const NAME: &str = "bare";
/// No run of these takes so long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a model without a server: rows a second.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The ONNX file.
    model: PathBuf,
    /// Rows of a run.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64, 256, 1000])]
    rows: Vec<usize>,
    /// Threads, each with its own session.
    #[arg(long, value_delimiter = ',', default_values_t = [1, thread::available_parallelism().map_or(1, usize::from)])]
    threads: Vec<usize>,
    /// Read the rows from JSON before each run.
    #[arg(long)]
    parse: bool,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds measured for each figure in each round.
    #[arg(long, default_value = "0.5", value_parser = crate::seconds)]
    seconds: Duration,
}

/// A model with a session for each thread.
pub(crate) struct Bare {
    sessions: Vec<Session>,
    dtype: DType,
    width: usize,
    model: Model,
}

/// What is run.
pub(crate) struct Work {
    batches: Vec<Batch>,
    names: Vec<String>,
}

struct Batch {
    tensor: Tensor,
    /// The same rows as JSON, to be read before the run.
    body: Option<Vec<u8>>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.rounds > 0 && !arguments.threads.contains(&0), "at least one round and one thread are needed");
    let most = arguments.threads.iter().copied().max().unwrap_or(1);
    let mut bare = Bare::load(&arguments.model, most)?;
    println!("{:>7} {:>7} {:>14} {:>12}", "rows", "threads", "rows/s", "us/run, p50");
    for &rows in &arguments.rows {
        let work = bare.work(None, rows, arguments.parse)?;
        for &threads in &arguments.threads {
            let round = |_| bare.measure(&work, threads, arguments.seconds);
            let figures: Vec<Figures> = (0..arguments.rounds).map(round).collect::<Result<_>>()?;
            let rates: Vec<_> = figures.iter().map(|figures| figures.requests_per_second * rows as f64).collect();
            let times: Vec<_> = figures.iter().filter_map(|figures| figures.p50_us).collect();
            println!("{rows:>7} {threads:>7} {:>14.0} {:>12.1}", median(&rates), median(&times));
        }
    }
    Ok(())
}

/// Sessions of a graph, and what they take and give.
pub(crate) fn sessions(file: &Path, count: usize) -> Result<(Vec<Session>, GraphIo)> {
    let onnx = std::fs::read(file).with_context(|| format!("no {}", file.display()))?;
    let id = ModelId { name: NAME.to_owned(), version: "1".to_owned(), sha256: sha256(&onnx), manifest_sha256: None };
    let artifact = Artifact { id, onnx: onnx.into(), external: Vec::new(), manifest: None };
    let runtime = Runtime::load(None).map_err(|error| anyhow!(error))?;
    let load = || session::load(&runtime, &artifact, 1).map_err(|error| anyhow!("{}: {error}", file.display()));
    let (first, io) = load()?;
    let mut sessions = vec![first];
    for _ in 1..count {
        sessions.push(load()?.0);
    }
    Ok((sessions, io))
}

impl Bare {
    /// Loads a model whose only input is numbers `[rows, width]`.
    pub(crate) fn load(file: &Path, threads: usize) -> Result<Self> {
        let (sessions, io) = sessions(file, threads)?;
        let (dtype, width) = shape(&io).with_context(|| format!("{}: not one input [rows, width]", file.display()))?;
        let (input, datatype) = (io.inputs[0].name.clone(), if dtype == DType::F64 { "FP64" } else { "FP32" });
        let features = (0..width).map(|number| format!("feature_{number}")).collect();
        let shape = vec![-1, i64::try_from(width)?];
        let input = Input { name: input, datatype: datatype.to_owned(), shape, features };
        Ok(Self { sessions, dtype, width, model: Model { name: NAME.to_owned(), inputs: vec![input] } })
    }

    /// Batches of this many rows; `named` is the model as a server tells it, whose names the JSON has.
    pub(crate) fn work(&self, named: Option<&Model>, rows: usize, parsed: bool) -> Result<Work> {
        let model = named.unwrap_or(&self.model);
        let names = model.features().context("the model's input has no features")?.to_vec();
        ensure!(names.len() == self.width, "{} features, the graph takes {}", names.len(), self.width);
        let tables = model.tables(BATCHES, rows, 1)?;
        let bodies: Vec<_> = if parsed {
            let Requests::Json(bodies) = model.requests(Protocol::Json, &tables, 1)? else {
                unreachable!("it is JSON")
            };
            bodies.into_iter().map(|body| Some(body.to_vec())).collect()
        } else {
            vec![None; BATCHES]
        };
        let batches = tables.iter().zip(bodies).map(|(table, body)| Ok(Batch { tensor: self.tensor(table)?, body }));
        Ok(Work { batches: batches.collect::<Result<_>>()?, names })
    }

    fn tensor(&self, table: &Table) -> Result<Tensor> {
        let tensor = Tensor::filled(self.dtype, &[table.rows, self.width], |at| table.inputs[0][at]);
        tensor.context("the rows do not fill the tensor")
    }

    /// Runs on so many threads for so long: a request of the figures is a run.
    pub(crate) fn measure(&mut self, work: &Work, threads: usize, duration: Duration) -> Result<Figures> {
        let barrier = Barrier::new(threads);
        let (width, dtype) = (self.width, self.dtype);
        let outcomes = thread::scope(|scope| {
            let mut running = Vec::new();
            for (number, session) in self.sessions[..threads].iter_mut().enumerate() {
                let barrier = &barrier;
                running.push(scope.spawn(move || turns(session, work, (dtype, width), number * 5, barrier, duration)));
            }
            let outcomes = running.into_iter().map(|thread| thread.join().ok().context("a thread ended badly")?);
            outcomes.collect::<Result<Vec<_>>>()
        })?;
        let mut together = outcomes[0].clone();
        outcomes[1..].iter().for_each(|outcome| together.merge(outcome));
        // They ran at the same time.
        together.elapsed /= u32::try_from(threads)?;
        Ok(Figures::new(&together, None))
    }
}

fn turns(
    session: &mut Session,
    work: &Work,
    (dtype, width): (DType, usize),
    first: usize,
    barrier: &Barrier,
    duration: Duration,
) -> Result<Outcome> {
    let mut values = Vec::new();
    let mut outcome = Outcome::default();
    let mut start: Option<Instant> = None;
    for number in first.. {
        let batch = &work.batches[number % work.batches.len()];
        let begin = Instant::now();
        let read = match &batch.body {
            Some(body) => {
                values.reserve(batch.tensor.rows().unwrap_or(1) * width);
                let rows = parse::rows(body, &work.names, &mut values)?;
                Some(tensor(dtype, rows, width, &mut values)?)
            }
            None => None,
        };
        let tensor = std::slice::from_ref(read.as_ref().unwrap_or(&batch.tensor));
        session.run(tensor, begin + LIMIT)?;
        let end = Instant::now();
        // The first run finds no memory allocated for it, and does not count.
        let Some(start) = start else {
            barrier.wait();
            start = Some(Instant::now());
            continue;
        };
        outcome.latency.record(end - begin);
        if end - start >= duration {
            outcome.elapsed = end - start;
            break;
        }
    }
    outcome.statuses.insert(200, outcome.answered());
    Ok(outcome)
}

/// The values that were read, which the tensor takes; without a copy where they are what the graph takes.
fn tensor(dtype: DType, rows: usize, width: usize, values: &mut Vec<f32>) -> Result<Tensor> {
    let column = match dtype {
        DType::F64 => onnxd::model::tensor::Column::F64(values.iter().copied().map(f64::from).collect()),
        _ => onnxd::model::tensor::Column::F32(std::mem::take(values)),
    };
    column.into_tensor(&[rows, width]).context("the rows do not fill the tensor")
}

/// Type and width of the only input.
fn shape(io: &GraphIo) -> Option<(DType, usize)> {
    match io.inputs.as_slice() {
        [input] => match &input.tensor {
            Ok((dtype @ (DType::F32 | DType::F64), shape)) if shape.len() == 2 => {
                Some((*dtype, usize::try_from(shape[1]).ok()?))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_run_on_threads_and_with_their_json() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/anomaly/1/model.onnx");
        let mut bare = Bare::load(&file, 2).expect("it loads");
        for (threads, parsed) in [(1, false), (2, true)] {
            let work = bare.work(None, 100, parsed).expect("there are rows");
            let figures = bare.measure(&work, threads, Duration::from_millis(50)).expect("it runs");
            assert!(figures.requests_per_second > 20.0 && figures.errors == 0, "{}", figures.requests_per_second);
        }
    }
}
