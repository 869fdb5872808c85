//! The load generator by itself, against any server.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use onnxd::load::{
    self, Plan, Requests,
    http::Target,
    model::{Model, Protocol},
};

use crate::{
    bodies,
    report::{Figures, micros},
};

/// Requests that differ.
const TABLES: usize = 256;
/// Values of all of them together, at most.
const VALUES: usize = 4 << 20;

/// Sends requests and reports what came back.
///
/// Without --model, --rows and --protocol, rows of the anomaly model go to the path of --url. With one of them, rows are
/// made up for what the server says the model takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to: http://127.0.0.1:8080/predict. The path counts for rows of the anomaly model and for --body alone.
    #[arg(long)]
    url: String,
    /// The model to ask about and to send to.
    #[arg(long)]
    model: Option<String>,
    /// Rows of a request.
    #[arg(long)]
    rows: Option<usize>,
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Where gRPC goes; --url tells of the model.
    #[arg(long, required_if_eq("protocol", "grpc"))]
    grpc: Option<SocketAddr>,
    /// HTTP/2 connections that gRPC has for its streams, of which there are as many as --connections says.
    #[arg(long, default_value_t = 1)]
    channels: usize,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds.
    #[arg(long, default_value = "5", value_parser = crate::seconds)]
    duration: Duration,
    /// Requests a second, whatever the server does (open loop). Without it, as fast as they are answered.
    #[arg(long)]
    rate: Option<f64>,
    /// The JSON to send, instead of rows that differ.
    #[arg(long, conflicts_with_all = ["model", "rows", "protocol"])]
    body: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let plan = plan(&arguments)?;
    let rows = arguments.rows.unwrap_or(1);
    let figures = Figures::new(&load::run(&plan)?, None);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(());
    }
    println!("requests/s    {:.0}", figures.requests_per_second);
    if rows > 1 {
        println!("rows/s        {:.0}", figures.requests_per_second * rows as f64);
    }
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

fn plan(arguments: &Arguments) -> Result<Plan> {
    let target = Target::parse(&arguments.url)?;
    let Arguments { connections, duration, rate, .. } = *arguments;
    let is_plain = arguments.model.is_none() && arguments.rows.is_none() && arguments.protocol.is_none();
    let mut plan = match &arguments.body {
        Some(body) => Plan::new(target, Requests::json([body.clone()]), connections, duration),
        None if is_plain => {
            let plan = Plan::new(target, bodies::ordinary(), connections, duration);
            Plan { is_good: bodies::has_score, ..plan }
        }
        None => {
            let model = Model::ask(target.address, arguments.model.as_deref())?;
            let protocol = arguments.protocol.unwrap_or(Protocol::Json);
            let address = match protocol {
                Protocol::Grpc => arguments.grpc.context("--grpc is needed")?,
                _ => target.address,
            };
            let requests = requests(&model, protocol, arguments.rows.unwrap_or(1), arguments.channels)?;
            Plan::new(model.target(address, protocol), requests, connections, duration)
        }
    };
    plan.rate = rate;
    Ok(plan)
}

/// Requests of so many rows each: fewer that differ where they are large.
pub(crate) fn requests(model: &Model, protocol: Protocol, rows: usize, channels: usize) -> Result<Requests> {
    let mut width = 0;
    for input in &model.inputs {
        width += input.width()?;
    }
    let count = (VALUES / (rows * width).max(1)).clamp(1, TABLES);
    model.requests(protocol, &model.tables(count, rows.max(1), 1)?, channels)
}
