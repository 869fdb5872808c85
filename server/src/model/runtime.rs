//! Finding and loading ONNX Runtime, once a process, with its telemetry off.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::providers::{Provider, Providers};

/// The oldest ONNX Runtime that is safe to serve with: older ones die of an integer division by zero in a request.
pub const LEAST_VERSION: &str = "1.31";

/// A loaded ONNX Runtime. Cloning is cheap; all clones are one runtime.
#[derive(Clone)]
pub struct Runtime {
    pub(super) environment: ort::environment::Environment,
    path: Arc<Path>,
    pub(super) providers: Providers,
}

static LOADED: OnceLock<Runtime> = OnceLock::new();

impl Runtime {
    /// Loads ONNX Runtime from `library`, or from the first place that has one: `ORT_DYLIB_PATH`, beside the
    /// executable, the Python environment that the executable is installed in, the project's `.venv`, the system's
    /// library path. A second call returns the first call's runtime.
    ///
    /// # Errors
    /// One sentence that says what was looked for and what to install.
    pub fn load(library: Option<&Path>) -> Result<Self, String> {
        if let Some(runtime) = LOADED.get() {
            return Ok(runtime.clone());
        }
        disable_telemetry();
        let path = match library {
            Some(path) if path.is_file() => path.to_path_buf(),
            Some(path) => return Err(format!("--onnxruntime {}: there is no such file", path.display())),
            None => find()?,
        };
        let builder = ort::init_from(&path).map_err(|e| explain(&path, &e))?;
        let environment = builder
            .with_name("onnxd")
            .with_telemetry(false)
            .build()
            .map_err(|e| format!("ONNX Runtime at {} did not start: {e}", path.display()))?;
        // Here, since threads inherit priorities and models are loaded on a thread of low priority.
        super::session::start_watchdog();
        let runtime = Self { environment, path: path.into(), providers: Providers::cpu() };
        Ok(LOADED.get_or_init(|| runtime).clone())
    }

    /// The same library, but sessions are made with these providers where they start, see [`Provider::list`]. What the
    /// library lacks is told in the log.
    #[must_use]
    pub fn with_providers(self, asked: &[Provider]) -> Self {
        Self { providers: Providers::find(asked, &self.path), ..self }
    }

    /// What sessions are made with.
    #[must_use]
    pub fn providers(&self) -> &Providers {
        &self.providers
    }

    /// Where the library was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version as the file's name tells it (`libonnxruntime.so.1.32.0`), else the least that loading accepts.
    #[must_use]
    pub fn version(&self) -> String {
        let name = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.to_path_buf());
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).collect();
        let version = digits.trim_end_matches(".dylib");
        if version.is_empty() { format!("{LEAST_VERSION} or newer") } else { version.to_owned() }
    }
}

/// ONNX Runtime reads this when it is loaded, so it must be in the environment before.
#[expect(unsafe_code, reason = "the standard library offers no other way to set a variable in the own process")]
fn disable_telemetry() {
    if std::env::var_os("ORT_DISABLE_TELEMETRY").is_none_or(|v| v != "1") {
        // SAFETY: called at the start of `main`, before any thread is spawned; a program that embeds the library from
        // several threads is told by `Runtime::load`'s contract to set the variable itself, and then this is skipped.
        unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    }
}

fn explain(path: &Path, error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::BadVersion { version_str, .. } => format!(
            "ONNX Runtime {version_str} at {} is too old: install {LEAST_VERSION} or newer \
             (pip install 'onnxruntime>={LEAST_VERSION}') or name one with --onnxruntime",
            path.display()
        ),
        other => format!("{} is not a usable ONNX Runtime library: {other}", path.display()),
    }
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("ORT_DYLIB_PATH is {}: there is no such file", path.display()))
        };
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let places = beside.iter().flat_map(|dir| [dir.clone(), dir.join("lib")]).chain(environments()).chain(system());
    places.into_iter().find_map(|dir| library_in(&dir)).ok_or_else(|| {
        format!(
            "ONNX Runtime {LEAST_VERSION} or newer was not found: run `make serve` in the project, \
             or `pip install onnxruntime` into ./.venv or the environment that onnxd is installed in, \
             or name the library with --onnxruntime or ORT_DYLIB_PATH"
        )
    })
}

/// The wheel's folder in Python environments: that of the executable, as pip, pipx and uv install it, then the `.venv`
/// of the working directory and of the folders above the executable.
fn environments() -> Vec<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let own = exe.ancestors().nth(2).map(Path::to_path_buf);
    let above = exe.ancestors().skip(1).take(4).map(Path::to_path_buf);
    let projects = std::env::current_dir().into_iter().chain(above).map(|dir| dir.join(".venv"));
    own.into_iter().chain(projects).flat_map(|environment| wheels(&environment)).collect()
}

/// Where an environment has the wheel of ONNX Runtime: one place for each Python, another one for compiled packages on
/// Fedora, and Debian's own Python has another name for it.
fn wheels(environment: &Path) -> Vec<PathBuf> {
    let mut pythons: Vec<PathBuf> = ["lib", "lib64"]
        .iter()
        .filter_map(|lib| std::fs::read_dir(environment.join(lib)).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python")))
        .collect();
    pythons.sort();
    let capi = ["site-packages", "dist-packages"].map(|site| Path::new(site).join("onnxruntime/capi"));
    pythons.iter().flat_map(|python| capi.iter().map(|capi| python.join(capi))).collect()
}

fn system() -> Vec<PathBuf> {
    let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
    let mut dirs: Vec<PathBuf> = std::env::var_os(variable).iter().flat_map(std::env::split_paths).collect();
    dirs.extend(["/usr/local/lib", "/usr/lib", "/usr/lib64", "/opt/homebrew/lib"].map(PathBuf::from));
    dirs.push(PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
    dirs
}

fn library_in(dir: &Path) -> Option<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("libonnxruntime.so") || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
        })
        .collect();
    files.sort();
    files.pop()
}
