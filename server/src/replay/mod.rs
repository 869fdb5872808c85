//! `onnxd replay`: recorded requests, or any table, scored by champion and challengers in this process, and the verdict that a
//! server would have come to.
//!
//! The rows go through the same decoding, sessions, comparison, recorder and rule as in a server. Time is what the rows say.

mod cell;
mod csv;
pub mod input;
pub mod load;
mod ndjson;
mod parquet;
pub mod report;
pub mod rows;

use std::iter::zip;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::run_guarded;
use crate::codec::decode;
use crate::model::Model;
use crate::model::tensor::Tensor;
use crate::shadow::answers::Outputs;
use crate::shadow::observer::Watched;
use crate::shadow::state::{Compared, State, Version};
use crate::shadow::stats::Statistics;
use crate::threads;
use crate::verdict::buckets::SECONDS;
use crate::verdict::drift::Drifts;
use crate::verdict::state::{Answer, Label, Recorder, Row, Source, Target};
use input::Input;
use load::Models;
use rows::{Batch, Mark, Plan};

/// A run that takes longer is given up.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// Why a challenger's row has no pair, as the server calls it.
const FAILED: &str = "failed";

/// A challenger beside the champion.
struct Contender {
    role: String,
    model: Arc<Model>,
    outputs: Outputs,
    statistics: Statistics,
    recorder: Recorder,
    /// Where the inputs are that it was trained on, if it tells how they were distributed.
    watched: Option<Watched>,
}

/// Champion and challengers while rows are replayed.
pub struct Replay {
    name: String,
    server: String,
    epoch: u64,
    champion: Arc<Model>,
    outputs: Outputs,
    /// How the values are distributed, beside those of the champion's training.
    drifts: Drifts,
    watched: Watched,
    contenders: Vec<Contender>,
    /// Who says what was true, where the file does.
    pub truth: Source,
    /// Rows that were read.
    pub rows: u64,
    /// Rows that the champion did not answer.
    pub unanswered: u64,
    /// Rows with a value of what the forecast is of.
    pub actuals: u64,
    /// Rows that say whether there was an anomaly.
    pub truths: u64,
    /// Rows that are older than one before them by more than a bucket.
    pub late: u64,
    /// Time of the latest row, in seconds of Unix time.
    pub now: u64,
}

impl Replay {
    /// Nothing replayed yet. `server` is the name under which the state is told apart from those of servers.
    #[must_use]
    pub fn new(models: Models, server: String) -> Self {
        let Models { name, epoch, champion, challengers } = models;
        let (horizon, unit) = (champion.signature.horizon(), champion.signature.loss_unit());
        let contender = |(index, model): (usize, Arc<Model>)| {
            let (recorder, watched) = Watched::beside(&model, Recorder::new(horizon).scaled(unit));
            Contender {
                role: if index == 0 { "challenger".into() } else { format!("challenger-{}", index + 1) },
                outputs: Outputs::twins(&champion.signature, &model.signature),
                model,
                statistics: Statistics::default(),
                recorder,
                watched,
            }
        };
        let contenders = challengers.into_iter().enumerate().map(contender).collect();
        let outputs = Outputs::of(&champion.signature);
        let drifts = Drifts::new(champion.references.clone());
        let watched = Watched::of(&champion.signature, &drifts);
        Self {
            name,
            server,
            epoch,
            champion,
            outputs,
            drifts,
            watched,
            contenders,
            truth: Source::Incident,
            rows: 0,
            unanswered: 0,
            actuals: 0,
            truths: 0,
            late: 0,
            now: 0,
        }
    }

    /// What the rows must look like.
    #[must_use]
    pub fn plan(&self, names: rows::Names) -> Plan {
        Plan::new(&self.champion.signature, names)
    }

    /// The actual value that the champion's forecast is of.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.champion.signature.target()
    }

    /// Rows that are scored together: as many as every model takes, and one where an answer depends on the rows beside it.
    fn batch_rows(&self) -> usize {
        let models = || std::iter::once(&self.champion).chain(self.contenders.iter().map(|one| &one.model));
        if models().all(|model| model.batches()) {
            models().map(|model| model.max_batch()).min().unwrap_or(1)
        } else {
            1
        }
    }

    /// Replays a file. After each batch, and whenever ten minutes of the rows' time have gone by, `told` gets the present state;
    /// it gives `false` to end early.
    ///
    /// # Errors
    /// One sentence that names the file, the place and the column.
    pub fn run(
        &mut self,
        input: &mut Input,
        plan: &Plan,
        batch: &mut Batch,
        mut told: impl FnMut(&Self, &Input) -> bool,
    ) -> Result<(), String> {
        let most = self.batch_rows();
        loop {
            let more = input.next(plan, batch)?;
            let marks = &batch.marks;
            // A batch ends with its ten minutes, so that the verdict is looked at as often as it can change.
            let ended = match marks.as_slice() {
                [.., before, last] if more => before.at.max(self.now) / SECONDS < last.at / SECONDS,
                _ => false,
            };
            let ready = if ended { marks.len() - 1 } else { marks.len() };
            if ready > 0 && (ended || !more || ready >= most) {
                self.score(input, batch, 0..ready)?;
                batch.keep_from(ready);
                if !told(self, input) {
                    return Ok(());
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Decodes and scores some rows. When they do not fit together, each is taken by itself, so that the one that is wrong is named.
    fn score(&mut self, input: &Input, batch: &Batch, rows: Range<usize>) -> Result<(), String> {
        let decoded = decode::body(&self.champion.signature, &batch.body(rows.clone()), rows.len());
        match decoded {
            Ok(request) => {
                self.compare(&request.inputs, &batch.marks[rows]);
                Ok(())
            }
            Err(_) if rows.len() > 1 => rows.into_iter().try_for_each(|row| self.score(input, batch, row..row + 1)),
            Err(error) => {
                let place = batch.marks[rows.start].place;
                let text = error.to_string();
                let text = text.strip_prefix("[0]").unwrap_or(&text).trim_start_matches(": ");
                Err(format!("{} {} {place}: {text}", input.name, input.format.place()))
            }
        }
    }

    fn compare(&mut self, inputs: &[Tensor], marks: &[Mark]) {
        let begin = self.rows;
        self.rows += marks.len() as u64;
        for mark in marks {
            self.late += u64::from(mark.at + SECONDS < self.now);
            self.now = self.now.max(mark.at);
            self.actuals += u64::from(mark.actual.is_some());
            self.truths += u64::from(mark.anomaly.is_some());
        }
        let theirs = parts(&self.champion, inputs, marks.len());
        for answered in theirs {
            match answered.outputs {
                Some(outputs) => {
                    let marks = &marks[answered.rows.clone()];
                    let inputs: Vec<Tensor> = inputs.iter().map(|t| t.slice_rows(answered.rows.clone())).collect();
                    let champion = Answered { outputs: Some(outputs), rows: 0..marks.len(), took: answered.took };
                    let outputs = champion.outputs.as_deref().unwrap_or_default();
                    let places = marks.iter().map(|mark| (mark.series, mark.at));
                    self.watched.count(|| &mut self.drifts, &inputs, outputs, places);
                    let first = begin + answered.rows.start as u64 + 1;
                    for one in &mut self.contenders {
                        one.compare(&self.champion, &self.outputs, &champion, &inputs, marks, first, self.truth);
                    }
                }
                None => self.unanswered += answered.rows.len() as u64,
            }
        }
    }

    /// What was seen up to now, in the form in which servers tell it.
    #[must_use]
    pub fn state(&self) -> State {
        let version = |model: &Model| Version { version: model.id.version.clone(), sha256: model.id.sha256.clone() };
        let compared = |one: &Contender| Compared {
            role: one.role.clone(),
            version: version(&one.model),
            agreement: one.statistics.agreement(),
            statistics: one.statistics.clone(),
            evidence: one.recorder.evidence().clone(),
            drift: one.recorder.drift(),
        };
        State {
            model: self.name.clone(),
            server: self.server.clone(),
            epoch: self.epoch,
            event_time: true,
            horizon_seconds: self.champion.signature.horizon(),
            champion: version(&self.champion),
            challengers: self.contenders.iter().map(compared).collect(),
            refused: vec![],
            drift: self.drifts.state(),
            previous: None,
        }
    }
}

/// What a model made of some rows.
struct Answered {
    /// `None` when it failed on them, or gave what is no number.
    outputs: Option<Vec<Tensor>>,
    rows: Range<usize>,
    took: Duration,
}

/// Runs a model on all rows; where that fails, on each by itself, so that one bad row fails alone.
fn parts(model: &Model, inputs: &[Tensor], rows: usize) -> Vec<Answered> {
    let whole = run(model, inputs, 0..rows);
    if whole.outputs.is_some() || rows == 1 {
        return vec![whole];
    }
    let alone = |row: usize| {
        let inputs: Vec<Tensor> = inputs.iter().map(|tensor| tensor.slice_rows(row..row + 1)).collect();
        run(model, &inputs, row..row + 1)
    };
    (0..rows).map(alone).collect()
}

fn run(model: &Model, inputs: &[Tensor], rows: Range<usize>) -> Answered {
    // Time on the CPU, as in the shadow: what else the machine does is no fault of a model's.
    let start = threads::cpu_time();
    let deadline = Instant::now() + RUN_LIMIT;
    let outputs = run_guarded(&mut **model.shadow_session(), &model.signature, inputs, rows.len(), deadline);
    let took = threads::cpu_time().saturating_sub(start);
    let outputs = outputs.ok().filter(|outputs| model.signature.not_finite(outputs, 0..rows.len()).is_none());
    Answered { outputs, rows, took }
}

impl Contender {
    /// Runs the challenger on rows that the champion answered, and counts what came of it; `first` is the id of the first row.
    #[expect(clippy::too_many_arguments, reason = "both models and what the rows say of themselves")]
    fn compare(
        &mut self,
        champion: &Model,
        places: &Outputs,
        theirs: &Answered,
        inputs: &[Tensor],
        marks: &[Mark],
        first: u64,
        truth: Source,
    ) {
        let Some(outputs) = &theirs.outputs else { return };
        let rows = marks.len();
        let champions = places.answers(outputs, rows);
        let mut mine: Vec<Option<Answer>> = vec![];
        let mut ran = Duration::ZERO;
        for part in parts(&self.model, inputs, rows) {
            ran += part.took;
            let count = part.rows.len();
            self.statistics.challenger_compute.record(count as u64, part.took.as_secs_f64());
            match part.outputs {
                Some(outputs) => {
                    if let Some(watched) = &self.watched {
                        let inputs: Vec<Tensor> = inputs.iter().map(|t| t.slice_rows(part.rows.clone())).collect();
                        let places = marks[part.rows.clone()].iter().map(|mark| (mark.series, mark.at));
                        watched.count(|| self.recorder.drifts(), &inputs, &outputs, places);
                    }
                    let of: Vec<Tensor> =
                        theirs.outputs.iter().flatten().map(|t| t.slice_rows(part.rows.clone())).collect();
                    self.statistics.compare((&champion.signature, &of), (&self.model.signature, &outputs));
                    mine.extend(self.outputs.answers(&outputs, count).into_iter().map(Some));
                }
                None => {
                    self.statistics.lose(FAILED, count as u64);
                    mine.extend(vec![None; count]);
                }
            }
        }
        self.statistics.champion_compute.record(rows as u64, theirs.took.as_secs_f64());
        self.recorder.time(theirs.took, ran);
        for (((mark, champion), challenger), id) in zip(zip(zip(marks, champions), mine), first..) {
            self.record(mark, champion, challenger, id, truth);
        }
    }

    fn record(&mut self, mark: &Mark, champion: Answer, challenger: Option<Answer>, id: u64, truth: Source) {
        let Mark { series, at, .. } = *mark;
        // Without a name, values would be taken for those of another thing.
        if series != 0 && mark.actual.is_some() {
            let label =
                Label { target: Target::At { series, at }, anomaly: None, value: mark.actual, source: Source::Metric };
            self.recorder.label(&label);
        }
        match challenger {
            Some(challenger) => self.recorder.record(id, &Row { series, at, champion, challenger }),
            None => self.recorder.fail(at, 1),
        }
        if challenger.is_some() && mark.anomaly.is_some() {
            let label = Label { target: Target::Row(id), anomaly: mark.anomaly, value: None, source: truth };
            self.recorder.label(&label);
        }
    }
}
