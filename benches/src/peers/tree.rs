//! A server with all of its processes: started together, weighed together, ended together.
//!
//! Some servers start others that leave their process group and their parent, so a group is not enough. All inherit
//! the environment, where a mark tells them: a process is one of ours if it bears the mark or descends from one of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::server::{Stat, kilobytes, stat_of, tail};

/// The variable that bears the mark, which is the folder's name and so no other server's.
const MARK: &str = "ONNXD_BENCHES_TREE";
/// A server that was asked to end has so long before it is made to.
const END_WITHIN: Duration = Duration::from_secs(3);
/// And so long is waited until processes that were made to end are gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// A server's processes and the folder they run in. Dropping it ends them all.
pub(super) struct Tree {
    child: Child,
    folder: TempDir,
    mark: String,
    /// All that were ever seen: what loses its parent later is still known.
    seen: BTreeSet<Identity>,
}

/// A process: its number may be given again, but not with the same start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    id: u32,
    started: u64,
}

impl Tree {
    /// Starts it in `folder`, which is also its home: whatever it keeps goes with it.
    pub(super) fn start(mut command: Command, folder: TempDir) -> Result<Self> {
        let mark = folder.path().display().to_string();
        let log = folder.path().join("log");
        let child = command
            .env(MARK, &mark)
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, folder, mark, seen: BTreeSet::new() })
    }

    /// An error with the log's end, when the first process is gone.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("it ended, {status}{}", self.log_tail()),
            None => Ok(()),
        }
    }

    /// What the log ends with, for an error's text.
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log(), 12)
    }

    /// All that was logged so far.
    pub(super) fn log(&self) -> String {
        fs::read(self.folder.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// CPU time of the living processes since they began.
    pub(super) fn cpu(&mut self) -> Duration {
        self.living().values().map(|stat| stat.cpu).sum()
    }

    /// Bytes of memory: each page of a shared library counts in parts (PSS). `None` where the system does not tell.
    pub(super) fn memory(&mut self) -> Option<u64> {
        let rollup = |id: &Identity| {
            Some(kilobytes(&fs::read_to_string(format!("/proc/{}/smaps_rollup", id.id)).ok()?, "Pss:")? * 1024)
        };
        self.living().keys().map(rollup).sum()
    }

    /// How many processes there are.
    pub(super) fn count(&mut self) -> usize {
        self.living().len()
    }

    fn living(&mut self) -> BTreeMap<Identity, Stat> {
        let all = processes();
        for (id, stat) in &all {
            if *id == self.child.id() || self.is_marked(*id) {
                self.seen.insert(Identity { id: *id, started: stat.started });
            }
        }
        loop {
            let known = self.seen.len();
            for (id, stat) in &all {
                let parent = all.get(&stat.parent).map(|parent| Identity { id: stat.parent, started: parent.started });
                if parent.is_some_and(|parent| self.seen.contains(&parent)) {
                    self.seen.insert(Identity { id: *id, started: stat.started });
                }
            }
            if self.seen.len() == known {
                break;
            }
        }
        let own = all.into_iter().map(|(id, stat)| (Identity { id, started: stat.started }, stat));
        own.filter(|(identity, stat)| !stat.dead && self.seen.contains(identity)).collect()
    }

    fn is_marked(&self, id: u32) -> bool {
        fs::read(format!("/proc/{id}/environ")).is_ok_and(|environment| {
            let mut pairs = environment.split(|byte| *byte == 0);
            pairs.any(|pair| {
                pair.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
                    == Some(self.mark.as_bytes())
            })
        })
    }

    fn signal(&mut self, signal: Signal) -> bool {
        let living = self.living();
        for id in living.keys().filter_map(|identity| Pid::from_raw(identity.id.cast_signed())) {
            // It may have ended meanwhile, and then there is nothing to do.
            let _gone = kill_process(id, signal);
        }
        !living.is_empty()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let begin = Instant::now();
        self.living();
        if let Some(first) = Pid::from_raw(self.child.id().cast_signed()) {
            let _gone = kill_process(first, Signal::TERM);
        }
        while begin.elapsed() < END_WITHIN && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            thread::sleep(Duration::from_millis(20));
        }
        while self.signal(Signal::KILL) && begin.elapsed() < END_WITHIN + GONE_WITHIN {
            drop(self.child.try_wait());
            thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All processes that can be read.
fn processes() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| Some((id, stat_of(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_is_read_after_the_name() {
        let stat =
            stat_of("17 (a (b) c) S 1 17 17 0 -1 4194560 500 0 0 0 120 30 0 0 20 0 3 0 1000 1 1").expect("it is one");
        assert_eq!((stat.parent, stat.cpu, stat.started, stat.dead), (1, Duration::from_millis(1500), 1000, false));
        assert!(stat_of("nonsense").is_none());
    }

    #[test]
    fn a_process_that_left_its_group_and_its_parent_ends_with_the_others() {
        let mut command = Command::new("sh");
        command.args(["-c", "(setsid sleep 600 &); (setsid sh -c 'sleep 600 & wait' &); echo started; exec sleep 600"]);
        let mut tree = Tree::start(command, tempfile::tempdir().expect("a folder")).expect("it starts");
        let until = Instant::now() + Duration::from_secs(20);
        while tree.count() < 4 && Instant::now() < until {
            thread::yield_now();
        }
        let living: Vec<_> = tree.living().into_keys().collect();
        assert_eq!(living.len(), 4, "{}", tree.log());
        assert!(tree.memory().is_some_and(|bytes| bytes > 100_000), "{:?}", tree.memory());
        drop(tree);
        let after = processes();
        for one in living {
            assert!(after.get(&one.id).is_none_or(|stat| stat.dead || stat.started != one.started), "{}", one.id);
        }
    }
}
