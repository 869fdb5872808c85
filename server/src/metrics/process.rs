//! The process as Linux's `/proc` describes it; nothing elsewhere.

pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: f64,
    pub(super) open_fds: f64,
    pub(super) threads: f64,
    pub(super) start_time: f64,
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
pub(super) fn read() -> Option<Process> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold spaces; counting starts after it, at field 3.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) / ticks,
        resident_bytes: field(24)? * rustix::param::page_size() as f64,
        open_fds: std::fs::read_dir("/proc/self/fd").ok()?.count() as f64,
        threads: field(20)?,
        start_time: boot + field(22)? / ticks,
    })
}
