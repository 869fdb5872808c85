//! Sees what the champion is asked, whether or not it has a challenger: how values drift, and a sample of the rows.

use std::ops::DerefMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answers::Outputs;
use super::challenger::pause;
use super::origin::Place;
use super::queue::Queue;
use super::{Limits, Pair, Theirs};
use crate::model::Model;
use crate::model::signature::{Signature, Slot};
use crate::model::tensor::Tensor;
use crate::record::{Recording, Told};
use crate::threads;
use crate::verdict::drift::{Drift, Drifts};
use crate::verdict::state::Recorder;

/// The name of the score among the features of a reference.
const SCORE: &str = "score";
/// Batches between two rests.
const TOGETHER: usize = 32;
/// The longest rest between two batches.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// The observer of a champion. Dropped, its thread ends by itself.
pub struct Observer {
    queue: Arc<Queue<Pair>>,
    seen: Arc<Seen>,
}

/// What the thread shares with those who ask.
struct Seen {
    drifts: Mutex<Drifts>,
    is_new: AtomicBool,
}

/// Where a feature's values are.
struct Column {
    feature: usize,
    input: usize,
    /// Of how many columns, which one.
    of: usize,
    at: usize,
}

/// Where the values are that references are of.
pub(crate) struct Watched {
    columns: Vec<Column>,
    /// The score's place among the references, and the model's outputs.
    score: Option<usize>,
    outputs: Outputs,
}

impl Observer {
    /// An observer of a champion with references of its training, which goes on where another one was saved. Rows are recorded
    /// where there is a file for them.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        champion: Arc<Model>,
        limits: Limits,
        saved: Option<&Drift>,
        recording: Option<Arc<Mutex<Recording>>>,
    ) -> std::io::Result<Self> {
        let references = champion.references.clone();
        let drifts =
            saved.map_or_else(|| Drifts::new(references.clone()), |saved| Drifts::restore(references.clone(), saved));
        let watched = Watched::of(&champion.signature, &drifts);
        let seen = Arc::new(Seen { drifts: Mutex::new(drifts), is_new: AtomicBool::new(false) });
        let queue = Arc::new(Queue::new(limits.queue_rows));
        let (watching, waiting) = (Arc::clone(&seen), Arc::clone(&queue));
        let cpu = limits.cpu.clamp(0.001, 1.0);
        std::thread::Builder::new().name("observer".into()).spawn(move || {
            threads::run_when_idle();
            while let Some(first) = waiting.pop() {
                let start = threads::cpu_time();
                // Its time is measured for several: to ask for it takes as long as a few rows.
                let more = std::iter::from_fn(|| waiting.pop_if(|_| true)).take(TOGETHER - 1);
                for pair in std::iter::once(first).chain(more) {
                    watching.see(&pair, &watched);
                    let Some(recording) = &recording else { continue };
                    let rows = pair.places().map(|Place { series, at, actual, .. }| Told { series, at, actual });
                    let mut recording = recording.lock().unwrap_or_else(PoisonError::into_inner);
                    recording.write(&champion.signature, &pair.inputs, rows);
                }
                let took = threads::cpu_time().saturating_sub(start);
                waiting.rest(pause(took, cpu).min(LONGEST_REST));
            }
        })?;
        Ok(Self { queue, seen })
    }

    /// Hands over what the champion was asked and answered, if there is room; never waits.
    pub(crate) fn offer(&self, pair: Pair) {
        let size = pair.size();
        // Drift is of samples: one batch less changes nothing.
        let _ = self.queue.push(pair, size);
    }

    /// How the values that came differ from those of the training. It may have to wait until the thread gets a CPU.
    #[must_use]
    pub fn drift(&self) -> Drift {
        self.seen.drifts().state()
    }

    /// Whether anything was recorded since this was asked last.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.seen.is_new.swap(false, Ordering::Relaxed)
    }

    /// What was to be kept was not: it is new still.
    pub fn renew(&self) {
        self.seen.is_new.store(true, Ordering::Relaxed);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Seen {
    fn drifts(&self) -> MutexGuard<'_, Drifts> {
        self.drifts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, pair: &Pair, watched: &Watched) {
        let Theirs::Answers(outputs) = &pair.theirs else { return };
        self.is_new.store(true, Ordering::Relaxed);
        let rows = pair.places().map(|place| (place.series, place.at));
        watched.count(|| self.drifts(), &pair.inputs, outputs, rows);
    }
}

/// Of how many columns of its input a key is which one; `None` for one of several values.
fn place(signature: &Signature, slot: &Slot) -> Option<(usize, usize)> {
    let input = &signature.inputs[slot.input()];
    match slot {
        Slot::Feature { column, .. } => Some((input.features.len(), *column)),
        Slot::Row { .. } => input.row_shape.iter().all(|size| *size == Some(1)).then_some((1, 0)),
    }
}

impl Watched {
    /// Lets the recorder of a challenger count inputs beside those of its own training, as far as its manifest tells of them:
    /// not the score, which is compared with the champion's, nor what is no input, which would count as known and never
    /// drift. The champion's rows have the same inputs, else the two could not be compared.
    pub(crate) fn beside(challenger: &Model, recorder: Recorder) -> (Recorder, Option<Self>) {
        let signature = &challenger.signature;
        let is_input = |name: &String| {
            signature.keys().iter().any(|(key, slot)| **key == **name && place(signature, slot).is_some())
        };
        let mut references = challenger.references.clone();
        references.retain(|name, _| name != SCORE && is_input(name));
        let drifts = Drifts::new(references.clone());
        let watched = (!references.is_empty()).then(|| Self::of(signature, &drifts));
        (recorder.trained(references), watched)
    }

    /// Where the features that have a reference are among the inputs, and the score among the outputs.
    pub(crate) fn of(signature: &Signature, drifts: &Drifts) -> Self {
        let column = |(name, slot): &(Box<str>, Slot)| {
            let (feature, (of, at)) = (drifts.index(name)?, place(signature, slot)?);
            Some(Column { feature, input: slot.input(), of, at })
        };
        let columns = signature.keys().iter().filter_map(column).collect();
        Self { columns, score: drifts.index(SCORE), outputs: Outputs::of(signature) }
    }

    /// Counts the values of rows, of each of which the series and the time are told; `drifts` are asked for when the values
    /// are there.
    pub(crate) fn count<D: DerefMut<Target = Drifts>>(
        &self,
        drifts: impl FnOnce() -> D,
        inputs: &[Tensor],
        outputs: &[Tensor],
        rows: impl Iterator<Item = (u64, u64)>,
    ) {
        let values: Vec<Option<Vec<f64>>> = inputs.iter().map(Tensor::numbers).collect();
        let count = inputs.first().or(outputs.first()).and_then(Tensor::rows).unwrap_or(0);
        let answers = self.score.map(|_| self.outputs.answers(outputs, count));
        let mut drifts = drifts();
        for (row, (series, at)) in rows.enumerate() {
            for column in &self.columns {
                let value = values[column.input].as_ref().and_then(|values| values.get(row * column.of + column.at));
                drifts.record(series, at, column.feature, value.copied().unwrap_or(f64::NAN));
            }
            if let (Some(feature), Some(answers)) = (self.score, &answers) {
                let value = answers.get(row).and_then(|answer| answer.score);
                drifts.record(series, at, feature, value.unwrap_or(f64::NAN));
            }
        }
    }
}
