//! The `onnxd` program: arguments to configuration, log, server, exit code.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use onnxd::config::settings::Setting;
use onnxd::config::{self, Config, Raw};
use onnxd::{app, cli, inspect, probe, telemetry};

/// Linking mimalloc puts it in the place of the system's `malloc`, for ONNX Runtime as well: what models need between their
/// operators comes from it, and goes back when sessions come and go. `#[global_allocator]` would ask for every alignment, the
/// slow way.
#[used]
static ALLOCATOR: unsafe extern "C" fn(usize) -> *mut std::ffi::c_void = libmimalloc_sys::mi_malloc;

/// A mistake of the user, as for a wrong flag.
const USAGE: u8 = 2;
/// Someone else changed the same thing first.
const LOST: u8 = 3;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("inspect", matches)) => inspect(matches),
        Some(("probe", _)) => probe::child(std::io::stdin().lock(), std::io::stdout().lock()).map_err(|e| (1, vec![e])),
        Some((name, matches)) => other(name, matches),
        None => unreachable!("clap requires a subcommand"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, mistakes)) => {
            for mistake in mistakes {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(std::io::stderr(), "onnxd: {mistake}");
            }
            ExitCode::from(code)
        }
    }
}

fn command() -> Command {
    Command::new("onnxd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves ONNX models: a champion answers, a challenger is compared in the shadow, both are swapped while they serve")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(config::command())
        .subcommand(inspect::command())
        .subcommands(cli::commands())
        .subcommand(Command::new("probe").hide(true).about("Tries out one model; started by serve"))
}

fn serve(matches: &ArgMatches) -> Result<(), (u8, Vec<String>)> {
    let usage = |mistakes| (USAGE, mistakes);
    let raw = gather(matches).map_err(usage)?;
    let mut config: Config = raw.resolve().map_err(usage)?;
    if matches.get_flag("print-config") {
        return match std::io::stdout().write_all(raw.print().as_bytes()) {
            // The reader has seen enough, as `head` has.
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err((1, vec![e.to_string()])),
            _ => Ok(()),
        };
    }
    config.engine.probe.executable = Some(executable()?);
    telemetry::start(&config.log, &config.log_format).map_err(|e| (USAGE, vec![e]))?;
    app::run(config).map_err(|e| (1, vec![e]))
}

/// Code 1 without a message when the model would be refused: the report has told why.
fn inspect(matches: &ArgMatches) -> Result<(), (u8, Vec<String>)> {
    let served = inspect::run(matches, executable()?, &mut std::io::stdout().lock());
    if served.map_err(|e| (USAGE, vec![e]))? { Ok(()) } else { Err((1, vec![])) }
}

/// The commands beside `serve`.
fn other(name: &str, matches: &ArgMatches) -> Result<(), (u8, Vec<String>)> {
    let raw = gather(matches).map_err(|mistakes| (USAGE, mistakes))?;
    cli::run(name, matches, &raw, &executable()?, &mut std::io::stdout().lock()).map_err(|failure| match failure {
        cli::Failure::Usage(mistakes) => (USAGE, mistakes),
        cli::Failure::Lost(message) => (LOST, vec![message]),
        cli::Failure::Failed(message) => (1, vec![message]),
        cli::Failure::Answer(code) => (code, vec![]),
        cli::Failure::Unheard => (0, vec![]),
    })
}

/// This program's own file, which tries out models.
fn executable() -> Result<PathBuf, (u8, Vec<String>)> {
    let failed = |e| (1, vec![format!("cannot find this program's file, which tries out models: {e}")]);
    std::env::current_exe().map_err(failed)
}

fn gather(matches: &ArgMatches) -> Result<Raw, Vec<String>> {
    let flag = |setting: &Setting| {
        // Most commands take some of the settings only.
        if setting.is_switch() {
            let on = matches.try_get_one::<bool>(setting.name).ok().flatten().copied().unwrap_or(false);
            on.then(|| "true".to_owned())
        } else {
            matches.try_get_one::<String>(setting.name).ok().flatten().cloned()
        }
    };
    let named = matches.get_one::<String>("config").map(Path::new);
    let path = named.unwrap_or(Path::new("onnxd.toml"));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(e) if named.is_none() && e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(vec![format!("{}: {e}", path.display())]),
    };
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let variable = |name: &str| std::env::var(name).ok();
    Raw::gather(flag, variable, text.as_deref().map(|text| (path, text)))
}
