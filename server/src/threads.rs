//! How many threads do what, from the CPUs that the process may use, and their priority.

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

/// Lets every other thread go first. Where the system refuses, the thread goes on as it is.
pub(crate) fn lower_priority() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a thread id is accepted in the place of a process id and means that thread alone.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
    }
}
