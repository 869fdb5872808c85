//! The log: structured, on standard error, one line an event.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log. `format` is `pretty`, `json` or `auto` (pretty on a terminal).
///
/// # Errors
/// When the filter cannot be understood, or a log was started before.
pub fn start(filter: &str, format: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log is {filter:?}: {e}"))?;
    let terminal = std::io::stderr().is_terminal();
    let pretty = format == "pretty" || format == "auto" && terminal;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(terminal);
    let started = if pretty { builder.compact().try_init() } else { builder.json().flatten_event(true).try_init() };
    started.map_err(|e| e.to_string())
}
