//! `onnxd push`, `promote`, `rollback` and `withdraw`.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Failure, author, model, open, print_json, say, with_author, with_repository};
use crate::config::Raw;
use crate::model::runtime::Runtime;
use crate::promotion::push::{Place, Pushed, Request};
use crate::promotion::{self, Change, Changed};

pub(super) fn push_command() -> Command {
    let command = Command::new("push")
        .about("Adds a model to a repository as a new version, after the checks that a server makes")
        .long_about(
            "Adds a model to a repository as a new version, after the checks that a server makes: it is loaded in a child \
             process, answers its golden samples, and fits what serves now. A manifest.json beside the file, or named with \
             --manifest, is taken (its name and version are set); without one it is derived from the model.\n\n\
             The first version of a model becomes its champion. Later ones are only added, unless --as says more.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd push model.onnx --model anomaly --repository s3://bucket/models\n  \
             onnxd push model.onnx --model anomaly --as challenger --reason 'trained on November'\n  \
             onnxd push model.onnx --model anomaly --dry-run",
        )
        .arg(Arg::new("file").value_name("MODEL.onnx").required(true).help("The ONNX file; its external data lies beside it"))
        .arg(
            Arg::new("as")
                .long("as")
                .value_name("ROLE")
                .value_parser(["champion", "challenger", "another-challenger"])
                .help("What the new version becomes at once: the champion, the challenger in the place of all others, or another one beside them"),
        )
        .arg(
            Arg::new("number")
                .long("number")
                .value_name("N")
                .value_parser(clap::value_parser!(u64).range(1..))
                .help("The new version's number, such as that of a registry [default: the next free one]"),
        )
        .arg(Arg::new("manifest").long("manifest").value_name("FILE").help("Its manifest [default: manifest.json beside it]"))
        .arg(Arg::new("sign-with").long("sign-with").value_name("FILE").help("Signs the manifest with this private key (Ed25519, PEM)"));
    with_author(with_repository(
        command,
        &["onnxruntime", "probe-timeout", "probe-memory", "model-limit", "allow-signature-change"],
    ))
}

pub(super) fn promote_command() -> Command {
    let command = Command::new("promote")
        .about("Makes a version the champion: the challenger, or the one that is named")
        .long_about(
            "Makes a version the champion: the challenger, or the one that is named. One conditional write of aliases.json; \
             servers take it up within their poll interval. When someone else changed it meanwhile, nothing is changed, \
             they are named, and the exit code is 3.",
        )
        .after_long_help(
            "Examples:\n  onnxd promote --repository s3://bucket/models\n  onnxd promote 4 --model anomaly --reason 'verdict of Monday'",
        )
        .arg(Arg::new("version").value_name("VERSION").help("The version [default: the challenger]"));
    with_author(with_repository(command, &[]))
}

pub(super) fn rollback_command() -> Command {
    let command = Command::new("rollback")
        .about("Makes the champion before, or a version that is named, the champion again")
        .long_about(
            "Makes the champion before, or a version that is named, the champion again. Servers keep the champion before in \
             memory, so going back to it loads nothing.",
        )
        .after_long_help("Examples:\n  onnxd rollback --model anomaly --reason 'alerts doubled'\n  onnxd rollback --to 2")
        .arg(Arg::new("to").long("to").value_name("VERSION").help("The version [default: the champion before]"));
    with_author(with_repository(command, &[]))
}

pub(super) fn withdraw_command() -> Command {
    let command = Command::new("withdraw")
        .about("Takes a challenger out of the shadow; its version stays in the repository")
        .after_long_help("Examples:\n  onnxd withdraw 4 --model anomaly --reason 'trained on the wrong week'")
        .arg(Arg::new("version").value_name("VERSION").required(true).help("The challenger's version"));
    with_author(with_repository(command, &[]))
}

pub(super) fn withdraw(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    let version = matches.get_one::<String>("version").expect("clap requires it");
    apply(matches, raw, &Change::Reject(version.clone()), out)
}

pub(super) fn promote(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    apply(matches, raw, &Change::Promote(matches.get_one::<String>("version").cloned()), out)
}

pub(super) fn roll_back(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    apply(matches, raw, &Change::RollBack(matches.get_one::<String>("to").cloned()), out)
}

fn apply(matches: &ArgMatches, raw: &Raw, change: &Change, out: &mut dyn Write) -> Result<(), Failure> {
    let source = open(&raw.source().map_err(Failure::Usage)?, true)?;
    let model = model(matches, &source)?;
    let dry_run = matches.get_flag("dry-run");
    let changed = promotion::change(&source, &model, change, &author(matches), None, dry_run)?;
    if matches.get_flag("json") {
        return print_json(&changed, out);
    }
    print(&model, &changed, dry_run, out)
}

fn print(model: &str, changed: &Changed, dry_run: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Changed { aliases, record, warning, .. } = changed;
    let challengers = if aliases.challengers.is_empty() { "none".into() } else { aliases.challengers.join(", ") };
    let (to, epoch) = (&aliases.champion, aliases.epoch);
    let Some(record) = record else {
        let line = format!("{model}: it is so already (champion {to}, challengers {challengers}, epoch {epoch})");
        return say(out, &line);
    };
    let from = record.replaced.as_deref().unwrap_or("none");
    let would = if dry_run { "would be: " } else { "" };
    let champion = if from == to { format!("champion {to}") } else { format!("champion {from} -> {to}") };
    let line = format!("{model}: {would}{champion}, challengers {challengers}, epoch {epoch}, by {}", record.by);
    say(out, &line)?;
    if let Some(previous) = aliases.previous.as_ref().filter(|_| !dry_run && record.action == "promote") {
        let line = format!(
            "servers take it up within their poll interval; back to {previous}: onnxd rollback --model {model}"
        );
        say(out, &line)?;
    }
    if let Some(warning) = warning {
        say(out, &format!("warning: {warning}"))?;
    }
    Ok(())
}

pub(super) fn push(matches: &ArgMatches, raw: &Raw, executable: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let (onnxruntime, _, mut probe) = raw.probe().map_err(Failure::Usage)?;
    probe.executable = Some(executable.into());
    let allow_signature_change = raw.is_on("allow-signature-change").map_err(Failure::Usage)?;
    let options = raw.source().map_err(Failure::Usage)?;
    let source = open(&options, true)?;
    let file = matches.get_one::<String>("file").map(PathBuf::from).unwrap_or_default();
    let Some(model) = matches.get_one::<String>("model").cloned() else {
        return Err(Failure::Usage(vec!["name the model with --model".into()]));
    };
    let runtime = Runtime::load(onnxruntime.as_deref()).map_err(Failure::Failed)?;
    let named = |name: &str| matches.get_one::<String>(name).map(PathBuf::from);
    let beside = file.with_file_name("manifest.json");
    let request = Request {
        model,
        manifest: named("manifest").or_else(|| beside.is_file().then_some(beside)),
        file,
        number: matches.get_one::<u64>("number").copied(),
        place: match matches.get_one::<String>("as").map(String::as_str) {
            Some("champion") => Place::Champion,
            Some("challenger") => Place::Challenger,
            Some("another-challenger") => Place::AnotherChallenger,
            _ => Place::Added,
        },
        key: named("sign-with"),
        model_bytes: options.model_bytes,
        author: author(matches),
        allow_signature_change,
        dry_run: matches.get_flag("dry-run"),
    };
    let bar = bar();
    let told = |text: &str| bar.set_message(text.to_owned());
    let sent = |bytes: u64, of: u64| {
        bar.set_length(of);
        bar.inc(bytes);
    };
    let pushed = promotion::push::push(&source, &runtime, &probe, &request, &told, &sent);
    bar.finish_and_clear();
    let said = Said { repository: options.repository.display().to_string(), pushed: pushed? };
    if matches.get_flag("json") {
        return print_json(&said, out);
    }
    print_pushed(&said, &request, out)
}

/// What a push prints.
#[derive(Serialize)]
struct Said {
    repository: String,
    #[serde(flatten)]
    pushed: Pushed,
}

fn print_pushed(said: &Said, request: &Request, out: &mut dyn Write) -> Result<(), Failure> {
    let Said { repository, pushed } = said;
    let (model, version, bytes) = (&request.model, &pushed.version, ByteSize(pushed.bytes));
    let signed = match (pushed.signed, pushed.uploaded, request.dry_run) {
        (false, ..) => "",
        (true, true, _) => ", signed",
        (true, false, false) => " but its signature, which was missing",
        (true, false, true) => " but its signature, which is missing, would be",
    };
    let what = match (pushed.uploaded, request.dry_run) {
        (true, false) => format!("added to {repository}, {bytes}"),
        (true, true) => format!("would be added to {repository}, {bytes}"),
        (false, _) => format!("has the same model already in {repository}, nothing was sent"),
    };
    say(out, &format!("{model} version {version}: {what}{signed}, manifest {}", pushed.manifest))?;
    let profile = &pushed.profile;
    writeln!(
        out,
        "  one row takes {:.0} us, a row in a batch {:.1} us; {} nodes; batches: {}",
        profile.one_row_us,
        profile.row_in_batch_us,
        profile.nodes,
        serde_json::to_value(profile.invariance).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
    )?;
    for warning in profile.warnings.iter().chain(&pushed.warnings) {
        say(out, &format!("  warning: {warning}"))?;
    }
    if let Some(change) = &pushed.change {
        return print(model, change, request.dry_run, out);
    }
    let promote = format!("onnxd promote {version} --model {model}");
    let line = match (pushed.becomes, pushed.roles.first()) {
        (Place::Champion, _) => "it would become the champion".into(),
        (Place::Challenger, _) => "it would become the challenger".into(),
        (Place::AnotherChallenger, _) => "it would become a challenger beside the others".into(),
        (Place::Added, Some(&"champion")) => "it is the champion already".into(),
        (Place::Added, Some(&"challenger")) => {
            format!("it is the challenger already; to make it the champion: {promote}")
        }
        (Place::Added, Some(_)) => format!("it is the champion before; to make it the champion again: {promote}"),
        (Place::Added, None) => {
            let serves = if request.dry_run { "it would serve" } else { "it serves" };
            format!("{serves} nothing yet: {promote}, or push --as challenger")
        }
    };
    say(out, &format!("  {line}"))
}

/// On a terminal only; elsewhere nothing is drawn.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
