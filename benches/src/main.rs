//! What onnxd is measured with: the floor, a load generator, and the comparisons whose reports are kept in `runs/`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool: results and progress")]

mod bodies;
mod bucket;
mod compare;
mod echo;
mod forward;
mod histogram;
mod http;
mod load;
mod pacer;
mod promotion;
mod report;
mod s3;
mod server;
mod shadow;
mod statistics;
mod svg;
mod watch;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;

use crate::{
    load::Plan,
    report::{Figures, micros},
    server::Ports,
};

/// Measures onnxd.
#[derive(Parser)]
enum Command {
    Echo(Echo),
    Load(Load),
    Compare(compare::Arguments),
    Shadow(shadow::Arguments),
    Promotion(promotion::Arguments),
    S3(s3::Arguments),
    Statistics(statistics::Arguments),
}

/// The floor: serves /predict with a fixed answer and no model.
#[derive(clap::Args)]
struct Echo {
    #[arg(long, default_value = "127.0.0.1:0")]
    addr: SocketAddr,
    /// Async threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The bound address is written to it as JSON.
    #[arg(long)]
    ports_file: Option<PathBuf>,
}

/// Sends requests and reports what came back.
#[derive(clap::Args)]
struct Load {
    /// Where to: http://127.0.0.1:8080/predict.
    #[arg(long)]
    url: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    duration: Duration,
    /// Requests a second, whatever the server does (open loop). Without it, as fast as they are answered.
    #[arg(long)]
    rate: Option<f64>,
    /// The body to send, instead of rows that differ.
    #[arg(long)]
    body: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Echo(arguments) => echo::serve(arguments.addr, arguments.threads, |address| {
            println!("http://{address}/predict");
            let ports = serde_json::to_vec(&Ports { http: address, ops: None })?;
            arguments.ports_file.map_or(Ok(()), |file| Ok(fs::write(file, ports)?))
        }),
        Command::Load(arguments) => load(arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Shadow(arguments) => shadow::run(&arguments),
        Command::Promotion(arguments) => promotion::run(&arguments),
        Command::S3(arguments) => s3::run(&arguments),
        Command::Statistics(arguments) => statistics::run(&arguments),
    }
}

fn load(arguments: Load) -> Result<()> {
    let plan = Plan {
        target: http::Target::parse(&arguments.url)?,
        bodies: arguments.body.map_or_else(bodies::ordinary, |body| vec![body]),
        connections: arguments.connections,
        duration: arguments.duration,
        rate: arguments.rate,
        watch: None,
    };
    let figures = Figures::new(&load::run(&plan)?, None);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(());
    }
    println!("requests/s    {:.0}", figures.requests_per_second);
    println!("p50           {}", micros(figures.p50_us));
    println!("p99           {}", micros(figures.p99_us));
    println!("p999          {}", micros(figures.p999_us));
    if figures.sent_late_p50_us.is_some() {
        println!("from sent p99 {}", micros(figures.from_sent_p99_us));
        println!("sent late p50 {}", micros(figures.sent_late_p50_us));
        println!("sent late p99 {}", micros(figures.sent_late_p99_us));
    }
    for (status, count) in &figures.statuses {
        println!("status {status}    {count}");
    }
    println!("broken        {}", figures.broken);
    println!("wrong bodies  {}", figures.wrong_bodies);
    println!("unanswered    {}", figures.unanswered);
    Ok(())
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
