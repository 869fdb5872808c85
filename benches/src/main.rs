//! What onnxd is measured with: the floors, a load generator, and the measurements whose reports are kept in `runs/`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool: results and progress")]

mod bare;
mod bucket;
mod echo;
mod forward;
mod instructions;
mod least;
mod load;
mod peers;
mod promotion;
mod reach;
mod report;
mod s3;
mod server;
mod shadow;
mod statistics;
mod svg;
mod work;

use std::time::Duration;

use anyhow::Result;
use benches::{bodies, pairs, parse, prepared, repository};
use clap::Parser;

/// The same as the server's, so that its floors have no other.
#[used]
static ALLOCATOR: unsafe extern "C" fn(usize) -> *mut std::ffi::c_void = libmimalloc_sys::mi_malloc;

/// Measures onnxd.
#[derive(Parser)]
enum Command {
    Reach(reach::Arguments),
    Shadow(shadow::Arguments),
    Peers(peers::Arguments),
    Promotion(promotion::Arguments),
    S3(s3::Arguments),
    Statistics(statistics::Arguments),
    Instructions(instructions::Arguments),
    #[command(hide = true)]
    Work(work::Arguments),
    Bare(bare::Arguments),
    Echo(echo::Arguments),
    Least(least::Arguments),
    Load(load::Arguments),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Reach(arguments) => reach::run(arguments),
        Command::Shadow(arguments) => shadow::run(&arguments),
        Command::Peers(arguments) => peers::run(&arguments),
        Command::Promotion(arguments) => promotion::run(&arguments),
        Command::S3(arguments) => s3::run(&arguments),
        Command::Statistics(arguments) => statistics::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::Work(arguments) => work::run(&arguments),
        Command::Bare(arguments) => bare::run(&arguments),
        Command::Echo(arguments) => echo::run(&arguments),
        Command::Least(arguments) => least::run(&arguments),
        Command::Load(arguments) => load::run(arguments),
    }
}

/// A duration as typed: a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// One line to whoever waits.
fn progress(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }
}
