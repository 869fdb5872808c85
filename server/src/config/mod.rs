//! From flags, environment and `onnxd.toml` to a checked configuration; all mistakes are reported at once.

mod platform;
pub mod settings;
mod tls;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

use crate::batch;
use crate::engine::Options;
use crate::http::Vertex;
use crate::http::tls::Files;
use crate::memory::Memory;
use crate::model::Threads;
use crate::model::providers::Provider;
use crate::probe::Probe;
use crate::record;
use crate::shadow;
use crate::source;
use settings::Setting;

/// The longest duration that makes sense anywhere; more would overflow the clock.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The shortest time in which anything can be done.
const MOMENT: Duration = Duration::from_millis(1);

/// Everything the server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Models, queue, shadow.
    pub engine: Options,
    /// CPUs that the process may use, for the start-up log.
    pub cpus: usize,
    /// Where requests are taken.
    pub http: SocketAddr,
    /// Where gRPC requests are taken; `None` for nowhere.
    pub grpc: Option<SocketAddr>,
    /// Where health, metrics and status are told; `None` for nowhere.
    pub ops: Option<SocketAddr>,
    /// What encrypts `http` and `grpc`.
    pub tls: Option<Files>,
    /// Where to write the bound addresses.
    pub ports_file: Option<PathBuf>,
    /// The model behind `/predict`.
    pub default_model: Option<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// A file whose text opens the calls that change something.
    pub admin_token_file: Option<PathBuf>,
    /// Hosts by which the operations port may be asked, and whose pages may send what changes anything.
    pub allowed_hosts: Vec<String>,
    /// Bytes of a body.
    pub body_limit: usize,
    /// Bytes of all bodies at a time.
    pub bodies_limit: usize,
    /// Paths that Vertex AI asks for.
    pub vertex: Vertex,
    /// See the setting.
    pub drain_delay: Duration,
    /// See the setting.
    pub grace_period: Duration,
    /// The log's filter.
    pub log: String,
    /// `pretty`, `json` or `auto`.
    pub log_format: String,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// The environment.
    Environment,
    /// `onnxd.toml`.
    File,
    /// This variable, which a platform sets.
    Platform(&'static str),
    /// Nobody set it.
    Default,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Platform(variable) => variable,
            Self::Default => "default",
        }
    }
}

/// Every setting as text, with its origin.
#[derive(Debug)]
pub struct Raw(BTreeMap<&'static str, (String, Origin)>);

/// The `serve` command line.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new("serve")
        .about("Serves the models of a repository")
        .long_about(
            "Serves the models of a repository: a folder, an S3 bucket, or one .onnx file.\n\n\
             A model's folder holds versions and, when it has a champion and challengers, aliases.json. The champion answers \
             POST /predict; the challenger scores the same rows in the shadow. Writing a new aliases.json swaps them while \
             they serve.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd serve models\n  \
             onnxd serve model.onnx --http 0.0.0.0:8080\n  \
             onnxd serve s3://bucket/models --cache /var/cache/onnxd\n  \
             ONNXD_WORKERS=4 onnxd serve models --print-config\n\n\
             A request:\n  \
             curl -X POST http://localhost:8080/predict -H 'Content-Type: application/json' \\\n    \
             -d '{\"cpu_zscore\": 2.1, \"memory_zscore\": 1.5}'",
        )
        .arg(Arg::new("config").long("config").value_name("FILE").help("Settings in TOML [default: ./onnxd.toml if it exists]"))
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Prints every setting, where it comes from, and exits"),
        );
    for group in settings::GROUPS {
        for setting in group.settings {
            let arg = argument(setting).help_heading(group.title);
            command = command.arg(if setting.name == "repository" { arg } else { arg.long(setting.name) });
        }
    }
    command
}

/// Adds some of the settings to another command, the repository as a flag too.
#[must_use]
pub fn with_settings(command: Command, names: &[&str]) -> Command {
    let named = settings::all().filter(|setting| names.contains(&setting.name));
    named.fold(command, |command, setting| command.arg(argument(setting).long(setting.name)))
}

fn argument(setting: &'static Setting) -> Arg {
    let default = if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
    let help = format!("{}{default} [env: {}]", setting.help, setting.variable());
    let arg = Arg::new(setting.name).help(help);
    if setting.is_switch() { arg.action(ArgAction::SetTrue) } else { arg.value_name(setting.value) }
}

impl Raw {
    /// Gathers every setting. `flag` and `variable` give what the user wrote there; `file` is the text of `onnxd.toml`.
    ///
    /// # Errors
    /// Every key of the file that is not a setting, or that the file is not TOML.
    pub fn gather(
        flag: impl Fn(&Setting) -> Option<String>,
        variable: impl Fn(&str) -> Option<String>,
        file: Option<(&Path, &str)>,
    ) -> Result<Self, Vec<String>> {
        let mut in_file = toml::Table::new();
        if let Some((path, text)) = file {
            in_file = toml::from_str(text).map_err(|e| vec![format!("{}: {e}", path.display())])?;
            let unknown: Vec<String> = in_file
                .keys()
                .filter(|key| !settings::all().any(|s| s.name == **key))
                .map(|key| format!("{}: {key:?} is not a setting", path.display()))
                .collect();
            if !unknown.is_empty() {
                return Err(unknown);
            }
        }
        let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let raw = settings::all().map(|setting| {
            let value = flag(setting)
                .map(|v| (v, Origin::Flag))
                .or_else(|| variable(&setting.variable()).filter(|v| !v.is_empty()).map(|v| (v, Origin::Environment)))
                .or_else(|| in_file.get(setting.name).map(|v| (text(v), Origin::File)))
                .or_else(|| {
                    let (value, variable) = platform::value(setting.name, &variable)?;
                    Some((value, Origin::Platform(variable)))
                })
                .unwrap_or_else(|| (setting.default.to_owned(), Origin::Default));
            (setting.name, value)
        });
        Ok(Self(raw.collect()))
    }

    /// As TOML, each value with its origin.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        for setting in settings::all() {
            let (value, origin) = &self.0[setting.name];
            let line = if setting.is_switch() {
                format!("{} = {value}", setting.name)
            } else {
                format!("{} = {}", setting.name, toml::Value::from(value.as_str()))
            };
            text += &format!("{line:<44} # {}\n", origin.name());
        }
        text
    }

    /// Where the repository is, for the commands that need nothing else. They keep no cache.
    ///
    /// # Errors
    /// One sentence for each value that cannot be used.
    pub fn source(&self) -> Result<source::Options, Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let options = source::Options { cache: None, ..reader.source() };
        if reader.mistakes.is_empty() { Ok(options) } else { Err(reader.mistakes) }
    }

    /// How a model is tried out, and with which ONNX Runtime and which of its providers.
    ///
    /// # Errors
    /// One sentence for each value that cannot be used.
    pub fn probe(&self) -> Result<(Option<PathBuf>, Vec<Provider>, Probe), Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let onnxruntime = reader.optional("onnxruntime").map(PathBuf::from);
        let (providers, probe) = (reader.providers(), reader.probe());
        if reader.mistakes.is_empty() { Ok((onnxruntime, providers, probe)) } else { Err(reader.mistakes) }
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// One sentence when its value is neither `true` nor `false`.
    pub fn is_on(&self, name: &'static str) -> Result<bool, Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let is_on = reader.parse(name, "true or false", bool::from_str);
        if reader.mistakes.is_empty() { Ok(is_on) } else { Err(reader.mistakes) }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// One sentence for each value that cannot be used.
    pub fn resolve(&self) -> Result<Config, Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let r = &mut reader;
        let (cpus, auto) = Threads::available();
        let threads =
            Threads { http: r.count_or("http-threads", auto.http), workers: r.count_or("workers", auto.workers) };
        let config = Config {
            engine: Options {
                source: r.source(),
                onnxruntime: r.optional("onnxruntime").map(PathBuf::from),
                providers: r.providers(),
                threads,
                queue: batch::Limits {
                    queue_rows: r.count("queue-rows"),
                    batch_delay: r.duration("batch-delay", Duration::ZERO),
                },
                request_timeout: r.duration("request-timeout", MOMENT),
                max_rows: r.count("max-rows"),
                shadow: shadow::Limits {
                    sample: r.share("shadow-sample", 0.0),
                    queue_rows: r.count("shadow-queue-rows"),
                    cpu: r.share("shadow-cpu", 0.001),
                },
                poll_interval: r.duration("poll-interval", Duration::from_millis(100)),
                allow_signature_change: r.parse("allow-signature-change", "true or false", bool::from_str),
                memory_limit: r.memory_limit(),
                guard_period: r.duration("guard-period", Duration::ZERO),
                compare_previous: r.duration("compare-previous", Duration::ZERO),
                event_time: r.parse("event-time", "true or false", bool::from_str),
                state: r.state(),
                record: r.record(),
                probe: r.probe(),
                verdict: r.verdict(),
            },
            cpus,
            http: r.address("http").unwrap_or_else(|| {
                r.mistakes.push("http cannot be off".into());
                SocketAddr::from(([127, 0, 0, 1], 0))
            }),
            grpc: r.address("grpc"),
            ops: r.address("ops"),
            tls: r.tls(),
            ports_file: r.optional("ports-file").map(PathBuf::from),
            default_model: r.optional("default-model"),
            max_connections: r.count("max-connections"),
            admin_token_file: r.optional("admin-token-file").map(PathBuf::from),
            allowed_hosts: r.names("allowed-hosts"),
            body_limit: usize::try_from(r.size("body-limit")).unwrap_or(usize::MAX),
            bodies_limit: usize::try_from(r.size("bodies-limit")).unwrap_or(usize::MAX),
            vertex: Vertex { predict: r.route("predict-route"), health: r.route("health-route") },
            drain_delay: r.duration("drain-delay", Duration::ZERO),
            grace_period: r.duration("grace-period", MOMENT),
            log: r.text("log"),
            log_format: r.one_of("log-format", &["auto", "pretty", "json"]),
        };
        let mistakes = reader.mistakes;
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }
}

/// Where programs keep what they can get again.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("onnxd"))
}

/// Where programs keep what they cannot get again. Each server has a folder of its own, by its address.
fn state_folder(http: SocketAddr) -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")))?;
    (http.port() != 0).then(|| state.join("onnxd").join(http.to_string()))
}

/// Reads values and remembers what is wrong with them.
struct Reader<'a> {
    raw: &'a Raw,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn probe(&mut self) -> Probe {
        let timeout = self.duration("probe-timeout", Duration::from_secs(1));
        let memory = if self.text("probe-memory") == "auto" { None } else { Some(self.size("probe-memory")) };
        Probe { executable: None, timeout, memory, room: Memory::new(self.memory_limit()) }
    }

    fn memory_limit(&mut self) -> Option<u64> {
        if self.text("memory-limit") == "auto" { None } else { Some(self.size("memory-limit")) }
    }

    fn providers(&mut self) -> Vec<Provider> {
        let names = Provider::ALL.map(Provider::name).join(", ");
        let wants = format!("names of {names} with commas between, the preferred first, each once, cpu last");
        self.parse("providers", &wants, |v| Provider::list(v).ok_or(()))
    }

    fn state(&mut self) -> Option<PathBuf> {
        match self.text("state").as_str() {
            "off" => None,
            // An address that cannot be read is told where it is used.
            "auto" => state_folder(self.text("http").parse().ok()?),
            address if address.contains("://") => {
                self.mistakes.push(format!("state is {address:?}: evidence is kept in a folder, of this server alone"));
                None
            }
            folder => Some(folder.into()),
        }
    }

    fn record(&mut self) -> Option<record::Options> {
        let sample = self.share("record-sample", 0.0);
        Some(record::Options { file: self.optional("record")?.into(), sample })
    }

    fn source(&mut self) -> source::Options {
        let (repository, origin) = &self.raw.0["repository"];
        if let (true, Origin::Platform(variable)) = (repository.starts_with("gs://"), origin) {
            self.mistakes.push(format!(
                "repository is {repository:?} ({variable}): Google Cloud Storage is not read: put the models into the image, \
                 copy them to a folder or to S3, and name that with ONNXD_REPOSITORY or as the argument of serve"
            ));
        }
        source::Options {
            repository: self.text("repository").into(),
            models: self.names("models"),
            s3_endpoint: self.optional("s3-endpoint"),
            cache: match self.text("cache").as_str() {
                "off" => None,
                "auto" => cache_folder(),
                folder => Some(folder.into()),
            },
            cache_bytes: self.size("cache-size"),
            model_bytes: self.size("model-limit"),
            require_signature: self.optional("require-signature").map(PathBuf::from),
        }
    }

    fn text(&self, name: &'static str) -> String {
        self.raw.0[name].0.clone()
    }

    fn optional(&self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|v| !v.is_empty())
    }

    fn names(&self, name: &'static str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect()
    }

    fn parse<T: Default, E>(&mut self, name: &'static str, wants: &str, parse: impl Fn(&str) -> Result<T, E>) -> T {
        let (value, origin) = &self.raw.0[name];
        parse(value).unwrap_or_else(|_| {
            self.mistakes.push(format!("{name} is {value:?} ({}): it must be {wants}", origin.name()));
            T::default()
        })
    }

    fn count(&mut self, name: &'static str) -> usize {
        self.parse(name, "a whole number above 0", |v| v.parse().ok().filter(|n| *n > 0).ok_or(()))
    }

    fn count_or(&mut self, name: &'static str, auto: usize) -> usize {
        if self.text(name) == "auto" { auto } else { self.count(name) }
    }

    fn share(&mut self, name: &'static str, least: f64) -> f64 {
        let wants = if least > 0.0 { "a number above 0 and at most 1" } else { "a number from 0 to 1" };
        self.parse(name, wants, |v| v.parse().ok().filter(|n| (least..=1.0).contains(n)).ok_or(()))
    }

    fn duration(&mut self, name: &'static str, least: Duration) -> Duration {
        let wants = format!("a duration such as 500ms, 10s or 2m, from {least:?} to 24h");
        self.parse(name, &wants, |v| {
            humantime::parse_duration(v).ok().filter(|d| (least..=LONGEST).contains(d)).ok_or(())
        })
    }

    fn size(&mut self, name: &'static str) -> u64 {
        self.parse(name, "a size above 0 such as 64KiB or 16MiB", |v| {
            v.parse::<bytesize::ByteSize>().ok().map(|s| s.as_u64()).filter(|s| *s > 0).ok_or(())
        })
    }

    fn one_of(&mut self, name: &'static str, choices: &[&str]) -> String {
        self.parse(name, &format!("one of {}", choices.join(", ")), |v| {
            choices.contains(&v).then(|| v.to_owned()).ok_or(())
        })
    }

    fn route(&mut self, name: &'static str) -> Option<String> {
        self.parse(name, "a path such as /v1/endpoints/1:predict", |v| match v {
            "" => Ok(None),
            _ if v.starts_with('/') && !v.contains(['?', '#', ' ']) => Ok(Some(v.to_owned())),
            _ => Err(()),
        })
    }

    fn address(&mut self, name: &'static str) -> Option<SocketAddr> {
        self.parse(name, "an address such as 127.0.0.1:8080, or off", |v| match v {
            "off" => Ok(None),
            _ => v.replacen("localhost", "127.0.0.1", 1).parse().map(Some),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Result<Raw, Vec<String>> {
        let find =
            |list: &[(&str, &str)], name: &str| list.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Raw::gather(|s| find(flags, s.name), |v| find(env, v), Some((Path::new("onnxd.toml"), file)))
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let raw = gather(
            &[("workers", "7")],
            &[("ONNXD_WORKERS", "6"), ("ONNXD_QUEUE_ROWS", "60")],
            "workers = 5\nqueue-rows = 50\nbody-limit = \"1MiB\"\n",
        )
        .expect("all are settings");
        let config = raw.resolve().expect("all are good");
        assert_eq!(config.engine.threads.workers, 7);
        assert_eq!(config.engine.queue.queue_rows, 60);
        assert_eq!(config.body_limit, 1 << 20);
        assert_eq!(config.drain_delay, Duration::from_secs(5));
        let printed = raw.print();
        for (setting, origin) in
            [("workers", "flag"), ("queue-rows", "environment"), ("body-limit", "file"), ("drain-delay", "default")]
        {
            let line = printed.lines().find(|l| l.starts_with(setting)).expect("every setting is printed");
            assert!(line.ends_with(&format!("# {origin}")), "{line}");
        }
        // What is printed can be put in a file again.
        let again = gather(&[], &[], &printed).expect("it is TOML").resolve().expect("it is good");
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let raw = gather(&[("workers", "0"), ("http", "off")], &[("ONNXD_SHADOW_CPU", "2")], "log-format = \"xml\"");
        let mistakes = raw.expect("all are settings").resolve().expect_err("four mistakes");
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(mistakes.iter().any(|m| m.contains("shadow-cpu") && m.contains("environment")));
    }

    #[test]
    fn an_unknown_key_of_the_file_is_a_mistake() {
        let mistakes = gather(&[], &[], "wrokers = 3").expect_err("no such setting");
        assert_eq!(mistakes, ["onnxd.toml: \"wrokers\" is not a setting"]);
    }
}
