//! Processes as Linux's `/proc` describes them; nothing elsewhere.

use std::time::Duration;

/// What `/proc/<pid>/stat` tells.
pub(crate) struct Stat {
    /// Time that it was on a CPU.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u64,
    /// From the start of the system to that of the process.
    since_boot: Duration,
}

/// Reads it of a process by its id, or of `self`.
pub(crate) fn stat(process: &str) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the name in parentheses and may hold spaces; counting starts after it, at field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    let per_second = rustix::param::clock_ticks_per_second();
    let ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / per_second);
    Some(Stat {
        cpu: ticks(field(14)? + field(15)?),
        resident_bytes: field(24)? * rustix::param::page_size() as u64,
        threads: field(20)?,
        since_boot: ticks(field(22)?),
    })
}

/// Files that this process has open.
pub(crate) fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Lets this process open as many files as the system allows, since connections are files and shells allow 1,024. Gives how
/// many that are; `None` where nothing bounds them.
pub(crate) fn allow_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What is refused leaves the number that was.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if raised.is_ok() { limit.maximum } else { limit.current }
}

impl Stat {
    /// When the process was started, in seconds since 1970.
    pub(crate) fn start_time(&self) -> Option<f64> {
        let system = std::fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = system.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + self.since_boot.as_secs_f64())
    }
}
