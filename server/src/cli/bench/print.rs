//! The report for people.

use std::io::Write;

use comfy_table::{CellAlignment, Table};

use super::super::{Failure, say, table};
use crate::bench::alone::{Alone, Cell};
use crate::bench::knee::Verdict;
use crate::bench::picture::bar;
use crate::bench::served::{Served, Step};
use crate::bench::{Report, number, several, time};
use crate::model::providers::listed;

/// Characters of the longest bar.
const BAR: u32 = 24;

/// Writes everything.
pub(super) fn report(report: &Report, out: &mut dyn Write) -> Result<(), Failure> {
    let Report { model, machine, rows, .. } = report;
    let sha = model.sha256.get(..12).unwrap_or(&model.sha256);
    let on = match machine.providers.as_slice() {
        [_] => String::new(),
        several => format!(" on {}", listed(several)),
    };
    say(
        out,
        &format!(
            "{} version {} ({sha}), ONNX Runtime {}{on}, {}",
            model.name,
            model.version,
            machine.onnxruntime,
            several(machine.cpus, "CPU")
        ),
    )?;
    say(out, &format!("rows: {}; p99 to keep: {}", rows.from, time(report.latency_us)))?;
    for warning in &report.warnings {
        say(out, &format!("warning: {warning}"))?;
    }
    if report.interrupted {
        say(out, "ended early: fewer rounds than planned")?;
    }
    if let Some(alone) = &report.alone {
        writeln!(out)?;
        print_alone(alone, out)?;
    }
    if let Some(served) = &report.served {
        writeln!(out)?;
        print_served(served, report.latency_us, out)?;
    }
    Ok(())
}

fn print_alone(alone: &Alone, out: &mut dyn Write) -> Result<(), Failure> {
    say(out, "The model alone")?;
    let most = alone.cells.iter().map(|cell| cell.rows_per_second).fold(0.0, f64::max);
    let head = ["threads", "rows in a run", "rows/s", "a run", ""];
    let line = |cell: &Cell| {
        vec![
            cell.workers.to_string(),
            cell.batch.to_string(),
            number(cell.rows_per_second),
            time(cell.run_us),
            bar(cell.rows_per_second / most, BAR),
        ]
    };
    lines(table(&head, alone.cells.iter().map(line)), head.len() - 1, out)?;
    if let Some(batch) = alone.too_long {
        say(out, &format!("runs of {batch} rows and more were too long to be measured"))?;
    }
    writeln!(out)?;
    let (best, server) = (&alone.best, &alone.server);
    say(
        out,
        &format!(
            "best      {} in a run on {}: {} rows/s, a run takes {}",
            several(best.batch, "row"),
            several(best.workers, "worker"),
            number(best.rows_per_second),
            time(best.run_us)
        ),
    )?;
    let shares = if server.batches {
        format!("at most {} in a run on {}", several(server.max_batch, "row"), several(server.workers, "worker"))
    } else {
        format!("a request in a run on {}", several(server.workers, "worker"))
    };
    let inline = match server.inline_rows {
        0 => String::new(),
        rows => {
            format!("; up to {} where the request is, by --http-threads {}", several(rows, "row"), server.http_threads)
        }
    };
    say(out, &format!("onnxd     {shares}{inline}"))?;
    if alone.advice.is_empty() {
        return say(out, "nothing to change");
    }
    for advice in &alone.advice {
        let how = if advice.setting.starts_with("--") {
            format!("onnxd serve {} {}", advice.setting, advice.value)
        } else {
            format!("{} = {} in the manifest.json of a new version", advice.setting, advice.value)
        };
        say(out, &format!("change    {how}: {}", advice.why))?;
    }
    Ok(())
}

fn print_served(served: &Served, latency_us: f64, out: &mut dyn Write) -> Result<(), Failure> {
    let server = if served.own { "onnxd serve" } else { &served.url };
    let rows = match served.rows_per_request {
        1 => "a row".to_owned(),
        rows => format!("{rows} rows"),
    };
    let latency = time(latency_us);
    say(out, &format!("Served by {server}: {rows} a request, {}", several(served.connections, "connection")))?;
    let head = ["requests/s", "answered/s", "p50", "p99", "p99.9", "errors", ""];
    let steps = served.counted();
    let least = steps.iter().map(|step| step.p99_us).fold(latency_us, f64::min) / 2.0;
    let most = steps.iter().map(|step| step.p99_us).filter(|p99| p99.is_finite()).fold(latency_us, f64::max);
    let line = |step: &Step| {
        // On a logarithmic scale: the last steps take hundreds of times as long as the first ones.
        let length = bar((step.p99_us / least).ln() / (most / least).ln(), BAR);
        let told = match (step.rate, step.verdict) {
            (None, Verdict::Errors) => step.error_kinds.clone(),
            (None, _) => String::new(),
            (_, Verdict::Kept) => length,
            (_, Verdict::Slow) => format!("{length} too slow"),
            (_, Verdict::Late) => format!("{length} left late"),
            (_, Verdict::NotReached) => format!("{length} fewer answered than came"),
            (_, Verdict::Errors) => format!("{length} {}", step.error_kinds),
        };
        vec![
            step.rate.map_or_else(|| "max".into(), number),
            number(step.answered_per_second),
            time(step.p50_us),
            time(step.p99_us),
            time(step.p999_us),
            step.errors.to_string(),
            told,
        ]
    };
    let all = steps.into_iter().chain([&served.closed]);
    lines(table(&head, all.map(line)), head.len() - 1, out)?;
    writeln!(out)?;
    match served.at_knee() {
        Some(step) => {
            let rate = step.rate.unwrap_or(step.answered_per_second);
            #[expect(clippy::cast_precision_loss, reason = "at most 65,535")]
            let rows = match served.rows_per_request {
                1 => String::new(),
                rows => format!(" ({} rows/s)", number(rate * rows as f64)),
            };
            let cpus = step.server_cpus.map(|cpus| format!(", on {} CPUs", number(cpus))).unwrap_or_default();
            let (rate, p99) = (number(rate), time(step.p99_us));
            say(out, &format!("knee      {rate} requests/s{rows} at a p99 of {p99}{cpus}"))?;
        }
        None => {
            let least = served.steps.iter().filter_map(|step| step.rate).fold(f64::INFINITY, f64::min);
            say(
                out,
                &format!(
                    "knee      none: not even {} requests/s keep a p99 of {latency}: look at errors and p50 above, or allow more with \
                     --latency",
                    number(least)
                ),
            )?;
        }
    }
    served.warnings.iter().try_for_each(|warning| say(out, &format!("note      {warning}")))
}

/// Writes a table whose first columns are numbers.
fn lines(mut table: Table, numbers: usize, out: &mut dyn Write) -> Result<(), Failure> {
    for column in 0..numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().try_for_each(|line| say(out, line.trim_end()))
}
