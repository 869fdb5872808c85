//! A model's first load happens in a child process: one that crashes ONNX Runtime, hangs it or eats all memory costs a
//! rejected candidate and nothing else.
//!
//! The parent sends the model over the child's standard input, so no file is written; the child answers with one line of
//! JSON on standard output.

mod confine;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::model::check::{self, Profile, Rejection, Stage};
use crate::model::derive::{self, Derived};
use crate::model::manifest::Manifest;
use crate::model::providers::Provider;
use crate::model::runtime::Runtime;
use crate::model::{Artifact, External, ModelId};
use crate::process;

/// What a child is given of the environment: where to find libraries, temporary files and locales, how to complain, and
/// which devices there are for it.
pub(crate) const PASSED_ON: [&str; 16] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LOCPATH",
    "LD_LIBRARY_PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "ORT_DYLIB_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_CACHE_PATH",
    "NVIDIA_TF32_OVERRIDE",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
];

/// What a child may use at most where nobody says how much.
const MOST_MEMORY: u64 = 4 << 30;
/// What it may use at least: the program and ONNX Runtime are a part of it.
const LEAST_MEMORY: u64 = 256 << 20;
/// KiB that the allocator takes from the system at a time. Its own choice is a gigabyte of addresses, which would be most of
/// what a child in a small container may have.
const ARENA_KIB: &str = "32768";

/// How models are probed.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The `onnxd` executable. `None` probes in this process, which a hostile model can crash.
    pub executable: Option<PathBuf>,
    /// Wall-clock limit.
    pub timeout: Duration,
    /// Address space of the child in bytes; with GPUs, the memory that it may write to. `None` for most of what is left.
    pub memory: Option<u64>,
    /// What this process and the child may use together: where a container has more, all of its processes end.
    pub room: Memory,
}

/// What a trial waits for.
enum Heard {
    Answer(String),
    Stop,
}

/// Where a trial listens.
pub(crate) struct Line {
    heard: Receiver<Heard>,
    answer: Sender<Heard>,
}

/// Ends a trial in a child, from another thread.
pub(crate) struct Stop(Sender<Heard>);

impl Stop {
    pub(crate) fn stop(&self) {
        // It has ended otherwise.
        let _ = self.0.send(Heard::Stop);
    }
}

/// A line, and what ends the trial at its other end.
pub(crate) fn line() -> (Stop, Line) {
    let (answer, heard) = channel();
    (Stop(answer.clone()), Line { heard, answer })
}

/// What the child is told before the bytes.
#[derive(Serialize, Deserialize)]
struct Head {
    id: ModelId,
    onnxruntime: PathBuf,
    /// As the server asked for them: what it was not tried out with proves nothing.
    providers: Vec<Provider>,
    memory: u64,
    cpu_seconds: u64,
    manifest: Option<usize>,
    onnx: usize,
    /// Names and sizes of the files of weights.
    external: Vec<(String, usize)>,
    /// Whether a manifest is wanted too.
    derive: bool,
}

impl Probe {
    /// Probes a verified model.
    ///
    /// # Errors
    /// What the child found, or how it died.
    pub fn examine(
        &self,
        runtime: &Runtime,
        artifact: &Artifact,
        manifest: Option<&[u8]>,
    ) -> Result<Profile, Rejection> {
        self.examine_until(runtime, artifact, manifest, &line().1)
    }

    /// The same, but that it may be stopped.
    pub(crate) fn examine_until(
        &self,
        runtime: &Runtime,
        artifact: &Artifact,
        manifest: Option<&[u8]>,
        line: &Line,
    ) -> Result<Profile, Rejection> {
        match &self.executable {
            Some(executable) => self.in_child(executable, runtime, artifact, manifest, line, false),
            None => check::examine(runtime, artifact),
        }
    }

    /// Probes a model and finds out what a manifest would say of it, see [`derive::derive`].
    ///
    /// # Errors
    /// As [`Probe::examine`].
    pub fn derive(
        &self,
        runtime: &Runtime,
        artifact: &Artifact,
        manifest: Option<&[u8]>,
    ) -> Result<(Profile, Derived), Rejection> {
        match &self.executable {
            Some(executable) => self.in_child(executable, runtime, artifact, manifest, &line().1, true),
            None => derive::derive(runtime, artifact),
        }
    }

    /// What the child may use.
    fn memory(&self) -> Result<u64, Rejection> {
        let left = || {
            // An eighth is for what this process needs meanwhile.
            let left = self.room.left().map_or(MOST_MEMORY, |left| left - left / 8);
            if left < LEAST_MEMORY {
                let reason = format!(
                    "{} MiB of memory are left, and a model is tried out with {} at least: raise the limit of the container or \
                     --memory-limit",
                    left >> 20,
                    LEAST_MEMORY >> 20
                );
                return Err(Stage::Probe.not_yet(reason));
            }
            Ok(left.min(MOST_MEMORY))
        };
        self.memory.map_or_else(left, Ok)
    }

    fn in_child<T: DeserializeOwned>(
        &self,
        executable: &Path,
        runtime: &Runtime,
        artifact: &Artifact,
        manifest: Option<&[u8]>,
        line: &Line,
        derive: bool,
    ) -> Result<T, Rejection> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            Stage::Probe.not_yet(format!("{what} {} probe: {e}", executable.display()))
        };
        let memory = self.memory()?;
        let mut child = Command::new(executable)
            .arg("probe")
            // What runs in it is not trusted with the server's secrets.
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("ORT_DISABLE_TELEMETRY", "1")
            .env("MIMALLOC_ARENA_RESERVE", ARENA_KIB)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed("cannot start", &e))?;
        let head = Head {
            id: artifact.id.clone(),
            onnxruntime: runtime.path().into(),
            providers: runtime.providers().asked().to_vec(),
            memory,
            cpu_seconds: self.timeout.as_secs().max(1),
            manifest: manifest.map(<[u8]>::len),
            onnx: artifact.onnx.len(),
            external: artifact.external.iter().map(|file| (file.path.clone(), file.bytes.len())).collect(),
            derive,
        };
        let mut message = serde_json::to_vec(&head).map_err(|e| failed("cannot describe the model to", &e))?;
        message.push(b'\n');
        message.extend_from_slice(manifest.unwrap_or_default());
        let output = self.converse(&mut child, message, artifact, line);
        let used = process::stat(&child.id().to_string()).map(|stat| stat.cpu);
        if output.as_ref().is_none_or(|(answer, _)| !answer.is_empty()) {
            // It has answered, or never will. Killing one that has just ended fails, and that is fine.
            let _ = child.kill();
        }
        let status = child.wait().map_err(|e| failed("cannot wait for", &e))?;
        let Some((answer, complaint)) = output else {
            let limit = self.timeout.as_secs();
            let reason = format!("the model did not load and answer within {limit} s");
            // With all CPUs busy, that says nothing of the model.
            return Err(match used.filter(|used| *used < self.timeout / 2) {
                Some(used) => Stage::Probe.not_yet(format!("{reason}, of which it had a CPU for {used:.1?}")),
                None => Stage::Probe.reject(reason),
            });
        };
        let line = answer.lines().last().unwrap_or_default();
        match serde_json::from_str::<Result<T, Rejection>>(line) {
            Ok(result) => result,
            Err(_) => Err(Stage::Probe.reject(format!("the model {}{}", death(status), last_line(&complaint)))),
        }
    }

    /// Sends the model and reads what the child says on both its outputs; `None` when it takes too long, or is stopped.
    fn converse(&self, child: &mut Child, head: Vec<u8>, artifact: &Artifact, line: &Line) -> Option<(String, String)> {
        let (mut input, mut output, mut errors) = (child.stdin.take()?, child.stdout.take()?, child.stderr.take()?);
        let done = line.answer.clone();
        let (onnx, external) = (artifact.onnx.clone(), artifact.external.clone());
        std::thread::spawn(move || {
            // A child that dies early closes the pipe; its exit status tells why.
            let _ = [&head, &*onnx]
                .into_iter()
                .chain(external.iter().map(|file| &*file.bytes))
                .try_for_each(|bytes| input.write_all(bytes));
        });
        let (complained, complaint) = channel();
        std::thread::spawn(move || {
            let mut text = vec![];
            let _ = errors.by_ref().take(64 << 10).read_to_end(&mut text);
            let _ = complained.send(String::from_utf8_lossy(&text).into_owned());
            // What follows is not kept, but must be read so that the child does not block.
            let _ = std::io::copy(&mut errors, &mut std::io::sink());
        });
        std::thread::spawn(move || {
            let mut text = vec![];
            let _ = output.by_ref().take(1 << 20).read_to_end(&mut text);
            let _ = done.send(Heard::Answer(String::from_utf8_lossy(&text).into_owned()));
        });
        match line.heard.recv_timeout(self.timeout) {
            Ok(Heard::Answer(answer)) => {
                Some((answer, complaint.recv_timeout(Duration::from_secs(1)).unwrap_or_default()))
            }
            Ok(Heard::Stop) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }
}

fn death(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => " (SIGILL)",
            6 => " (SIGABRT)",
            7 => " (SIGBUS)",
            8 => " (SIGFPE)",
            9 => " (SIGKILL)",
            11 => " (SIGSEGV)",
            24 => " (SIGXCPU: it used all the CPU time it may)",
            _ => "",
        };
        return format!("killed the probe process by signal {signal}{name}");
    }
    format!("ended the probe process ({status})")
}

fn last_line(text: &str) -> String {
    // What a panic adds about itself tells nobody anything.
    let tells = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ") && !line.starts_with(' ');
    let line: String = text.lines().rfind(tells).unwrap_or_default().chars().take(300).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

/// The child's side: the whole of `onnxd probe`.
///
/// # Errors
/// When the parent's message cannot be read, or the answer not be written.
pub fn child(mut input: impl Read, mut output: impl Write) -> Result<(), String> {
    let mut line = vec![];
    let mut byte = [0];
    while input.read(&mut byte).map_err(|e| e.to_string())? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    let head: Head = serde_json::from_slice(&line)
        .map_err(|e| format!("this command is started by `onnxd serve`, which sends it a model: {e}"))?;
    let mut next = |bytes: usize| {
        let mut buffer = vec![0; bytes];
        input.read_exact(&mut buffer).map(|()| buffer).map_err(|e| e.to_string())
    };
    let manifest = next(head.manifest.unwrap_or(0))?;
    let onnx = next(head.onnx)?.into();
    let external = head
        .external
        .iter()
        .map(|(path, bytes)| Ok(External { path: path.clone(), bytes: next(*bytes)?.into() }))
        .collect::<Result<_, String>>()?;
    let result = Runtime::load(Some(&head.onnxruntime)).map_err(|e| Stage::Probe.reject(e)).and_then(|runtime| {
        let runtime = runtime.with_providers(&head.providers);
        limit(&head, runtime.providers().has_devices());
        if !runtime.providers().has_devices() {
            let places = ["LOCPATH", "LD_LIBRARY_PATH"].map(std::env::var_os).into_iter().flatten();
            let places = places.flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>());
            let library = head.onnxruntime.parent().map(Path::to_path_buf);
            confine::confine(&places.chain(library).collect::<Vec<_>>())
                .map_err(|e| Stage::Probe.not_yet(format!("what tries out models cannot be confined: {e}")))?;
        }
        let parsed =
            head.manifest.map(|_| Manifest::parse(&manifest)).transpose().map_err(|e| Stage::Verify.reject(e))?;
        let artifact = Artifact { id: head.id, onnx, external, manifest: parsed.map(Arc::new) };
        let answer = if head.derive {
            derive::derive(&runtime, &artifact).map(serde_json::to_value)
        } else {
            check::examine(&runtime, &artifact).map(serde_json::to_value)
        };
        answer?.map_err(|e| Stage::Probe.reject(e.to_string()))
    });
    let answer = serde_json::to_string(&result).map_err(|e| e.to_string())?;
    writeln!(output, "{answer}").map_err(|e| e.to_string())
}

/// Bounds what the model may use. A limit that the system refuses leaves the parent's time-out.
///
/// Drivers of GPUs reserve addresses for all of a device's memory and more: with them the bound is on what may be written
/// to.
fn limit(head: &Head, devices: bool) {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let memory = if devices { Resource::Data } else { Resource::As };
        for (resource, most) in [(memory, head.memory), (Resource::Cpu, head.cpu_seconds), (Resource::Core, 0)] {
            let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
        }
        // Should there be too little for all that, the kernel ends this one first.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
}
