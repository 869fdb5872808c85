//! `onnxd ready`: whether the server that these settings start takes traffic; for containers, which have no shell or curl.

use std::io::Write;

use clap::{Arg, Command};

use super::Failure;
use crate::config::{self, Raw};
use crate::inspect::plain;
use crate::peers;

pub(super) fn command() -> Command {
    let command = Command::new("ready")
        .about("Says whether the server on this machine takes traffic")
        .long_about(
            "Asks /readyz of the server on this machine, on its operations port or, where that is off, on its data port. It is \
             found by the same flags, environment and onnxd.toml that the server was started with.\n\n\
             Exit code: 0 it takes traffic, 1 it does not or cannot be reached, 2 a mistake in the command line.",
        )
        .after_long_help(
            "Examples:\n  onnxd ready\n  ONNXD_OPS=127.0.0.1:9082 onnxd ready\n  \
             HEALTHCHECK CMD [\"/opt/onnxd/onnxd\", \"ready\"]      # in a Containerfile",
        );
    let file = Arg::new("config").long("config").value_name("FILE");
    config::with_settings(command, &["http", "ops"])
        .arg(file.help("Settings in TOML [default: ./onnxd.toml if it exists]"))
}

pub(super) fn run(raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    let address = raw.readiness().map_err(Failure::Usage)?;
    let said = peers::ask_here(address, "/readyz").map_err(Failure::Failed)?;
    Ok(writeln!(out, "{}", plain(String::from_utf8_lossy(&said).trim()))?)
}
