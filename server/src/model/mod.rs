//! A loaded model: its identity, signature, sessions and what the probe measured of it.
//!
//! `ort` is named only under this module. Nothing here knows of HTTP, queues or where the bytes came from.

pub mod check;
pub mod graph;
pub mod manifest;
pub mod runtime;
pub mod session;
pub mod signature;
pub mod tensor;

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::manifest::Manifest;
use self::runtime::Runtime;
use self::signature::Signature;
use self::tensor::Tensor;

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

/// What runs rows: a session, or a fake in a test.
pub trait Infer: Send {
    /// Runs all rows of `inputs` (one tensor an input, in signature order) and gives one tensor an output.
    ///
    /// # Errors
    /// [`RunError::Deadline`] when the run was stopped at `deadline`.
    fn run(&mut self, inputs: &[Tensor], deadline: Instant) -> Result<Vec<Tensor>, RunError>;
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
    pub onnx: std::sync::Arc<[u8]>,
    /// Its manifest, when there is one.
    pub manifest: Option<std::sync::Arc<Manifest>>,
}

/// A model in memory, ready to run.
pub struct Model {
    /// Which bytes it was loaded from.
    pub id: ModelId,
    /// What it takes and gives.
    pub signature: Signature,
    /// What was measured when it was probed.
    pub profile: check::Profile,
    sessions: Vec<Mutex<Box<dyn Infer>>>,
    inline: Option<Mutex<Box<dyn Infer>>>,
}

/// A model this cheap may run where the request is: a thread hop would cost more (30-60 us) than the run.
const INLINE_LIMIT: Duration = Duration::from_micros(50);

impl Model {
    /// Loads the sessions for a duty and proves each of them on the golden samples.
    ///
    /// # Errors
    /// The stage and one sentence.
    pub fn load(
        runtime: &Runtime,
        artifact: &Artifact,
        profile: check::Profile,
        duty: Duty,
        workers: usize,
    ) -> Result<Self, check::Rejection> {
        let inline = duty == Duty::Serve && profile.row_cost() <= INLINE_LIMIT;
        let count = if duty == Duty::Serve { workers.max(1) } else { 1 };
        let boxed = |session| Mutex::new(Box::new(session) as Box<dyn Infer>);
        let open = || check::open(runtime, artifact).map(|(session, _)| boxed(session));
        let (first, signature) = check::open(runtime, artifact)?;
        let mut sessions = vec![boxed(first)];
        for _ in 1..count {
            sessions.push(open()?);
        }
        let inline = inline.then(open).transpose()?;
        Ok(Self { id: artifact.id.clone(), signature, profile, sessions, inline })
    }

    /// A model whose rows run in `sessions`: how tests put a fake in the place of a session.
    #[must_use]
    pub fn with_sessions(
        id: ModelId,
        signature: Signature,
        profile: check::Profile,
        sessions: Vec<Box<dyn Infer>>,
    ) -> Self {
        Self { id, signature, profile, sessions: sessions.into_iter().map(Mutex::new).collect(), inline: None }
    }

    /// The session of a worker. Each worker has its own, so the lock is never contended.
    pub fn session(&self, worker: usize) -> MutexGuard<'_, Box<dyn Infer>> {
        self.sessions[worker % self.sessions.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session for runs on the async threads: `None` when the model is too slow for that or the session is busy.
    pub fn inline_session(&self) -> Option<MutexGuard<'_, Box<dyn Infer>>> {
        match self.inline.as_ref()?.try_lock() {
            Ok(session) => Some(session),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Whether one more run on an async thread, of this many rows, is cheap enough.
    #[must_use]
    pub fn runs_inline(&self, rows: usize) -> bool {
        self.inline.is_some() && rows <= self.profile.inline_rows(INLINE_LIMIT)
    }

    /// Most rows that may share a run.
    #[must_use]
    pub const fn max_batch(&self) -> usize {
        self.profile.max_batch
    }
}
