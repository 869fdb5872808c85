//! The report for people.

use std::io::{Result, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::{ExternalFile, Level, Measured, Port, Report};
use crate::model::check::Invariance;
use crate::model::signature::Rows;

/// As wide as a terminal that nobody has widened; longer lines are left to it.
const WIDTH: u16 = 100;

/// Writes everything, what matters most last, where the eye is.
pub(super) fn report(out: &mut impl Write, report: &Report) -> Result<()> {
    writeln!(out, "{}: {} bytes, SHA-256 {}", report.file, grouped(report.bytes), report.sha256)?;
    if report.nodes > 0 {
        graph(out, report)?;
    }
    for finding in &report.findings {
        let level = match finding.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        writeln!(out, "\n{level:<8} {}\n  {}\n  -> {}", finding.kind, plain(&finding.what), finding.fix)?;
    }
    if let Some(measured) = &report.measured {
        writeln!(out)?;
        run(out, measured)?;
    }
    let count = |level| report.findings.iter().filter(|f| f.level == level).count();
    let verdict = match (report.served, &report.measured) {
        (true, Some(_)) => "would be served",
        (true, None) => "would be served as far as the graph tells: it was not run",
        (false, _) => "would be refused",
    };
    let (errors, warnings, notes) = (count(Level::Error), count(Level::Warning), count(Level::Note));
    writeln!(out, "\n{verdict} (errors: {errors}, warnings: {warnings}, notes: {notes})")
}

fn graph(out: &mut impl Write, report: &Report) -> Result<()> {
    let opsets: Vec<String> = report.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    let producer = if report.producer.is_empty() { "an unknown producer" } else { &report.producer };
    writeln!(out, "IR {} by {}, opsets {}", report.ir_version, plain(producer), plain(&opsets.join(", ")))?;
    if let Some(manifest) = &report.manifest {
        writeln!(out, "manifest.json: {}", plain(manifest))?;
    }
    writeln!(out)?;
    let mut table = table();
    table.set_header(["", "name", "type", "shape"]);
    for (what, ports) in [("input", &report.inputs), ("output", &report.outputs)] {
        for port in ports {
            table.add_row([what, &plain(&port.name), &port.dtype, &plain(&shape(port))]);
        }
    }
    lines(out, &table)?;
    if !report.features.names.is_empty() {
        let names = plain(&report.features.names.join(", "));
        writeln!(out, "features: {names} (from {})", report.features.from)?;
    }
    if !report.external_data.is_empty() {
        writeln!(out)?;
        external(out, &report.external_data)?;
    }
    let mut operators: Vec<_> = report.operators.iter().collect();
    operators.sort_by(|a, b| b.1.cmp(a.1));
    let operators: Vec<String> = operators.iter().map(|(op, count)| format!("{count} {op}")).collect();
    let nodes = if report.nodes == 1 { "node" } else { "nodes" };
    writeln!(out, "{} {nodes}: {}", grouped(report.nodes as u64), plain(&operators.join(", ")))?;
    if !report.functions.is_empty() {
        writeln!(out, "functions: {}", plain(&report.functions.join(", ")))?;
    }
    Ok(())
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table
}

/// Without the blanks that fill the last column.
fn lines(out: &mut impl Write, table: &Table) -> Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

fn external(out: &mut impl Write, files: &[ExternalFile]) -> Result<()> {
    let mut table = table();
    table.set_header(["weights in", "bytes", "used", "in the manifest"]);
    for file in files {
        let bytes = file.bytes.map_or_else(|| "not there".into(), grouped);
        let listed = if file.listed { "yes" } else { "no" };
        table.add_row([&plain(&file.path), &bytes, &grouped(file.used_bytes), listed]);
    }
    lines(out, &table)
}

fn shape(port: &Port) -> String {
    let shown = |dims: &Vec<Value>| {
        let dims: Vec<_> = dims.iter().map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_owned)).collect();
        format!("[{}]", dims.join(", "))
    };
    port.shape.as_ref().map_or_else(|| "not declared".into(), shown)
}

fn run(out: &mut impl Write, measured: &Measured) -> Result<()> {
    let Measured { onnxruntime, one_row_us, batch_rows, row_in_batch_us, max_batch, .. } = measured;
    writeln!(out, "run by ONNX Runtime {onnxruntime} on one thread of this machine:")?;
    writeln!(out, "  one row             {one_row_us:.1} us")?;
    if *batch_rows > 1 {
        writeln!(out, "  {batch_rows:>2} rows             {row_in_batch_us:.1} us a row")?;
    }
    let rows = match measured.invariance {
        Invariance::Exact => "are answered alike alone and in a batch, bit for bit",
        Invariance::Close => "are answered alike alone and in a batch, but for the last digits",
        Invariance::No if measured.rows == Rows::Whole => "none: each request is one run",
        Invariance::No => "of different requests are never run together",
    };
    writeln!(out, "  rows                {rows}")?;
    writeln!(out, "  most rows in a run  {max_batch}")?;
    if !measured.steady {
        writeln!(out, "  time                can depend on the values of a request")?;
    }
    Ok(())
}

/// What a file says must not move the cursor, make up lines or turn their direction.
pub(crate) fn plain(text: &str) -> String {
    let moves = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().flat_map(|c| if moves(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// With a comma every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_move_the_cursor_or_make_up_a_line() {
        assert_eq!(plain("a\u{1b}[2J\nwould be served"), "a\\u{1b}[2J\\nwould be served");
        assert_eq!(plain("2 \u{202e}1"), "2 \\u{202e}1");
        assert_eq!(plain("métrique"), "métrique");
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let numbers = [0, 999, 1000, 54_920, 1_234_567];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "54,920", "1,234,567"]);
    }
}
