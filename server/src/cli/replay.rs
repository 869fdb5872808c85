//! `onnxd replay`: what the verdict on challengers would have been on recorded requests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Failure, interrupted, judged, model, open, print_json, progress_target, say, with_repository};
use crate::codec::marks::{SERIES, TIME};
use crate::config::Raw;
use crate::config::verdict::RULE;
use crate::judge::Judged;
use crate::model::runtime::Runtime;
use crate::replay::input::{Format, Input};
use crate::replay::load::{Loader, Models};
use crate::replay::report::{Judge, Read, Report};
use crate::replay::rows::{Batch, Names};
use crate::replay::{Replay, load};
use crate::shadow::state::Compared;
use crate::text::listed;
use crate::verdict::rule::{Decision, Verdict};
use crate::verdict::state::{Source, hash};

/// How often the bar is drawn anew.
const REDRAW: Duration = Duration::from_millis(100);

pub(super) fn command() -> Command {
    let value =
        |name: &'static str, of: &'static str, help: &'static str| Arg::new(name).long(name).value_name(of).help(help);
    let command = Command::new("replay")
        .about("Scores recorded requests or a table with champion and challengers, and tells the verdict")
        .long_about(
            "Scores recorded requests or a table with champion and challengers, and tells the verdict that servers would have \
             come to. The models run in this process, in the same way as in a server; nothing is changed.\n\n\
             A row holds the model's features by name, `ts` (seconds of Unix time, or RFC 3339), and where they are known \
             `series` (what was measured, such as a pod), the actual value that the forecast is of (such as cpu_percent), by \
             which it is labelled, and `anomaly` (whether there was one). Other columns are ignored. Rows are in the order of \
             time, of any number: the file is read as it goes.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd replay requests.ndjson --repository s3://bucket/models\n  \
             onnxd replay august.parquet --challenger 3,4 --time-column timestamp --series-column pod\n  \
             zcat requests.ndjson.gz | onnxd replay - --champion-file a.onnx --challenger-file b.onnx --json\n\n\
             Exit code: 0 whatever the verdict is; --json tells it to programs.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("NDJSON, CSV or Parquet; .gz and .zst of the first two; - is NDJSON from standard input"))
        .arg(value("format", "FORMAT", "What it is, where its name does not tell").value_parser(Format::NAMES))
        .arg(value("champion", "VERSION", "The champion [default: that of aliases.json]"))
        .arg(value("challenger", "VERSION[,..]", "The challengers [default: those of aliases.json]").value_delimiter(','))
        .arg(value("champion-file", "FILE", "A model file as champion, in the place of a repository").requires("challenger-file"))
        .arg(
            value("challenger-file", "FILE[,..]", "Model files as challengers")
                .value_delimiter(',')
                .requires("champion-file")
                .conflicts_with_all(["challenger", "champion", "model"]),
        )
        .arg(value("series-column", "NAME", "The column of what was measured").default_value(SERIES))
        .arg(value("time-column", "NAME", "The column of the time").default_value(TIME))
        .arg(value("label-column", "NAME", "The column of whether there was an anomaly").default_value("anomaly"))
        .arg(
            value("label-source", "SOURCE", "Who says so")
                .value_parser(Source::LABELS.map(Source::name))
                .default_value("incident"),
        )
        .arg(value("save", "FILE", "Writes what was counted, as servers tell it, to this file"));
    let settings = [&["onnxruntime", "providers", "probe-timeout", "probe-memory", "model-limit"], RULE].concat();
    with_repository(command, &settings)
}

pub(super) fn run(matches: &ArgMatches, raw: &Raw, executable: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let path = matches.get_one::<String>("file").map(PathBuf::from).unwrap_or_default();
    let (models, mut told) = models(matches, raw, executable)?;
    let text = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let names = Names { series: text("series-column"), time: text("time-column"), label: text("label-column") };
    let mut judge = Judge::new(raw.verdict().map_err(Failure::Usage)?, models.challengers.len());
    let mut replay = Replay::new(models, format!("replay of {}", path.display()));
    replay.truth = source(&text("label-source"));
    let plan = replay.plan(names);
    let format = matches.get_one::<String>("format").and_then(|name| Format::named(name));
    let mut input = Input::open(&path, format, &plan).map_err(Failure::Failed)?;
    let mut batch = Batch::new();
    if !input.names_series {
        // A table without that column is of one thing.
        batch.unnamed = hash(b"");
    }
    let bar = bar(input.bytes);
    // Whoever waits for standard input would not see it.
    let stop = if input.bytes.is_some() { interrupted() } else { Arc::default() };
    let start = Instant::now();
    let mut drawn = start;
    let done = replay.run(&mut input, &plan, &mut batch, |replay, input| {
        judge.look(replay);
        if drawn.elapsed() > REDRAW {
            drawn = Instant::now();
            bar.set_position(input.done());
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            bar.set_message(format!("{:.0} rows/s", replay.rows as f64 / start.elapsed().as_secs_f64()));
        }
        !stop.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    done.map_err(Failure::Failed)?;
    if replay.rows == 0 {
        return Err(Failure::Failed(format!("{}: there are no rows", input.name)));
    }
    let read = Read {
        file: input.name.clone(),
        rows: replay.rows,
        unanswered: replay.unanswered,
        actuals: replay.actuals,
        truths: replay.truths,
        seconds: start.elapsed().as_secs_f64(),
        interrupted: stop.load(Ordering::Relaxed),
        warnings: {
            told.extend(warnings(&replay, &input));
            told
        },
    };
    let report = judge.report(&replay, read).map_err(Failure::Failed)?;
    if let Some(path) = matches.get_one::<String>("save") {
        let json = serde_json::to_vec_pretty(&report.shadow).map_err(std::io::Error::from)?;
        std::fs::write(path, json).map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
    }
    if matches.get_flag("json") { print_json(&report, out) } else { print(&report, out) }
}

fn source(name: &str) -> Source {
    Source::LABELS.into_iter().find(|source| source.name() == name).unwrap_or(Source::Incident)
}

/// The models, and why they do not run on what was asked for.
fn models(matches: &ArgMatches, raw: &Raw, executable: &Path) -> Result<(Models, Vec<String>), Failure> {
    let (onnxruntime, providers, mut probe) = raw.probe().map_err(Failure::Usage)?;
    probe.executable = Some(executable.into());
    let options = raw.source().map_err(Failure::Usage)?;
    let several = |name: &str| -> Vec<String> { matches.get_many(name).into_iter().flatten().cloned().collect() };
    let loader = || {
        let runtime = Runtime::load(onnxruntime.as_deref()).map_err(Failure::Failed)?.with_providers(&providers);
        Ok::<_, Failure>(load::Loader { runtime, probe })
    };
    let told = |loader: &Loader, models| (models, loader.runtime.providers().shown().warnings().collect());
    if let Some(champion) = matches.get_one::<String>("champion-file") {
        let challengers: Vec<PathBuf> = several("challenger-file").into_iter().map(PathBuf::from).collect();
        let loader = loader()?;
        let models = loader.files(Path::new(champion), &challengers).map_err(Failure::Failed)?;
        return Ok(told(&loader, models));
    }
    let source = open(&options, false)?;
    let name = model(matches, &source)?;
    let champion = matches.get_one::<String>("champion").map(String::as_str);
    let loader: Loader = loader()?;
    let models = loader.versions(&source, &name, champion, &several("challenger")).map_err(Failure::Failed)?;
    Ok(told(&loader, models))
}

/// Of bytes, or of rows where the bytes are not known; on a terminal only.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} {msg} ETA {eta}",
        None => "{bytes} {msg}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(bytes, progress_target()).with_style(style)
}

fn warnings(replay: &Replay, input: &Input) -> Vec<String> {
    let mut warnings = vec![];
    let unknown = input.unknown();
    if !unknown.is_empty() {
        warnings.push(format!("not used: {}", listed(unknown)));
    }
    if !input.names_series {
        warnings.push(
            "all rows are taken as of one series: name the column of what was measured with --series-column".into(),
        );
    }
    if let (Some(target), 0) = (replay.target(), replay.actuals) {
        warnings.push(format!("the forecast is not labelled: no row has {target}, the actual value that it is of"));
    }
    if replay.late > 0 {
        let late = replay.late;
        warnings.push(format!(
            "{late} rows are older than some before them: sort the file by time, or labels may miss them"
        ));
    }
    if replay.unanswered > 0 {
        warnings.push(format!("the champion did not answer {} rows, which are not compared", replay.unanswered));
    }
    warnings
}

fn print(report: &Report, out: &mut dyn Write) -> Result<(), Failure> {
    let read = &report.replay;
    let early = if read.interrupted { ", ended early" } else { "" };
    say(out, &format!("{}: {} rows in {:.1} s{early}", read.file, read.rows, read.seconds))?;
    for warning in &read.warnings {
        say(out, &format!("warning: {warning}"))?;
    }
    let sha = |sha: &str| sha.get(..12).unwrap_or(sha).to_owned();
    let judgement = &report.judgement;
    let champion = &judgement.champion;
    say(out, &format!("{} champion {} ({})", judgement.model, champion.version, sha(&champion.sha256)))?;
    for (index, judged) in judgement.verdicts.iter().enumerate() {
        let (Judged { role, version, verdict, .. }, first) = (judged, report.first.get(index).copied().flatten());
        let Some(seen) = report.shadow.challengers.get(index) else { continue };
        let decision = word(verdict.decision);
        writeln!(out)?;
        say(out, &format!("{role} {} ({}): {decision}", version.version, sha(&version.sha256)))?;
        for reason in &verdict.reasons {
            say(out, &format!("  {reason}"))?;
        }
        if let Some(first) = first {
            let (what, at) = (word(first.decision), rfc3339(first.at));
            say(out, &format!("  first decided after {:.1} h, at {at}: {what}", first.hours))?;
        }
        judged::print_conditions(&verdict.conditions, out)?;
        for missing in &verdict.estimate {
            say(out, &format!("  {}: {}", judged::label(missing.condition), missing.text))?;
        }
        print_seen(verdict, seen, out)?;
    }
    judged::print_legend(judgement.verdicts.iter().flat_map(|judged| &judged.verdict.conditions), out)
}

/// What the decision stands on.
fn print_seen(verdict: &Verdict, seen: &Compared, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(found) = &verdict.improvement {
        judged::print_improvement(found, out)?;
    }
    let alarms = seen.evidence.draws.alarms();
    let (any, first) = (alarms.any, alarms.first);
    say(
        out,
        &format!(
            "  half hours with alarms of both {}, champion's alone {}, challenger's alone {}, of one series each; of the champion's \
             first alarms {} on the same row, {} not",
            any.both, any.champion, any.challenger, first.given, first.missed
        ),
    )?;
    let told = seen.evidence.draws.labels();
    for (source, labels) in &seen.evidence.labels {
        let Some(number) = Source::LABELS.iter().position(|label| label == source) else { continue };
        for (what, alike, counted) in [
            ("anomalies", labels.anomalies, told.anomalies[number]),
            ("normal rows", labels.normals, told.normals[number]),
        ] {
            let (source, pairs, both) = (source.name(), counted.pairs, counted.right);
            let (right, wrong) = (pairs.challenger, pairs.champion);
            let line = format!(
                "  {what} by {source}: {alike} rows alike, half hours with both right {both}; of those with just one right, \
                 challenger {right}, champion {wrong}"
            );
            say(out, &line)?;
        }
    }
    Ok(())
}

const fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Promote => "promote",
        Decision::Hold => "hold",
        Decision::Reject => "reject",
    }
}

fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| seconds.to_string())
}
