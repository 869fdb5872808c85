//! `onnxd verdict`: what all servers of a model saw of its challengers, judged here.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};

use super::{Failure, author, open, print_json, say, table, with_author, with_repository};
use crate::config::Raw;
use crate::config::verdict::RULE;
use crate::judge::{self, Judged, Judgement, Settings, Step, StepKind};
use crate::peers::{Gathered, Peers};
use crate::promotion::{self, Changed};
use crate::shadow::origin::now;
use crate::shadow::state::State;
use crate::source::is_model_name;
use crate::verdict::rule::{Condition, Decision};

/// The exit codes beside success.
const HOLD: u8 = 10;
const REJECT: u8 = 11;
/// Where a server of this machine tells what it saw.
const HERE: &str = "127.0.0.1:8082";

pub(super) fn command() -> Command {
    let command = Command::new("verdict")
        .about("Judges a model's challengers by what all of its servers saw")
        .long_about(
            "Asks the servers named by --peers what they saw of a model's challengers, adds it up, and judges: promote, hold or \
             reject, and why. Nothing is decided while a server that was named does not tell. --explain says what is \
             missing, how long it takes and what brings it; --apply does what the verdict says, by one conditional write of \
             aliases.json with the evidence in the ledger.\n\n\
             Exit code: 0 promote (a challenger, or the champion before, which is better than the present one), 10 hold, 11 \
             reject; 1 it failed, 2 a mistake in the command line, 3 someone else changed the model first.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd verdict\n  \
             onnxd verdict --model anomaly --peers onnxd-peers.ml.svc:8082 --explain\n  \
             onnxd verdict --peers 10.0.0.1:8082,10.0.0.2:8082 --apply --repository s3://bucket/models",
        )
        .arg(
            Arg::new("explain")
                .long("explain")
                .action(ArgAction::SetTrue)
                .help("Says what is missing for a decision, how much it takes and what brings it"),
        )
        .arg(
            Arg::new("apply")
                .long("apply")
                .action(ArgAction::SetTrue)
                .help("Promotes or rejects as the verdict says; on hold, changes nothing"),
        );
    let settings = [&["peers"], RULE].concat();
    with_author(with_repository(command, &settings))
}

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    judgement: &'a Judgement,
    /// What `--apply` did.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Changed>,
}

pub(super) fn run(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    let settings = settings(raw)?;
    let model = match matches.get_one::<String>("model") {
        Some(name) if is_model_name(name) => name.clone(),
        Some(name) => return Err(Failure::Usage(vec![format!("--model: {name:?} is not a model's name")])),
        None => only_model(&settings.peers)?,
    };
    let gathered = ask::<State>(&settings.peers, &format!("/models/{model}/shadow"))?;
    let judgement = judge::judge(&gathered.answers, &gathered.missing, &settings, now()).map_err(Failure::Failed)?;
    let step = judgement.step();
    let change = match &step {
        Some(step) if matches.get_flag("apply") => Some(apply(matches, raw, &judgement, step)?),
        _ => None,
    };
    if matches.get_flag("json") {
        print_json(&Answer { judgement: &judgement, change }, out)?;
    } else {
        print(&judgement, matches.get_flag("explain"), out)?;
        let hint = step.as_ref().filter(|_| !matches.get_flag("apply"));
        hint.map_or(Ok(()), |step| say(out, &format!("to do so: {}", by_hand(&model, step))))?;
        change.map_or(Ok(()), |change| print_change(&model, &change, matches.get_flag("dry-run"), out))?;
    }
    match step.map(|step| step.kind) {
        Some(StepKind::Promote | StepKind::BringBack) => Ok(()),
        None => Err(Failure::Answer(HOLD)),
        Some(StepKind::Reject) => Err(Failure::Answer(REJECT)),
    }
}

/// The settings; unless told, the server of this machine is asked.
fn settings(raw: &Raw) -> Result<Settings, Failure> {
    let mut settings = raw.verdict().map_err(Failure::Usage)?;
    if settings.peers.is_empty() {
        settings.peers = HERE.parse().map_err(Failure::Failed)?;
    }
    Ok(settings)
}

/// Asks all servers; at least one must answer.
fn ask<T: serde::de::DeserializeOwned>(peers: &Peers, path: &str) -> Result<Gathered<T>, Failure> {
    let gathered = peers.gather_here::<T>(path).map_err(Failure::Failed)?;
    if gathered.answers.is_empty() {
        let reasons = gathered.missing.join("; ");
        return Err(Failure::Failed(format!("{reasons}: name the operations ports of its servers with --peers")));
    }
    Ok(gathered)
}

/// The model that the servers serve, when it is one.
fn only_model(peers: &Peers) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Status {
        models: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let told = ask::<Status>(peers, "/status")?;
    let names: std::collections::BTreeSet<String> =
        told.answers.into_iter().flat_map(|status| status.models).map(|model| model.name).collect();
    let mut listed = names.iter();
    match (listed.next(), listed.next()) {
        (Some(name), None) if is_model_name(name) => Ok(name.clone()),
        (None, _) => Err(Failure::Failed("the servers have no model yet".into())),
        _ => Err(Failure::Usage(vec![format!(
            "name one with --model: {}",
            crate::text::listed(names.iter().map(String::as_str))
        )])),
    }
}

fn apply(matches: &ArgMatches, raw: &Raw, judgement: &Judgement, step: &Step<'_>) -> Result<Changed, Failure> {
    let source = open(&raw.source().map_err(Failure::Usage)?, true)?;
    let mut author = author(matches);
    if author.reason.is_empty() {
        author.reason = step.reason();
    }
    author.evidence = judgement.evidence();
    Ok(promotion::carry_out(&source, judgement, step, &author, matches.get_flag("dry-run"))?)
}

fn print(judgement: &Judgement, explain: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Judgement { model, champion, epoch, servers, verdicts, previous, .. } = judgement;
    let told = servers.told;
    let from = if told == 1 { "1 server".into() } else { format!("{told} servers") };
    say(out, &format!("{model}: champion {}, epoch {epoch}, by what {from} saw", champion.version))?;
    for missing in &servers.missing {
        say(out, &format!("  missing: {missing}"))?;
    }
    if verdicts.is_empty() && previous.is_none() {
        say(out, "hold: there is no challenger; onnxd push --as challenger adds one")?;
    }
    for judged in verdicts.iter().chain(previous) {
        print_one(judged, explain, out)?;
    }
    Ok(())
}

fn print_one(judged: &Judged, explain: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let decision = match (judged.verdict.decision, judged.role.as_str()) {
        (Decision::Promote, "previous") => "bring back",
        (_, "previous") => "leave",
        (Decision::Promote, _) => "promote",
        (Decision::Hold, _) => "hold",
        (Decision::Reject, _) => "reject",
    };
    writeln!(out)?;
    say(out, &format!("{decision}: version {} ({})", judged.version.version, judged.role))?;
    for reason in &judged.verdict.reasons {
        say(out, &format!("  {reason}"))?;
    }
    let rows = judged.verdict.conditions.iter().map(|condition| {
        let Condition { name, holds, value, needs, .. } = condition;
        let value = value.map_or_else(|| "-".into(), number);
        vec![(*name).to_owned(), if *holds { "yes" } else { "no" }.into(), value, number(*needs)]
    });
    writeln!(out, "{}", table(&["  CONDITION", "HOLDS", "VALUE", "NEEDS"], rows.map(indented)).trim_fmt())?;
    if explain {
        print_estimate(judged, out)?;
    }
    Ok(())
}

/// What is missing, how much it takes, and what brings it.
fn print_estimate(judged: &Judged, out: &mut dyn Write) -> Result<(), Failure> {
    let missing = &judged.verdict.estimate;
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(out, "  what it takes:")?;
    for one in missing {
        say(out, &format!("  - {}: {}", one.condition, one.text))?;
    }
    let mut brings: Vec<&str> = missing.iter().filter_map(|one| bring(one.unit)).collect();
    brings.dedup();
    writeln!(out, "  what brings it:")?;
    brings.iter().try_for_each(|how| say(out, &format!("  - {how}")))
}

/// Where what is counted comes from.
fn bring(unit: &str) -> Option<&'static str> {
    match unit {
        "buckets" => Some(
            "forecasts: name what was measured by `series` in each row (or the header x-series) and send rows of it every few \
             minutes; the manifest's outputs_semantics.<forecast>.target_feature says which feature is the actual value",
        ),
        "labels" => Some(
            "labels: POST /feedback with request_id, or series and ts, and anomaly true or false; those of rows where only one of \
             both gives an alarm decide most",
        ),
        "alarms" => Some(
            "alarms: an hour with any of the champion's counts once; faults that an experiment makes in other hours count as well",
        ),
        "series" => Some("series: name what was measured by `series` in each row, or by the header x-series"),
        "requests" => {
            Some("requests: rows of the champion's that the shadow scores, see --shadow-sample and --shadow-cpu")
        }
        "servers" => Some("servers: every address of --peers must answer, and run the same versions"),
        _ => None,
    }
}

fn indented(mut row: Vec<String>) -> Vec<String> {
    row[0].insert_str(0, "  ");
    row
}

/// A number as people read it.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:.4}") }
}

fn by_hand(model: &str, step: &Step<'_>) -> String {
    let version = &step.of.version.version;
    match step.kind {
        StepKind::Promote => format!("onnxd promote {version} --model {model}, or this command with --apply"),
        StepKind::BringBack => format!("onnxd rollback --to {version} --model {model}, or this command with --apply"),
        StepKind::Reject => "this command with --apply takes it out of the challengers".into(),
    }
}

fn print_change(model: &str, changed: &Changed, dry_run: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let aliases = &changed.aliases;
    let challengers = if aliases.challengers.is_empty() { "none".into() } else { aliases.challengers.join(", ") };
    let done = if dry_run { "would be" } else { "done" };
    let line =
        format!("{done}: {model}: champion {}, challengers {challengers}, epoch {}", aliases.champion, aliases.epoch);
    say(out, &line)?;
    changed.warning.iter().try_for_each(|warning| say(out, &format!("warning: {warning}")))
}
