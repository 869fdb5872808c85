//! A loaded model: its identity, signature, sessions and what the probe measured of it.
//!
//! `ort` is named only under this module. Nothing here knows of HTTP, queues or where the bytes came from.

pub mod check;
pub mod derive;
pub mod example;
mod external;
pub mod facts;
pub mod graph;
mod independence;
pub mod manifest;
mod onnx;
mod operators;
pub mod plain;
pub mod providers;
mod rewrite;
pub mod runtime;
pub mod session;
pub mod signature;
pub mod tensor;
pub mod trial;
pub mod usage;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::example::Example;
use self::manifest::Manifest;
use self::runtime::Runtime;
use self::signature::{Rows, Signature};
use self::tensor::Tensor;
use crate::verdict::drift::Reference;

/// Why a run gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RunError {
    /// It was stopped at its deadline.
    #[error("the run was stopped at its deadline")]
    Deadline,
    /// The model refused these rows or gave something unusable.
    #[error("{0}")]
    Failed(String),
}

/// The rows of a run that answer one job.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All outputs of the run, in the signature's order.
    pub outputs: std::sync::Arc<[Tensor]>,
    /// Which of their rows.
    pub rows: std::ops::Range<usize>,
}

/// What runs rows: a session, or a fake in a test.
pub trait Infer: Send {
    /// Runs all rows of `inputs` (one tensor an input, in signature order) and gives one tensor an output.
    ///
    /// # Errors
    /// [`RunError::Deadline`] when the run was stopped at `deadline`.
    fn run(&mut self, inputs: &[Tensor], deadline: Instant) -> Result<Vec<Tensor>, RunError>;
}

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Which bytes a model was loaded from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelId {
    /// Logical name.
    pub name: String,
    /// A positive integer as text.
    pub version: String,
    /// SHA-256 of the ONNX file.
    pub sha256: String,
    /// SHA-256 of the manifest, when there is one.
    pub manifest_sha256: Option<String>,
}

/// What a model is loaded for: it decides how many sessions it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// Answers requests: a session for each worker, one for runs where the request is.
    Serve,
    /// Scores in the shadow: one session.
    Shadow,
}

/// A verified model's bytes and manifest, before loading.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Which bytes these are.
    pub id: ModelId,
    /// The ONNX file.
    pub onnx: Bytes,
    /// The files that its weights lie in, when they lie outside of it.
    pub external: Vec<External>,
    /// Its manifest, when there is one.
    pub manifest: Option<std::sync::Arc<Manifest>>,
}

impl Artifact {
    /// Bytes of all of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.onnx.len() as u64 + self.files().iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// Names and sizes of the files of weights.
    #[must_use]
    pub fn files(&self) -> Vec<(&str, u64)> {
        self.external.iter().map(|file| (file.path.as_str(), file.bytes.len() as u64)).collect()
    }
}

/// A file of weights beside the ONNX file.
#[derive(Clone, Debug)]
pub struct External {
    /// The name by which the graph refers to it: a plain file name in the version's folder.
    pub path: String,
    /// Its bytes.
    pub bytes: std::sync::Arc<[u8]>,
}

/// A model in memory, ready to run.
pub struct Model {
    /// Which bytes it was loaded from.
    pub id: ModelId,
    /// What it takes and gives.
    pub signature: Signature,
    /// What was measured when it was probed.
    pub profile: check::Profile,
    /// How to ask it.
    pub example: Example,
    /// How features and score were distributed in training.
    pub references: BTreeMap<String, Reference>,
    duty: Duty,
    sessions: Vec<Mutex<Box<dyn Infer>>>,
    inline: Vec<Mutex<Box<dyn Infer>>>,
    /// What it did since it was loaded.
    pub usage: usage::Usage,
    /// When it was loaded.
    pub loaded_at: std::time::SystemTime,
}

/// A request whose run is this short may be run where it is: a hop to a thread and back would cost as much (30-60 us
/// measured).
const INLINE_LIMIT: Duration = Duration::from_micros(60);
/// And so many of them together: each of them saves the hop.
pub(crate) const INLINE_BATCH_LIMIT: Duration = Duration::from_micros(120);

/// How many threads run models, and so how many sessions a champion needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Threads that serve requests and may run cheap models themselves.
    pub http: usize,
    /// Worker threads.
    pub workers: usize,
}

impl Model {
    /// Bytes that its sessions take at least: each has the weights for itself.
    #[must_use]
    pub fn least_memory(artifact: &Artifact, profile: &check::Profile, duty: Duty, threads: Threads) -> u64 {
        let (count, inline) = sessions(profile, duty, threads);
        artifact.bytes().saturating_mul((count + inline) as u64)
    }

    /// Loads the sessions for a duty and proves each of them on the golden samples.
    ///
    /// # Errors
    /// The stage and one sentence.
    pub fn load(
        runtime: &Runtime,
        artifact: &Artifact,
        profile: check::Profile,
        duty: Duty,
        threads: Threads,
    ) -> Result<Self, check::Rejection> {
        let (count, inline) = sessions(&profile, duty, threads);
        let open = || check::open(runtime, artifact, Some(&profile));
        let (first, signature) = open()?;
        let mut rest = (1..count + inline).map(|_| open().map(|(session, _)| session));
        let sessions: Vec<Box<dyn Infer>> = std::iter::once(Ok(first))
            .chain(rest.by_ref().take(count - 1))
            .map(|s| s.map(boxed))
            .collect::<Result<_, _>>()?;
        let inline: Vec<Box<dyn Infer>> = rest.map(|s| s.map(boxed)).collect::<Result<_, _>>()?;
        let example = Example::of(&signature, artifact.manifest.as_deref(), profile.trial);
        let (references, unusable) =
            artifact.manifest.as_ref().map(|manifest| manifest.references()).unwrap_or_default();
        for reason in unusable {
            tracing::warn!(model = artifact.id.name, version = artifact.id.version, "{reason}");
        }
        let model = Self::with_sessions(artifact.id.clone(), signature, profile, duty, sessions, inline);
        Ok(Self { example, references, ..model })
    }

    /// A model whose rows run in `sessions` on workers and in `inline` where the request is: how tests put a fake in the
    /// place of a session.
    #[must_use]
    pub fn with_sessions(
        id: ModelId,
        signature: Signature,
        profile: check::Profile,
        duty: Duty,
        sessions: Vec<Box<dyn Infer>>,
        inline: Vec<Box<dyn Infer>>,
    ) -> Self {
        let guarded = |sessions: Vec<Box<dyn Infer>>| sessions.into_iter().map(Mutex::new).collect();
        let loaded_at = std::time::SystemTime::now();
        let (sessions, inline) = (guarded(sessions), guarded(inline));
        let (example, usage) = (Example::default(), usage::Usage::default());
        let references = BTreeMap::new();
        Self { id, signature, profile, example, references, duty, sessions, inline, usage, loaded_at }
    }

    /// The session of a worker. Each worker has its own, so the lock is never contended.
    pub fn session(&self, worker: usize) -> MutexGuard<'_, Box<dyn Infer>> {
        self.sessions[worker % self.sessions.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of the shadow's thread, which may hold it for long: no worker shares it, unless there is only one.
    pub fn shadow_session(&self) -> MutexGuard<'_, Box<dyn Infer>> {
        self.session(self.sessions.len() - 1)
    }

    /// A session for a run where the request is; `None` when the model is not meant to run there. There are as many as
    /// threads that serve requests, so one is free.
    pub fn inline_session(&self) -> Option<MutexGuard<'_, Box<dyn Infer>>> {
        let free = self.inline.iter().find_map(|session| match session.try_lock() {
            Ok(session) => Some(session),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        free.or_else(|| self.inline.first().map(|session| session.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// How many rows may run together where the requests are: 0 for a model too slow for that.
    #[must_use]
    pub fn inline_rows(&self) -> usize {
        if self.inline.is_empty() { 0 } else { self.profile.inline_rows(INLINE_BATCH_LIMIT) }
    }

    /// Whether a request of this many rows may be run where it is.
    #[must_use]
    pub fn runs_inline(&self, rows: usize) -> bool {
        !self.inline.is_empty() && rows <= self.profile.inline_rows(INLINE_LIMIT)
    }

    /// How many rows that wait are worth a run beside those in progress; 1 where they could not share one anyway.
    #[must_use]
    pub fn rows_worth_a_run(&self) -> usize {
        if self.batches() { self.profile.rows_worth_a_run() } else { 1 }
    }

    /// Most rows in one run, by which requests are split.
    #[must_use]
    pub fn max_batch(&self) -> usize {
        if self.is_never_split() { usize::MAX } else { self.profile.max_batch }
    }

    /// Whether a request is one run, however many rows it has: split, it would be answered otherwise where a row's answer
    /// depends on those beside it.
    #[must_use]
    pub fn is_never_split(&self) -> bool {
        self.profile.rows == Rows::Any && !self.batches()
    }

    /// Whether it has the sessions for a duty.
    #[must_use]
    pub const fn can_do(&self, duty: Duty) -> bool {
        matches!((self.duty, duty), (Duty::Serve, _) | (_, Duty::Shadow))
    }

    /// Whether rows of different requests may share a run.
    #[must_use]
    pub fn batches(&self) -> bool {
        self.profile.invariance != check::Invariance::No
    }
}

fn boxed(session: session::Session) -> Box<dyn Infer> {
    Box::new(session)
}

/// Sessions for workers and for runs where the request is.
fn sessions(profile: &check::Profile, duty: Duty, threads: Threads) -> (usize, usize) {
    match duty {
        // The last one is the shadow's: a champion may become a challenger.
        Duty::Serve if profile.inline_rows(INLINE_LIMIT) > 0 => (threads.workers + 1, threads.http),
        Duty::Serve => (threads.workers + 1, 0),
        Duty::Shadow => (1, 0),
    }
}
