//! How much memory this process uses, and how much it may.

use std::path::Path;

use crate::process;

/// Beyond this share of the limit, what is only kept for convenience is let go.
const TIGHT: f64 = 0.75;

/// The memory that a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    limit: Option<u64>,
}

impl Memory {
    /// A limit in bytes; the system's when `None`: the cgroup's, else all memory there is.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.or_else(system) }
    }

    /// All that it may use; `None` where the system does not tell.
    #[must_use]
    pub const fn limit(self) -> Option<u64> {
        self.limit
    }

    /// What is left beside what this process uses; `None` where the system does not tell.
    #[must_use]
    pub fn left(self) -> Option<u64> {
        Some(self.limit?.saturating_sub(process::stat("self")?.resident_bytes))
    }

    /// Whether there is room for what is only convenient. Where the system does not tell, there is.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rough share")]
    pub fn has_room(self) -> bool {
        match (self.limit, process::stat("self").map(|stat| stat.resident_bytes)) {
            (Some(limit), Some(used)) => (used as f64) < limit as f64 * TIGHT,
            _ => true,
        }
    }
}

/// What the cgroup allows (version 2, then 1), else the machine's memory.
fn system() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let allowed = cgroup.into_iter().find_map(|path| read(path)?.trim().parse::<u64>().ok());
    let total = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    });
    // Without a limit, version 1 has a number larger than any memory.
    allowed.into_iter().chain(total).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_larger_than_a_megabyte_and_smaller_than_the_machine() {
        assert!(!Memory::new(Some(1 << 20)).has_room());
        assert!(Memory::new(None).has_room());
        assert!(system().is_some_and(|limit| limit > 1 << 26));
    }
}
