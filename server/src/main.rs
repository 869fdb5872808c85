//! The `onnxd` program: arguments to configuration, log, server, exit code.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use onnxd::config::settings::Setting;
use onnxd::config::{self, Config, Raw};
use onnxd::{app, probe, telemetry};

/// Sessions come and go with each swap; this allocator gives their memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake of the user, as for a wrong flag.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let result = match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("probe", _)) => probe::child(std::io::stdin().lock(), std::io::stdout().lock()).map_err(|e| (1, vec![e])),
        _ => unreachable!("clap requires one of the subcommands above"),
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
        .subcommand(Command::new("probe").hide(true).about("Tries out one model; started by serve"))
}

fn serve(matches: &ArgMatches) -> Result<(), (u8, Vec<String>)> {
    let usage = |mistakes| (USAGE, mistakes);
    let raw = gather(matches).map_err(usage)?;
    let mut config: Config = raw.resolve().map_err(usage)?;
    if matches.get_flag("print-config") {
        return std::io::stdout().write_all(raw.print().as_bytes()).map_err(|e| (1, vec![e.to_string()]));
    }
    let executable = std::env::current_exe();
    let executable =
        executable.map_err(|e| (1, vec![format!("cannot find this program's file, which tries out models: {e}")]))?;
    config.engine.probe.executable = Some(executable);
    telemetry::start(&config.log, &config.log_format).map_err(|e| (USAGE, vec![e]))?;
    app::run(config).map_err(|e| (1, vec![e]))
}

fn gather(matches: &ArgMatches) -> Result<Raw, Vec<String>> {
    let flag = |setting: &Setting| {
        if setting.is_switch() {
            matches.get_flag(setting.name).then(|| "true".to_owned())
        } else {
            matches.get_one::<String>(setting.name).cloned()
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
