//! What an engine may be told.

use std::path::PathBuf;
use std::time::Duration;

use crate::memory::Memory;
use crate::model::Threads;
use crate::model::providers::Provider;
use crate::probe::Probe;
use crate::{batch, judge, record, shadow, source};

/// How an engine works. [`Options::new`] has the server's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where models come from.
    pub source: source::Options,
    /// The ONNX Runtime library; found by itself when `None`, see [`Runtime::load`].
    pub onnxruntime: Option<PathBuf>,
    /// What ONNX Runtime runs models with, in order of preference; the CPU is the last resort, whether it is there or not.
    pub providers: Vec<Provider>,
    /// How many threads run models.
    pub threads: Threads,
    /// The queue of each model.
    pub queue: batch::Limits,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Rows of one request.
    pub max_rows: usize,
    /// What the shadow may do.
    pub shadow: shadow::Limits,
    /// How often the repository is read when nothing hints at a change.
    pub poll_interval: Duration,
    /// Whether a champion may take or give other things than the one before.
    pub allow_signature_change: bool,
    /// Memory that the process may use; what the system allows when `None`.
    pub memory_limit: Option<u64>,
    /// How long a new champion is watched against the one before; zero for not at all.
    pub guard_period: Duration,
    /// Whether rows' own times are taken however long ago they are: for recorded rows.
    pub event_time: bool,
    /// Folder in which evidence is kept over restarts.
    pub state: Option<PathBuf>,
    /// How long the champion before is compared with the new one in the shadow.
    pub compare_previous: Duration,
    /// Where requests are recorded; nowhere when `None`.
    pub record: Option<record::Options>,
    /// How new models are tried out.
    pub probe: Probe,
    /// How challengers are judged.
    pub verdict: judge::Settings,
}

impl Options {
    /// The server's defaults for a repository, but with models probed in this process: set
    /// [`Probe::executable`] to an `onnxd` executable to keep crashing models away.
    #[must_use]
    pub fn new(repository: impl Into<PathBuf>) -> Self {
        let (_, threads) = Threads::available();
        Self {
            source: source::Options {
                repository: repository.into(),
                model_bytes: 2 << 30,
                ..source::Options::default()
            },
            onnxruntime: None,
            providers: vec![Provider::Cpu],
            threads,
            queue: batch::Limits { queue_rows: 4096, batch_delay: Duration::ZERO },
            request_timeout: Duration::from_secs(10),
            max_rows: 65_536,
            shadow: shadow::Limits { sample: 1.0, queue_rows: 8192, cpu: 0.25 },
            poll_interval: Duration::from_secs(5),
            allow_signature_change: false,
            memory_limit: None,
            guard_period: Duration::from_secs(600),
            compare_previous: Duration::from_secs(24 * 3600),
            event_time: false,
            state: None,
            record: None,
            probe: Probe { executable: None, timeout: Duration::from_secs(30), memory: None, room: Memory::new(None) },
            verdict: judge::Settings::default(),
        }
    }
}
