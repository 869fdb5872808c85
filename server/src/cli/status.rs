//! `onnxd status`: what a repository says should be served, and how it came to that.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use serde::Serialize;

use super::{Failure, open, or_dash, print_json, table, with_repository};
use crate::config::Raw;
use crate::promotion::{self, Record};
use crate::source::aliases::Aliases;
use crate::source::{Found, Source, is_model_name};

/// Records shown of one model.
const HISTORY: usize = 10;

pub(super) fn command() -> Command {
    with_repository(
        Command::new("status")
            .about("Shows champion, challengers, versions and history of a repository's models")
            .long_about(
                "Shows what a repository says should be served: champion, challengers, the champion before, and who changed \
                 that last. With --model also its versions and the last changes. What a server serves at this moment is \
                 under /status on its operations port.",
            )
            .after_long_help(
                "Examples:\n  onnxd status --repository s3://bucket/models\n  onnxd status --repository models --model anomaly --json",
            ),
        &[],
    )
    .arg(
        Arg::new("history")
            .long("history")
            .value_name("COUNT")
            .value_parser(clap::value_parser!(u16).range(1..=1000))
            .help("Changes shown with --model [default: 10]"),
    )
}

#[derive(Serialize)]
struct Model {
    name: String,
    aliases: Option<Aliases>,
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<Vec<Version>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Record>>,
}

#[derive(Serialize)]
struct Version {
    version: String,
    /// Whether its manifest, which is written last, is there.
    complete: bool,
    bytes: u64,
}

pub(super) fn run(matches: &ArgMatches, raw: &Raw, out: &mut dyn Write) -> Result<(), Failure> {
    let source = open(&raw.source().map_err(Failure::Usage)?, false)?;
    let models = match matches.get_one::<String>("model") {
        Some(name) => {
            let history = matches.get_one::<u16>("history").map_or(HISTORY, |count| usize::from(*count));
            vec![one(&source, name, history)?]
        }
        None => all(&source)?,
    };
    if matches.get_flag("json") {
        return print_json(&models, out);
    }
    if models.is_empty() {
        return Ok(writeln!(out, "the repository holds no model yet: onnxd push adds one")?);
    }
    print(&models, out)
}

/// Every model; a folder without versions and pointer is none.
fn all(source: &Source) -> Result<Vec<Model>, Failure> {
    let names = source.names().map_err(Failure::Failed)?;
    let mut models = names.iter().map(|name| read(source, name)).collect::<Vec<_>>();
    models.retain(|model| model.aliases.is_some() || model.error.is_some() || has_versions(source, &model.name));
    Ok(models)
}

/// The model that is named, in detail.
fn one(source: &Source, name: &str, history: usize) -> Result<Model, Failure> {
    if is_model_name(name) {
        let mut model = read(source, name);
        detail(source, &mut model, history)?;
        let versions = model.versions.as_ref().is_some_and(|versions| !versions.is_empty());
        if versions || model.aliases.is_some() || model.error.is_some() {
            return Ok(model);
        }
    }
    let names: Vec<String> = all(source)?.into_iter().map(|model| model.name).collect();
    let holds = if names.is_empty() { "none: onnxd push adds one".into() } else { names.join(", ") };
    Err(Failure::Failed(format!("there is no model {name:?}; the repository holds: {holds}")))
}

fn has_versions(source: &Source, name: &str) -> bool {
    source.versions(name).is_ok_and(|found| !found.is_empty())
}

fn read(source: &Source, name: &str) -> Model {
    let (aliases, error) = match promotion::present(source, name) {
        Ok(present) => (present.map(|(aliases, _)| aliases), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Model { name: name.into(), aliases, error, versions: None, history: None }
}

fn detail(source: &Source, model: &mut Model, history: usize) -> Result<(), Failure> {
    let mut found: Vec<Found> = source.versions(&model.name).map_err(Failure::Failed)?;
    found.sort_by_key(|found| found.version.parse::<u64>().unwrap_or(0));
    let version = |found: Found| Version { version: found.version, complete: found.manifest, bytes: found.bytes };
    model.versions = Some(found.into_iter().map(version).collect());
    if let Some(aliases) = &model.aliases {
        model.history = Some(promotion::history(source, &model.name, aliases, history).map_err(Failure::Failed)?);
    }
    Ok(())
}

fn print(models: &[Model], out: &mut dyn Write) -> Result<(), Failure> {
    let head = ["MODEL", "CHAMPION", "CHALLENGERS", "PREVIOUS", "EPOCH", "CHANGED", "BY", "REASON"];
    let rows = models.iter().map(|model| match (&model.aliases, &model.error) {
        (Some(a), _) => vec![
            model.name.clone(),
            a.champion.clone(),
            or_dash(&a.challengers.join(",")),
            or_dash(a.previous.as_deref().unwrap_or_default()),
            a.epoch.to_string(),
            or_dash(&a.updated_at),
            or_dash(&a.by),
            or_dash(&a.reason),
        ],
        (None, Some(error)) => vec![model.name.clone(), format!("? {error}")],
        (None, None) => vec![model.name.clone(), "the highest version (no aliases.json)".into()],
    });
    writeln!(out, "{}", table(&head, rows).trim_fmt())?;
    for model in models {
        if let Some(versions) = &model.versions {
            let role = |version: &str| {
                let roles = model.aliases.as_ref().map(|aliases| promotion::roles(aliases, version));
                or_dash(&roles.unwrap_or_default().join(","))
            };
            let rows = versions.iter().map(|v| {
                let manifest = if v.complete { "yes" } else { "no" };
                vec![v.version.clone(), role(&v.version), bytesize::ByteSize(v.bytes).to_string(), manifest.into()]
            });
            writeln!(out, "\n{}", table(&["VERSION", "ROLE", "MODEL FILE", "MANIFEST"], rows))?;
        }
        if let Some(history) = model.history.as_ref().filter(|history| !history.is_empty()) {
            let rows = history.iter().map(|r| {
                let from = r.replaced.as_deref().unwrap_or("none");
                vec![
                    r.epoch.to_string(),
                    r.action.clone(),
                    format!("{from} -> {}", r.champion),
                    or_dash(&r.challengers.join(",")),
                    or_dash(&r.at),
                    or_dash(&r.by),
                    or_dash(&r.reason),
                ]
            });
            let head = ["EPOCH", "CHANGE", "CHAMPION", "CHALLENGERS", "AT", "BY", "REASON"];
            writeln!(out, "\n{}", table(&head, rows).trim_fmt())?;
        }
    }
    Ok(())
}
