//! What a run leaves behind: figures, where they come from, and files that say both.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use onnxd::load::Outcome;
use serde::Serialize;
use time::OffsetDateTime;

/// The figures of one run of the load generator.
#[derive(Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) p999_us: Option<f64>,
    pub(crate) answered: u64,
    pub(crate) errors: u64,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) broken: u64,
    pub(crate) wrong_bodies: u64,
    pub(crate) unanswered: u64,
    /// Open loop only: the latency from when a request left, without its wait for the generator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from_sent_p99_us: Option<f64>,
    /// Open loop only: how late requests left, of which a latency that counts from the due time includes its part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_late_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_late_p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_us_per_request: Option<f64>,
}

impl Figures {
    /// `cpu`: what the server used meanwhile, if it is known.
    pub(crate) fn new(outcome: &Outcome, cpu: Option<Duration>) -> Self {
        let answered = outcome.answered();
        Self {
            requests_per_second: answered as f64 / outcome.elapsed.as_secs_f64(),
            p50_us: outcome.latency.quantile_us(0.5),
            p99_us: outcome.latency.quantile_us(0.99),
            p999_us: outcome.latency.quantile_us(0.999),
            answered,
            errors: outcome.errors(),
            statuses: outcome.statuses.clone(),
            broken: outcome.broken,
            wrong_bodies: outcome.wrong_bodies,
            unanswered: outcome.unanswered,
            from_sent_p99_us: outcome.service.quantile_us(0.99),
            sent_late_p50_us: outcome.lateness.quantile_us(0.5),
            sent_late_p99_us: outcome.lateness.quantile_us(0.99),
            server_cpu_us_per_request: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / answered.max(1) as f64),
        }
    }
}

/// Where figures come from: without it they are adjectives.
#[derive(Serialize)]
pub(crate) struct Provenance {
    pub(crate) date: String,
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) hardware: Hardware,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    pub(crate) versions: BTreeMap<&'static str, String>,
}

/// What it ran on, as the system tells.
#[derive(Serialize)]
pub(crate) struct Hardware {
    cpu: String,
    cores: usize,
    memory_mib: Option<u64>,
    system: String,
}

impl Hardware {
    fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpu = value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kernel = read("/proc/sys/kernel/osrelease");
        Self {
            cpu,
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.and_then(|text| Some(text.strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)),
            system: format!("{} {}", std::env::consts::OS, kernel.trim()).trim().to_owned(),
        }
    }

    /// For the name of a folder: `amd-epyc-7763-2`.
    fn slug(&self) -> String {
        let cpu = self.cpu.split('@').next().unwrap_or_default().to_lowercase().replace("(r)", "").replace("(tm)", "");
        let words = cpu.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| {
            // Some makers say in the name what stands behind it anyway: `64-Core Processor`.
            !word.is_empty() && !["cpu", "processor", "core"].contains(word)
        });
        words.chain([self.cores.to_string().as_str()]).collect::<Vec<_>>().join("-")
    }
}

impl Provenance {
    /// `onnxd`: the binary that is measured, unless the server was already running.
    pub(crate) fn now(onnxd: Option<&Path>) -> Self {
        let mut versions = BTreeMap::from([("benches", env!("CARGO_PKG_VERSION").to_owned())]);
        if let Some(version) = onnxd.and_then(version_of) {
            versions.insert("onnxd", version);
        }
        let hardware = Hardware::here();
        let arch = std::env::consts::ARCH.replace("x86_64", "x86-64");
        Self {
            date: OffsetDateTime::now_utc().date().to_string(),
            command: command_line(std::env::args()),
            machine: format!("{} shared {arch} cores", hardware.cores),
            hardware,
            commit: commit(Path::new(".git")),
            versions,
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let commit = self.commit.as_ref().map(|commit| format!(", commit {commit}")).unwrap_or_default();
        format!(
            "{}, {}, load generator on the same cores. {}{commit}.\n\n```\n{}\n```\n",
            self.date,
            self.machine,
            versions.join(", "),
            self.command
        )
    }

    /// The folder of today's runs on this machine; made if need be.
    pub(crate) fn folder(&self, out: &Path) -> Result<PathBuf> {
        let folder = out.join(format!("{}-{}", self.date, self.hardware.slug()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }
}

/// Writes the files of a run: `<name>.json`, `.md` and `.svg`.
pub(crate) fn write(folder: &Path, name: &str, json: &impl Serialize, markdown: &str, svg: &str) -> Result<()> {
    let json = serde_json::to_string_pretty(json)? + "\n";
    for (extension, text) in [("json", json.as_str()), ("md", markdown), ("svg", svg)] {
        let path = folder.join(name).with_extension(extension);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The middle value; of an even number, the mean of the middle two. Zero of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

/// Least and greatest.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)))
}

/// A duration that was measured, for people; a dash where there was none.
pub(crate) fn micros(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10_000.0 => format!("{value:.0} us"),
        Some(value) => format!("{:.1} ms", value / 1000.0),
    }
}

fn version_of(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().trim_start_matches("onnxd ").to_owned())
}

/// The command as it was typed, with the names of absolute paths only: a report is read on other machines.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let arguments = arguments.map(|argument| {
        let path = Path::new(&argument);
        match path.file_name() {
            Some(name) if path.is_absolute() => name.to_string_lossy().into_owned(),
            _ => argument,
        }
    });
    let words: Vec<_> = arguments.collect();
    let program = words.first().map(|word| word.rsplit('/').next().unwrap_or(word));
    program.into_iter().chain(words.iter().skip(1).map(String::as_str)).collect::<Vec<_>>().join(" ")
}

/// The commit that is checked out, read from the files: no program is run for it.
fn commit(git: &Path) -> Option<String> {
    // A second work tree has a file that says where its own HEAD is, beside which stands where the rest is.
    let own = fs::read_to_string(git).ok().and_then(|text| Some(PathBuf::from(text.strip_prefix("gitdir: ")?.trim())));
    let own = own.unwrap_or_else(|| git.to_path_buf());
    let head = fs::read_to_string(own.join("HEAD")).ok()?;
    let common = fs::read_to_string(own.join("commondir")).map_or(own.clone(), |text| own.join(text.trim()));
    let hash = match head.trim().strip_prefix("ref: ") {
        Some(reference) => fs::read_to_string(common.join(reference)).ok()?,
        None => head,
    };
    hash.trim().get(..12).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }

    #[test]
    fn a_report_names_no_place_on_this_machine() {
        let typed =
            ["/home/me/target/release/benches", "compare", "--onnxd", "/home/me/onnxd", "--out", "benches/runs"];
        let shown = command_line(typed.into_iter().map(str::to_owned));
        assert_eq!(shown, "benches compare --onnxd onnxd --out benches/runs");
    }

    #[test]
    fn a_folder_is_named_by_the_cpu_and_its_count() {
        let slug = |cpu: &str, cores| {
            let cpu = cpu.to_owned();
            Hardware { cpu, cores, memory_mib: None, system: String::new() }.slug()
        };
        assert_eq!(slug("AMD EPYC 7763 64-Core Processor", 2), "amd-epyc-7763-64-2");
        assert_eq!(slug("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", 4), "intel-xeon-platinum-8370c-4");
        assert!(!Hardware::here().slug().is_empty());
    }

    #[test]
    fn the_commit_is_read_from_head() {
        let git = tempfile::tempdir().expect("a folder");
        assert_eq!(commit(git.path()), None);
        fs::write(git.path().join("HEAD"), "ref: refs/main\n").expect("it is written");
        fs::create_dir(git.path().join("refs")).expect("it is made");
        fs::write(git.path().join("refs/main"), "0123456789abcdef\n").expect("it is written");
        assert_eq!(commit(git.path()).as_deref(), Some("0123456789ab"));
        let tree = git.path().join("worktrees/one");
        fs::create_dir_all(&tree).expect("it is made");
        fs::write(tree.join("HEAD"), "ref: refs/main\n").expect("it is written");
        fs::write(tree.join("commondir"), "../..\n").expect("it is written");
        let file = git.path().join("file");
        fs::write(&file, format!("gitdir: {}\n", tree.display())).expect("it is written");
        assert_eq!(commit(&file).as_deref(), Some("0123456789ab"));
    }
}
