//! How many threads do what, from the CPUs that the process may use, and their priority.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::model::Threads;

impl Threads {
    /// The defaults for this process: `std` reads the CPU affinity and the cgroup's quota.
    ///
    /// Half of the CPUs serve requests, since they also run cheap models; workers get all, since they have work only when
    /// a model is slow.
    #[must_use]
    pub fn available() -> (usize, Self) {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (cpus, Self { http: (cpus / 2).max(1), workers: cpus })
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread that others go before, for heavy work that nobody waits for but its caller.
///
/// It is one thread for good: memory that ONNX Runtime takes on it is given back to the same arena. Threads inherit
/// priorities and may not raise them again, so nothing that serves may be started from in there.
pub(crate) struct LowPriority(Sender<Work>);

impl LowPriority {
    /// Starts the thread; it ends when the value is dropped.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, work) = channel::<Work>();
        std::thread::Builder::new().name("load".into()).spawn(move || {
            lower_priority();
            work.into_iter().for_each(|work| work());
        })?;
        Ok(Self(sender))
    }

    /// Does `work` there and waits for it; `None` when it panicked.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, result) = channel();
        let guarded = move || {
            // A panic was reported by the panic hook; the caller sees that there is no result.
            if let Ok(value) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
                let _ = sender.send(value);
            }
        };
        self.0.send(Box::new(guarded)).ok()?;
        result.recv().ok()
    }
}

/// Lets others go before the calling thread: it gets about a third of what one of them gets. At lower priorities (10 a
/// tenth, 19 a seventieth) a server with all CPUs busy took minutes to load a model. Where the system refuses, it works at
/// the priority that it has.
pub(crate) fn lower_priority() {
    // On Linux a thread id is taken in the place of a process id and means that thread alone.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 5);
}

/// Makes the calling thread run only on a CPU that nothing else wants, and leave it at once when something does.
///
/// A merely low priority is not enough: Linux lets such a thread finish its time slice, 2 to 3 ms, before a thread that
/// wakes up runs.
pub(crate) fn run_when_idle() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        if let Err(e) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
            tracing::warn!("the shadow thread has no idle priority, its runs may delay requests: {e:?}");
        }
    }
}

/// Time that the calling thread was on a CPU; elsewhere than on Unix, time that passed.
pub(crate) fn cpu_time() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}
