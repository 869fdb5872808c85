//! `onnxd verdict`: what all servers of a model saw of its challengers, judged here.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{Deserialize, Serialize};

use super::{Failure, author, judged, open, print_json, say, with_author, with_repository};
use crate::config::Raw;
use crate::config::verdict::RULE;
use crate::judge::{self, Judged, Judgement, Settings, Step, StepKind};
use crate::peers::{Gathered, Peers};
use crate::promotion::{self, Changed};
use crate::shadow::origin::now;
use crate::shadow::state::State;
use crate::source::is_model_name;
use crate::verdict::rule::Decision;

/// The exit codes beside success.
const HOLD: u8 = 10;
const REJECT: u8 = 11;
/// Where a server of this machine tells what it saw.
const HERE: &str = "127.0.0.1:8082";

pub(super) fn command() -> Command {
    let command = Command::new("verdict")
        .about("Judges a model's challengers by what all of its servers saw")
        .long_about(
            "Asks the servers named by --peers what they saw of a model's challengers, adds it up, and judges. --peers are \
             operations ports (--ops of a server); unless named, 127.0.0.1:8082 is asked. Nothing is decided while a server \
             that was named does not tell. --explain says what is missing, how long it takes and what brings it; --apply does \
             what the verdict says, by one conditional write of aliases.json with the evidence in the ledger.\n\n\
             Of each challenger it says\n  \
             promote     it is better, and nothing that was looked at is worse\n  \
             hold        not enough is known yet\n  \
             reject      it is worse, or had its time\n\
             and after a promotion, of the champion before (role previous)\n  \
             bring back  it is better than the present one\n  \
             leave       it is not, or that is not known\n\n\
             One thing is done at a time: first bring back, then promote the best, then reject the first.\n\n\
             Exit code: 0 promote or bring back, 10 hold (also where all that is said is leave), 11 reject; 1 it failed, 2 a \
             mistake in the command line, 3 someone else changed the model first.",
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
        if let Some(step) = hint {
            writeln!(out)?;
            say(out, &format!("to do so: {}", by_hand(&judgement, step)))?;
        }
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
        let reasons: Vec<String> = gathered.missing.iter().map(|reason| with_next_step(reason)).collect();
        return Err(Failure::Failed(reasons.join("; ")));
    }
    Ok(gathered)
}

/// Why a server did not tell, with what is to be done about it.
fn with_next_step(reason: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|words| reason.contains(words));
    let next = if has(&["there is nothing at this path", "speaks gRPC"]) {
        "that is a data port: name the operations port (--ops of the server, 8082 unless it was told another) with --peers"
    } else if has(&["there is no model"]) {
        "name one of those with --model, or leave the server out of --peers"
    } else if has(&["no model serves yet"]) {
        "its /status says why"
    } else if has(&[" on epoch ", " as champion, "]) {
        "it follows within its --poll-interval; if it does not, its /status says what it refused"
    } else if has(&["cannot be reached", "did not answer", "looked up"]) {
        "start it, or name with --peers the operations ports of those that run"
    } else {
        "mend it, or leave it out of --peers"
    };
    format!("{reason}: {next}")
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
        (None, _) => Err(Failure::Failed("the servers have no model yet: onnxd push adds one".into())),
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
        say(out, &format!("  missing: {}", with_next_step(missing)))?;
    }
    if verdicts.is_empty() && previous.is_none() {
        say(out, "hold: there is no challenger; onnxd push --as challenger adds one")?;
    }
    let all = verdicts.iter().chain(previous);
    all.clone().try_for_each(|judged| print_one(judged, &servers.missing, explain, out))?;
    judged::print_legend(all.flat_map(|judged| &judged.verdict.conditions), out)
}

fn print_one(one: &Judged, missing: &[String], explain: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let decision = match (one.verdict.decision, one.role.as_str()) {
        (Decision::Promote, "previous") => "bring back",
        (_, "previous") => "leave",
        (Decision::Promote, _) => "promote",
        (Decision::Hold, _) => "hold",
        (Decision::Reject, _) => "reject",
    };
    writeln!(out)?;
    say(out, &format!("{decision}: version {} ({})", one.version.version, one.role))?;
    // Who is missing was said of all of them together.
    for reason in one.verdict.reasons.iter().filter(|reason| !missing.contains(reason)) {
        say(out, &format!("  {reason}"))?;
    }
    if let Some(found) = &one.verdict.improvement {
        judged::print_improvement(found, out)?;
    }
    judged::print_conditions(&one.verdict.conditions, out)?;
    if explain {
        print_estimate(one, out)?;
    }
    Ok(())
}

/// What is missing, how much it takes, and what brings it.
fn print_estimate(of: &Judged, out: &mut dyn Write) -> Result<(), Failure> {
    let missing = &of.verdict.estimate;
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(out, "  what it takes:")?;
    for one in missing {
        say(out, &format!("  - {}: {}", judged::label(one.condition), one.text))?;
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
            "forecasts: name what was measured by `series` in each row (or the header x-series) and send rows of it every minute, \
             or at another period of which the forecast's horizon is a multiple; the manifest's outputs_semantics.<forecast>.target_feature says which feature is the actual value",
        ),
        "labels" => Some(
            "labels: POST /feedback with request_id, or series and ts, and anomaly true or false; those of rows where only one of \
             both gives an alarm decide most",
        ),
        "alarms" => Some(
            "alarms: a half hour with any of the champion's counts once; faults that an experiment makes in others count as well",
        ),
        "series" => Some("series: name what was measured by `series` in each row, or by the header x-series"),
        "requests" => {
            Some("requests: rows of the champion's that the shadow scores, see --shadow-sample and --shadow-cpu")
        }
        "servers" => Some(
            "servers: every address of --peers must answer, and run the same versions; the /status of one that does not says why",
        ),
        _ => None,
    }
}

/// How to do what was said.
fn by_hand(judgement: &Judgement, step: &Step<'_>) -> String {
    let (model, version) = (&judgement.model, &step.of.version.version);
    match step.kind {
        StepKind::Promote => format!("onnxd promote {version} --model {model}, or this command with --apply"),
        StepKind::BringBack => format!("onnxd rollback --to {version} --model {model}, or this command with --apply"),
        StepKind::Reject => {
            let rejected = judgement.verdicts.iter().filter(|one| one.verdict.decision == Decision::Reject);
            let named: Vec<String> =
                rejected.map(|one| format!("version {} ({})", one.version.version, one.role)).collect();
            let (first, others) = named.split_first().expect("the step's is one of them");
            let then = if others.is_empty() {
                String::new()
            } else {
                format!(", each further run with it the next: {}", others.join(", "))
            };
            format!("this command with --apply takes {first} out of the challengers{then}")
        }
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
