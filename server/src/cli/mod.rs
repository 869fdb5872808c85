//! The commands beside `serve`: what they take, what they print, how they end.

mod bench;
mod change;
mod judged;
mod ready;
mod replay;
mod status;
mod verdict;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, ArgAction, ArgMatches, Command};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use indicatif::ProgressDrawTarget;
use serde::Serialize;
use serde_json::Value;

use crate::config::{self, Raw};
use crate::inspect::plain;
use crate::promotion::{self, Author, ChangeError};
use crate::shutdown::Signals;
use crate::source::{Options, Source};

/// How a command ends when it does not do what it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// A mistake in the command line or the settings; exit code 2.
    Usage(Vec<String>),
    /// Someone else changed the same thing first; exit code 3.
    Lost(String),
    /// It was refused or failed; exit code 1.
    Failed(String),
    /// It did what it was asked for, and this exit code is a part of its answer.
    Answer(u8),
    /// Whoever reads the output has seen enough, as `head` has; no failure to those who called.
    Unheard,
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Lost(message) => Self::Lost(message),
            ChangeError::Refused(message) | ChangeError::Failed(message) => Self::Failed(message),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Unheard } else { Self::Failed(error.to_string()) }
    }
}

/// The commands of this module.
pub fn commands() -> impl Iterator<Item = Command> {
    let change =
        [change::push_command(), change::promote_command(), change::rollback_command(), change::withdraw_command()];
    let others = [status::command(), verdict::command(), replay::command(), bench::command(), ready::command()];
    change.into_iter().chain(others)
}

/// Runs one of [`commands`]. `out` takes what is asked for, `progress` (a terminal, as a rule) what happens meanwhile.
///
/// # Errors
/// See [`Failure`].
pub fn run(name: &str, matches: &ArgMatches, raw: &Raw, executable: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let result = match name {
        "push" => change::push(matches, raw, executable, out),
        "promote" => change::promote(matches, raw, out),
        "rollback" => change::roll_back(matches, raw, out),
        "withdraw" => change::withdraw(matches, raw, out),
        "status" => status::run(matches, raw, out),
        "verdict" => verdict::run(matches, raw, out),
        "replay" => replay::run(matches, raw, executable, out),
        "bench" => bench::run(matches, raw, executable, out),
        "ready" => ready::run(raw, out),
        other => Err(Failure::Usage(vec![format!("there is no command {other}")])),
    };
    match result {
        Err(Failure::Unheard) => Ok(()),
        Err(Failure::Lost(message)) => Err(Failure::Lost(plain(&message))),
        Err(Failure::Failed(message)) => Err(Failure::Failed(plain(&message))),
        result => result,
    }
}

/// The settings that say where a repository is.
const REPOSITORY: &[&str] = &["repository", "s3-endpoint", "require-signature"];

fn with_repository(command: Command, more: &[&str]) -> Command {
    let names: Vec<&str> = REPOSITORY.iter().chain(more).copied().collect();
    let command = config::with_settings(command, &names);
    command
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("Settings in TOML [default: ./onnxd.toml if it exists]"),
        )
        .arg(
            Arg::new("model")
                .long("model")
                .value_name("NAME")
                .help("The model. Not needed when the repository holds one"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Prints JSON in place of text"))
}

fn with_author(command: Command) -> Command {
    command
        .arg(
            Arg::new("by").long("by").value_name("WHO").help("Who changes it, for the ledger [default: USER@HOSTNAME]"),
        )
        .arg(Arg::new("reason").long("reason").value_name("WHY").default_value("").help("Why, for the ledger"))
        .arg(
            Arg::new("dry-run")
                .long("dry-run")
                .action(ArgAction::SetTrue)
                .help("Checks everything, shows what would be changed, and writes nothing"),
        )
}

/// Opens a repository to look at it, or to change it too.
fn open(options: &Options, changes: bool) -> Result<Source, Failure> {
    let shown = options.repository.display();
    if !options.repository.to_string_lossy().contains("://") {
        match std::fs::metadata(&options.repository) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let message = format!(
                    "there is no repository {shown}: make a new one with `mkdir {shown}`, or name another with --repository"
                );
                return Err(Failure::Failed(message));
            }
            Ok(kind) if kind.is_file() && changes => {
                let message = format!(
                    "{shown} is one model file, not a repository: name a folder or s3://bucket/prefix with --repository"
                );
                return Err(Failure::Failed(message));
            }
            // What else is wrong with it is told when it is opened.
            _ => {}
        }
    }
    Source::open(options).map_err(Failure::Failed)
}

/// The model that was named, or the only one there is.
fn model(matches: &ArgMatches, source: &Source) -> Result<String, Failure> {
    if let Some(name) = matches.get_one::<String>("model") {
        return Ok(name.clone());
    }
    let names = source.names().map_err(Failure::Failed)?;
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(Failure::Usage(vec!["the repository holds no model yet: name one with --model".into()])),
        several => Err(Failure::Usage(vec![format!("name one with --model: {}", several.join(", "))])),
    }
}

fn author(matches: &ArgMatches) -> Author {
    let by = matches.get_one::<String>("by").cloned().unwrap_or_else(whoami);
    let reason = matches.get_one::<String>("reason").cloned().unwrap_or_default();
    Author { by, reason, evidence: Value::Null }
}

fn whoami() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(std::env::var_os).filter(|user| !user.is_empty());
    let user = user.map_or_else(|| "unknown".into(), |user| user.to_string_lossy().into_owned());
    format!("{user}@{}", promotion::host())
}

fn print_json(value: &impl Serialize, out: &mut dyn Write) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(std::io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Writes a line whose texts come from a repository.
fn say(out: &mut dyn Write, line: &str) -> Result<(), Failure> {
    Ok(writeln!(out, "{}", plain(line))?)
}

/// A table without lines, so that other programs can cut it.
fn table<'a>(head: &[&str], rows: impl Iterator<Item = Vec<String>> + 'a) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head.to_vec());
    rows.for_each(|row| {
        table.add_row(row.iter().map(|cell| plain(cell)));
    });
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// Set by Ctrl-C or SIGTERM, which end long work early; what was seen until then is told.
fn interrupted() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    if let Ok(runtime) = runtime {
        // It waits for as long as the program runs.
        let wait = async move {
            if let Ok(mut signals) = Signals::listen() {
                signals.next().await;
                flag.store(true, Ordering::Relaxed);
            }
        };
        // Without the thread, a signal ends the program.
        drop(std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(wait)));
    }
    stop
}

/// Where the progress of long work is shown: on a terminal only.
fn progress_target() -> ProgressDrawTarget {
    if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}
