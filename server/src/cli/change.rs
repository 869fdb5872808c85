//! `onnxd push`, `promote` and `rollback`.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Arg, ArgMatches, Command};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, author, model, open, print_json, with_author, with_repository};
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
                .value_parser(["champion", "challenger"])
                .help("What the new version becomes at once"),
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

pub(super) fn promote(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    apply(matches, raw, &Change::Promote(matches.get_one::<String>("version").cloned()), out)
}

pub(super) fn roll_back(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    apply(matches, raw, &Change::RollBack(matches.get_one::<String>("to").cloned()), out)
}

fn apply(matches: &ArgMatches, raw: &Raw, change: &Change, out: &mut dyn Write) -> Result<(), Failure> {
    let source = open(raw)?;
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
    let (from, to, epoch) = (record.replaced.as_deref().unwrap_or("none"), &aliases.champion, aliases.epoch);
    if !changed.changed && !dry_run {
        return Ok(writeln!(
            out,
            "{model}: it is so already (champion {to}, challengers {challengers}, epoch {epoch})"
        )?);
    }
    let would = if dry_run { "would be: " } else { "" };
    let champion = if from == to { format!("champion {to}") } else { format!("champion {from} -> {to}") };
    writeln!(out, "{model}: {would}{champion}, challengers {challengers}, epoch {epoch}, by {}", record.by)?;
    if let Some(previous) = aliases.previous.as_ref().filter(|_| !dry_run && record.action == "promote") {
        writeln!(
            out,
            "servers take it up within their poll interval; back to {previous}: onnxd rollback --model {model}"
        )?;
    }
    if let Some(warning) = warning {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(())
}

pub(super) fn push(matches: &ArgMatches, raw: &Raw, executable: &Path, out: &mut dyn Write) -> Result<(), Failure> {
    let (onnxruntime, mut probe) = raw.probe().map_err(Failure::Usage)?;
    probe.executable = Some(executable.into());
    let source = open(raw)?;
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
        place: match matches.get_one::<String>("as").map(String::as_str) {
            Some("champion") => Place::Champion,
            Some("challenger") => Place::Challenger,
            _ => Place::Added,
        },
        key: named("sign-with"),
        author: author(matches),
        allow_signature_change: raw.is_on("allow-signature-change"),
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
    let pushed = pushed?;
    if matches.get_flag("json") {
        return print_json(&pushed, out);
    }
    print_pushed(&pushed, &request, out)
}

fn print_pushed(pushed: &Pushed, request: &Request, out: &mut dyn Write) -> Result<(), Failure> {
    let (model, version, bytes) = (&request.model, &pushed.version, ByteSize(pushed.bytes));
    let what = match (pushed.uploaded, request.dry_run) {
        (true, false) => format!("added, {bytes}"),
        (_, true) => format!("would be added, {bytes}"),
        (false, false) => "has the same model already, nothing was sent".into(),
    };
    writeln!(out, "{model} version {version}: {what}, manifest {}", pushed.manifest)?;
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
        writeln!(out, "  warning: {warning}")?;
    }
    match &pushed.change {
        Some(change) => print(model, change, request.dry_run, out),
        None => Ok(writeln!(
            out,
            "  it serves nothing yet: onnxd promote {version} --model {model}, or push --as challenger"
        )?),
    }
}

/// On a terminal only; elsewhere nothing is drawn.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
