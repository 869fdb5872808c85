//! The `collector` program: arguments to settings, log, ticks, exit code.
//!
//! It reads CPU, memory and disk I/O of pods and nodes from Prometheus, computes how far each is from what is normal for it, asks
//! onnxd about all of them in one request a minute, and shows the answers as gauges. What was measured later judges the forecasts;
//! all rows are kept as Parquet for training.
//!
//! It keeps no state on disk, trains nothing, alerts nobody and changes nothing in the cluster: Prometheus, the training, the
//! Alertmanager and the operator do.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use collector::settings::{Cli, Command, Common};
use collector::sources::Sources;
use collector::{app, telemetry};

/// A mistake of the user, as for a wrong flag.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(run) => match Sources::load(run.sources.as_deref()) {
            Err(mistake) => Err((USAGE, vec![mistake])),
            Ok((text, _)) if run.print_config => print(&text),
            Ok((_, sources)) => start(&run.common, app::run(&run, sources)),
        },
        Command::Replay(replay) => match start(&replay.common, app::replay(&replay)) {
            Err(failure) => Err(failure),
            Ok((summary, result)) => print(&summary).and(result.map_err(|mistake| (1, vec![mistake]))),
        },
    };
    let Err((code, mistakes)) = result else { return ExitCode::SUCCESS };
    for mistake in mistakes {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "collector: {mistake}");
    }
    ExitCode::from(code)
}

type Failure = (u8, Vec<String>);

fn start<T>(common: &Common, work: impl Future<Output = Result<T, String>>) -> Result<T, Failure> {
    let mistakes = common.mistakes();
    if !mistakes.is_empty() {
        return Err((USAGE, mistakes));
    }
    telemetry::start(&common.log, &common.log_format).map_err(|mistake| (USAGE, vec![mistake]))?;
    let failed = |mistake: String| (1, vec![mistake]);
    // Both TLS clients use the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One computes or waits, the other answers on the operations port.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|e| failed(e.to_string()))?.block_on(work).map_err(failed)
}

fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough, as `head` has.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err((1, vec![e.to_string()])),
        _ => Ok(()),
    }
}
