//! ONNX Runtime's execution providers: which were asked for, which the loaded library has, which have started.
//!
//! Whatever goes wrong with one, the CPU serves in its place: a server without its GPU is slow, not down. Inputs and
//! outputs stay in the CPU's memory; ONNX Runtime copies them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::ep::{self, ExecutionProvider as _};
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use serde::{Deserialize, Serialize};

use super::runtime::LEAST_VERSION;

/// What ONNX Runtime can run a graph's nodes with, by its own short names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// ONNX Runtime's own kernels, which every library has.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// NVIDIA's GPUs, by engines that are built for each model and size when it is loaded.
    TensorRt,
    /// Intel's CPUs, GPUs and NPUs.
    OpenVino,
    /// AMD's GPUs.
    MiGraphX,
    /// Apple's GPUs and neural engines.
    CoreMl,
}

impl Provider {
    /// All that can be asked for.
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Cuda, Self::TensorRt, Self::OpenVino, Self::MiGraphX, Self::CoreMl];

    /// The name by which it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
            Self::MiGraphX => "migraphx",
            Self::CoreMl => "coreml",
        }
    }

    /// Reads a list such as `cuda,cpu`, in order of preference. It ends with the CPU, whether that is named or not.
    /// `None` when there is a name that is none of these, one that comes twice, or one after the CPU, which leaves it nothing.
    #[must_use]
    pub fn list(text: &str) -> Option<Vec<Self>> {
        let mut list: Vec<Self> = vec![];
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let provider = Self::ALL.into_iter().find(|provider| provider.name() == name)?;
            if list.contains(&provider) || list.contains(&Self::Cpu) {
                return None;
            }
            list.push(provider);
        }
        if !list.contains(&Self::Cpu) {
            list.push(Self::Cpu);
        }
        Some(list)
    }

    /// Whether the loaded library was built with it; that says nothing of drivers and devices.
    fn is_in_library(self) -> bool {
        let is_there = match self {
            Self::Cpu => ep::CPU::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
            Self::MiGraphX => ep::MIGraphX::is_available(),
            Self::CoreMl => ep::CoreML::is_available(),
        };
        is_there.unwrap_or(false)
    }

    /// Offers a session's nodes to it, after those that were registered before.
    fn register(self, builder: &mut SessionBuilder) -> ort::Result<()> {
        match self {
            // Every session has it, as the last.
            Self::Cpu => Ok(()),
            // ONNX Runtime would round to TF32, 10 bits of float32's 23: a row's answer would depend on how many run with it.
            Self::Cuda => ep::CUDA::default().with_tf32(false).register(builder),
            Self::TensorRt => ep::TensorRT::default().register(builder),
            Self::OpenVino => ep::OpenVINO::default().register(builder),
            Self::MiGraphX => ep::MIGraphX::default().register(builder),
            Self::CoreMl => ep::CoreML::default().register(builder),
        }
    }

    /// Where a library that has it comes from.
    fn source(self) -> String {
        match self {
            Self::Cpu | Self::CoreMl => format!("pip install 'onnxruntime>={LEAST_VERSION}'"),
            Self::Cuda | Self::TensorRt => format!("pip install 'onnxruntime-gpu>={LEAST_VERSION}'"),
            Self::OpenVino | Self::MiGraphX => format!("ONNX Runtime {LEAST_VERSION} or newer, built with it"),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// As they are asked for: `cuda,cpu`.
#[must_use]
pub fn listed(providers: &[Provider]) -> String {
    providers.iter().map(|provider| provider.name()).collect::<Vec<_>>().join(",")
}

/// What became of a provider.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Whether a session was made with it.
    started: bool,
    /// Whether no session can be: it is not tried again.
    lost: bool,
    /// Why one was made without it, for the first time.
    reason: Option<String>,
}

/// The providers that sessions are made with. Cloning is cheap; all clones are one.
#[derive(Clone, Debug)]
pub struct Providers {
    /// The CPU is the last.
    asked: Arc<[Provider]>,
    seen: Arc<Mutex<BTreeMap<Provider, Seen>>>,
}

/// The same for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// In order of preference.
    pub asked: Vec<Provider>,
    /// Those with which sessions were made; ONNX Runtime gives each the nodes that it has kernels for.
    pub used: Vec<Provider>,
    /// Why sessions were made without the others, or some of them were.
    pub unused: BTreeMap<&'static str, String>,
}

impl Shown {
    /// A sentence for each that did not start, for commands that keep no log.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.unused.iter().map(|(provider, reason)| format!("without the execution provider {provider}: {reason}"))
    }
}

impl Providers {
    /// The CPU alone.
    pub(super) fn cpu() -> Self {
        Self { asked: [Provider::Cpu].into(), seen: Arc::default() }
    }

    /// Those of the loaded library, which is this file. What it lacks is told in the log.
    pub(super) fn find(asked: &[Provider], library: &Path) -> Self {
        let devices = asked.iter().copied().filter(|provider| *provider != Provider::Cpu);
        let asked: Vec<Provider> = devices.chain([Provider::Cpu]).collect();
        let providers = Self { asked: asked.as_slice().into(), seen: Arc::default() };
        for provider in asked.iter().filter(|provider| !provider.is_in_library()) {
            let has: Vec<Provider> = Provider::ALL.into_iter().filter(|provider| provider.is_in_library()).collect();
            let reason = format!(
                "{} was built without {provider}, it has {}: name a library that has it with --onnxruntime ({})",
                library.display(),
                listed(&has),
                provider.source()
            );
            providers.miss(*provider, &reason, true);
        }
        providers
    }

    /// In order of preference, the CPU last.
    #[must_use]
    pub fn asked(&self) -> &[Provider] {
        &self.asked
    }

    /// Whether devices beside the CPU may be used: their drivers reserve far more addresses than they use memory.
    #[must_use]
    pub fn has_devices(&self) -> bool {
        !self.usable().is_empty()
    }

    /// What became of them until now.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let seen = self.seen();
        let started =
            |provider: &Provider| *provider == Provider::Cpu || seen.get(provider).is_some_and(|seen| seen.started);
        Shown {
            asked: self.asked.to_vec(),
            used: self.asked.iter().copied().filter(started).collect(),
            unused: seen.iter().filter_map(|(provider, seen)| Some((provider.name(), seen.reason.clone()?))).collect(),
        }
    }

    /// Makes a session with as many of them as start. One that cannot be registered (a library of its own that is not
    /// there) is not tried again; one whose session fails may do for another model.
    ///
    /// # Errors
    /// ONNX Runtime's, for a session on the CPU alone: then it is not a provider that is at fault.
    pub(super) fn start(
        &self,
        builder: impl Fn() -> ort::Result<SessionBuilder>,
        commit: impl Fn(SessionBuilder) -> ort::Result<Session>,
    ) -> ort::Result<Session> {
        self.choose(builder, Provider::register, commit)
    }

    fn choose<B, S, E: fmt::Display>(
        &self,
        builder: impl Fn() -> Result<B, E>,
        register: impl Fn(Provider, &mut B) -> Result<(), E>,
        commit: impl Fn(B) -> Result<S, E>,
    ) -> Result<S, E> {
        let mut wanted = self.usable();
        let mut failed: Vec<(Provider, String)> = vec![];
        while !wanted.is_empty() {
            let mut options = builder()?;
            wanted.retain(|provider| match register(*provider, &mut options) {
                Ok(()) => true,
                Err(e) => {
                    self.miss(*provider, &plain(&e.to_string()), true);
                    false
                }
            });
            if wanted.is_empty() {
                break;
            }
            match commit(options) {
                Ok(session) => {
                    failed.iter().for_each(|(provider, reason)| self.miss(*provider, reason, false));
                    wanted.iter().for_each(|provider| self.started(*provider));
                    return Ok(session);
                }
                // ONNX Runtime does not say which; the first is the one that asks for most.
                Err(e) => failed.push((wanted.remove(0), plain(&e.to_string()))),
            }
        }
        let session = commit(builder()?)?;
        failed.iter().for_each(|(provider, reason)| self.miss(*provider, reason, false));
        Ok(session)
    }

    /// Those that are worth a try, without the CPU.
    fn usable(&self) -> Vec<Provider> {
        let devices = &self.asked[..self.asked.len().saturating_sub(1)];
        if devices.is_empty() {
            return vec![];
        }
        let seen = self.seen();
        devices.iter().copied().filter(|provider| !seen.get(provider).is_some_and(|seen| seen.lost)).collect()
    }

    fn started(&self, provider: Provider) {
        let mut seen = self.seen();
        let seen = seen.entry(provider).or_default();
        if !seen.started {
            tracing::info!(%provider, "sessions are made with this execution provider: it runs the nodes that it has kernels for");
        }
        seen.started = true;
    }

    /// Told once, and not again for each session.
    fn miss(&self, provider: Provider, reason: &str, lost: bool) {
        let mut seen = self.seen();
        let seen = seen.entry(provider).or_default();
        seen.lost |= lost;
        if seen.reason.is_none() {
            tracing::warn!(%provider, reason, "sessions are made without this execution provider: the next one serves, at last the CPU");
            seen.reason = Some(reason.to_owned());
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Provider, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// ONNX Runtime's words without places in its source, and what to do where a library of the provider's is missing.
fn plain(reason: &str) -> String {
    // "/place signature [ONNXRuntimeError] : 1 : FAIL : told", "/place signature [with ..] told ; GPU=-1 ; hostname=a"
    let told = reason.split(" ; ").next().unwrap_or(reason);
    let told = if reason.starts_with('/') { told.rsplit_once("] ").map_or(told, |(_, told)| told) } else { told };
    let told = if told.starts_with(": ") { told.splitn(3, " : ").nth(2).unwrap_or(told) } else { told }.trim();
    if told.contains("cannot open shared object file") {
        format!("{told}: install that library, and let LD_LIBRARY_PATH lead to it")
    } else {
        told.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Provider::{Cpu, Cuda, TensorRt};
    use super::*;

    /// Makes a session, which is the list of what was registered; those that are named do not let it.
    fn choose(providers: &Providers, unregistered: &[Provider], broken: &[Provider]) -> Result<Vec<Provider>, String> {
        let register = |provider: Provider, options: &mut Vec<Provider>| {
            if unregistered.contains(&provider) {
                return Err(format!("{provider} has no library"));
            }
            options.push(provider);
            Ok(())
        };
        let commit = |options: Vec<Provider>| match options.iter().find(|provider| broken.contains(provider)) {
            Some(provider) => Err(format!("{provider} has no device")),
            None if broken.contains(&Cpu) => Err("no model".into()),
            None => Ok(options),
        };
        providers.choose(|| Ok(vec![]), register, commit)
    }

    fn asked(list: &[Provider]) -> Providers {
        Providers { asked: list.into(), seen: Arc::default() }
    }

    #[test]
    fn a_session_is_made_with_those_that_start() {
        let providers = asked(&[TensorRt, Cuda, Cpu]);
        // One that fails for a model is tried again for the next one.
        assert_eq!(choose(&providers, &[], &[TensorRt]), Ok(vec![Cuda]));
        assert_eq!(providers.shown().used, [Cuda, Cpu]);
        assert_eq!(choose(&providers, &[], &[]), Ok(vec![TensorRt, Cuda]));
        assert_eq!(providers.shown().used, [TensorRt, Cuda, Cpu]);
        assert_eq!(providers.shown().unused, BTreeMap::from([("tensorrt", "tensorrt has no device".to_owned())]));
        // One without its library is not.
        assert_eq!(choose(&providers, &[TensorRt], &[]), Ok(vec![Cuda]));
        assert_eq!(choose(&providers, &[], &[]), Ok(vec![Cuda]));
        assert_eq!(choose(&providers, &[], &[Cuda]), Ok(vec![]));
        assert_eq!(providers.shown().asked, [TensorRt, Cuda, Cpu]);
    }

    /// That is what the models that never load would look like on a device.
    #[test]
    fn no_provider_is_blamed_for_a_broken_model() {
        let providers = asked(&[Cuda, Cpu]);
        assert_eq!(choose(&providers, &[], &[Cuda, Cpu]), Err("no model".into()));
        assert_eq!(providers.shown(), Shown { asked: vec![Cuda, Cpu], used: vec![Cpu], unused: BTreeMap::new() });
        assert_eq!(choose(&asked(&[Cpu]), &[], &[]), Ok(vec![]));
    }

    #[test]
    fn reasons_are_told_without_places_in_the_source() {
        let told = "/src/bridge.cc:2043 Provider& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library \
                    /lib/cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such file or directory";
        assert_eq!(
            plain(told),
            "Failed to load library /lib/cuda.so with error: libcublasLt.so.13: cannot open shared object file: No such \
             file or directory: install that library, and let LD_LIBRARY_PATH lead to it"
        );
        let told = "/src/call.cc:154 void Call(int) [with THRW = true] /src/call.cc:146 void Call(int) [with THRW = true] CUDA \
                    failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; expr=cudaSetDevice(id[0] );";
        assert_eq!(plain(told), "CUDA failure 100: no CUDA-capable device is detected");
        assert_eq!(plain("no engine for [1, 3] here"), "no engine for [1, 3] here");
    }

    #[test]
    fn a_list_ends_with_the_cpu() {
        assert_eq!(Provider::list(""), Some(vec![Cpu]));
        assert_eq!(Provider::list("cpu"), Some(vec![Cpu]));
        assert_eq!(Provider::list("cuda"), Some(vec![Cuda, Cpu]));
        assert_eq!(Provider::list(" tensorrt, cuda ,cpu"), Some(vec![TensorRt, Cuda, Cpu]));
        for wrong in ["gpu", "CUDA", "cuda,cuda", "cpu,cuda", "cpu,cpu"] {
            assert_eq!(Provider::list(wrong), None, "{wrong}");
        }
    }

    /// The probe's child is told them by name.
    #[test]
    fn names_are_the_same_everywhere() {
        for provider in Provider::ALL {
            assert_eq!(serde_json::to_value(provider).expect("a name"), provider.name());
            assert_eq!(Provider::list(provider.name()).expect("a list")[0], provider);
        }
        assert_eq!(listed(&[Cuda, Cpu]), "cuda,cpu");
    }
}
