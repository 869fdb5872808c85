//! `onnxd inspect`: what a model file is, what is wrong with it, and what it costs to run.
//!
//! The graph is read here; the model is run in the probe's child process, so that one that crashes is a finding.

mod findings;
mod print;
mod unit;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use serde_json::Value;

use crate::Options;
use crate::model::check::{Invariance, Profile};
use crate::model::derive::Derived;
use crate::model::facts::{self, Facts};
use crate::model::runtime::Runtime;
use crate::model::signature::Rows;
use crate::model::trial::Trial;
use crate::model::{Artifact, sha256};
use crate::probe::Probe;
pub(crate) use print::plain;
use unit::Unit;
pub(crate) use unit::is_plain_name;

/// Rows of the batch that is timed.
const BATCH: usize = 64;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The model would be refused.
    Error,
    /// It would be served, but most likely not as meant.
    Warning,
    /// Good to know.
    Note,
}

/// Something about a model that its author may want to know.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// A fixed name, such as `zipmap`.
    pub kind: &'static str,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

/// An input or output as the file declares it.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Element type, or what it is instead of a tensor.
    pub dtype: String,
    /// Dimensions, free ones by name; `null` when none are declared.
    pub shape: Option<Vec<Value>>,
}

/// The keys of a request.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Features {
    /// In the order of the columns or inputs.
    pub names: Vec<String>,
    /// `manifest.json`, `metadata_props` or `graph`.
    pub from: &'static str,
}

/// A file of weights.
#[derive(Clone, Debug, Serialize)]
pub struct ExternalFile {
    /// Its name, as the graph or the manifest gives it.
    pub path: String,
    /// How far tensors reach into it.
    pub used_bytes: u64,
    /// Its size; `null` when it is not there.
    pub bytes: Option<u64>,
    /// Whether a manifest lists it.
    pub listed: bool,
}

/// What runs of the model showed.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The runtime that ran it.
    pub onnxruntime: String,
    /// Median time of a run with one row.
    pub one_row_us: f64,
    /// Rows of the batch that was timed.
    pub batch_rows: usize,
    /// Median time of a row in that batch.
    pub row_in_batch_us: f64,
    /// Whether a row's answer depends on the rows beside it.
    pub invariance: Invariance,
    /// How it takes rows: `any`, `{"fixed": 4}` or `whole`.
    pub rows: Rows,
    /// Most rows in one run.
    pub max_batch: usize,
    /// Whether the time of a run depends on nothing but the number of its rows.
    pub steady: bool,
}

/// Everything that is known of a model file.
#[derive(Debug, Serialize)]
pub struct Report {
    /// As it was named.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Name and version in the `manifest.json` beside it.
    pub manifest: Option<String>,
    /// Version of the file's format.
    pub ir_version: i64,
    /// What wrote it.
    pub producer: String,
    /// Version of each domain's operators.
    pub opsets: BTreeMap<String, i64>,
    /// In the graph's order.
    pub inputs: Vec<Port>,
    /// In the graph's order.
    pub outputs: Vec<Port>,
    /// The keys of a request.
    pub features: Features,
    /// Files of weights.
    pub external_data: Vec<ExternalFile>,
    /// Nodes, those of inner graphs included.
    pub nodes: usize,
    /// How often each operator is there.
    pub operators: BTreeMap<String, usize>,
    /// Functions that the file defines.
    pub functions: Vec<String>,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// `null` when it was not run, or could not be.
    pub measured: Option<Measured>,
    /// Whether it would be served, as far as was looked.
    pub served: bool,
}

/// The `inspect` command line.
#[must_use]
pub fn command() -> Command {
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("inspect")
        .about("Says what an .onnx file is, what is wrong with it and what it costs to run")
        .long_about(
            "Says what an .onnx file is, what is wrong with it and what it costs to run.\n\n\
             A manifest.json beside the file and the files of weights that belong to it are taken into account. The model is \
             run in a process of its own, so a model that crashes or never ends is a finding like others.\n\n\
             A finding is an error (the model would be refused), a warning (it would be served, but most likely not as meant) \
             or a note, and says what to do.",
        )
        .after_long_help(
            "Examples:\n  \
             onnxd inspect model.onnx\n  \
             onnxd inspect models/anomaly/1\n  \
             onnxd inspect model.onnx --json | jq '.findings[] | select(.level == \"error\")'\n\n\
             A finding:\n  \
             error    output-type\n    \
             output y is of the type sequence of tensors, which is not served\n    \
             -> make it a tensor (such as ConcatFromSequence), or take it out of the outputs\n\n\
             Exit code: 0 when the model would be served, 1 when it would be refused, 2 when it could not be inspected.",
        )
        .arg(Arg::new("file").value_name("FILE").required(true).help("An .onnx file, or the folder of one version"))
        .arg(switch("json", "Prints one JSON object, whose keys do not change"))
        .arg(switch("no-run", "Reads the graph only: nothing is loaded or measured"))
        .arg(
            Arg::new("onnxruntime")
                .long("onnxruntime")
                .value_name("FILE")
                .help("ONNX Runtime's library [default: found by itself]"),
        )
}

/// Runs the command; `executable` is the program whose `probe` runs the model. Gives whether it would be served.
///
/// # Errors
/// One sentence when the file cannot be read or ONNX Runtime not be loaded.
pub fn run(matches: &ArgMatches, executable: PathBuf, output: &mut impl Write) -> Result<bool, String> {
    let file = matches.get_one::<String>("file").map(PathBuf::from).unwrap_or_default();
    let runtime = if matches.get_flag("no-run") {
        None
    } else {
        let library = matches.get_one::<String>("onnxruntime").map(Path::new);
        Some(Runtime::load(library).map_err(|e| format!("{e}; or look at the graph only with --no-run"))?)
    };
    let probe = Probe { executable: Some(executable), ..Options::new(".").probe };
    let report = inspect(&file, runtime.as_ref().map(|runtime| (runtime, &probe)))?;
    let printed: std::io::Result<()> = if matches.get_flag("json") {
        serde_json::to_writer_pretty(&mut *output, &report).map_err(Into::into).and_then(|()| writeln!(output))
    } else {
        print::report(output, &report)
    };
    match printed {
        // The reader has seen enough, as `head` has.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(format!("cannot write the report: {e}")),
        _ => Ok(report.served),
    }
}

/// Looks at a model file, and runs it when there is something to run it with.
///
/// # Errors
/// When the file cannot be read.
pub fn inspect(file: &Path, run: Option<(&Runtime, &Probe)>) -> Result<Report, String> {
    let mut unit = Unit::read(file)?;
    let facts = match facts::read(&unit.onnx, &unit.sizes()) {
        Ok(facts) => facts,
        Err(reason) => {
            let fix = "name the .onnx file itself, whole";
            let finding = Finding { level: Level::Error, kind: "not-a-model", what: reason, fix: fix.into() };
            return Ok(report(&unit, Facts::default(), vec![finding], None));
        }
    };
    unit.find(facts.external.keys());
    // Files that no manifest lists are known only now, and so is what lies beyond their ends.
    let facts = if unit.manifest.is_none() { facts::read(&unit.onnx, &unit.sizes())? } else { facts };
    let mut findings = findings::of_files(&unit, &facts);
    findings.extend(findings::of_graph(&facts, unit.manifest.as_ref(), run.is_some()));
    let runs = !unit.is_broken(&facts) && facts.problems.is_empty();
    let mut measured = None;
    if let Some((runtime, probe)) = run.filter(|_| runs) {
        match probe.derive(runtime, &unit.artifact(), unit.manifest_bytes()) {
            Ok((profile, derived)) => {
                // It runs, so whatever seemed new or unknown is neither.
                findings.retain(|f| f.kind != "opset" && f.kind != "custom-operators");
                findings.extend(findings::of_run(&facts, &profile, &derived, &findings));
                measured = (profile.trial != Trial::Nothing).then(|| Measured::new(&profile, &derived));
            }
            Err(rejection) => findings.extend(findings::of_rejection(&rejection, &findings)),
        }
    }
    Ok(report(&unit, facts, findings, measured))
}

/// A model file as it is loaded, with its files of weights and the manifest beside it.
///
/// # Errors
/// What cannot be read, or is wrong with the files.
pub(crate) fn artifact(file: &Path) -> Result<(Artifact, Option<Vec<u8>>), String> {
    let mut unit = Unit::read(file)?;
    let facts = facts::read(&unit.onnx, &unit.sizes()).map_err(|e| format!("{}: {e}", file.display()))?;
    unit.find(facts.external.keys());
    match unit.findings.first() {
        Some(finding) => Err(format!("{}: {}: {}", file.display(), finding.what, finding.fix)),
        None => Ok((unit.artifact(), unit.manifest_bytes().map(<[u8]>::to_vec))),
    }
}

fn report(unit: &Unit, facts: Facts, mut findings: Vec<Finding>, measured: Option<Measured>) -> Report {
    findings.sort_by_key(|finding| finding.level);
    let ports = |declared: &[facts::Declared]| {
        let port = |d: &facts::Declared| Port { name: d.name.clone(), dtype: d.kind.clone(), shape: shape(d) };
        declared.iter().map(port).collect()
    };
    Report {
        file: unit.file.display().to_string(),
        bytes: unit.onnx.len() as u64,
        sha256: sha256(&unit.onnx),
        manifest: unit.manifest.as_ref().map(|m| format!("{} version {}", m.name, m.version)),
        features: findings::features(&facts, unit.manifest.as_ref()),
        external_data: unit.external_files(&facts),
        inputs: ports(&facts.inputs),
        outputs: ports(&facts.outputs),
        ir_version: facts.ir_version,
        producer: facts.producer,
        opsets: facts.opsets,
        nodes: facts.nodes,
        operators: facts.operators,
        functions: facts.functions,
        served: findings.iter().all(|finding| finding.level != Level::Error),
        findings,
        measured,
    }
}

fn shape(declared: &facts::Declared) -> Option<Vec<Value>> {
    let dims = declared.dims.as_ref()?.iter().zip(declared.shape.as_ref()?);
    Some(dims.map(|(dim, name)| dim.map_or_else(|| Value::from(name.as_str()), Value::from)).collect())
}

impl Measured {
    fn new(profile: &Profile, derived: &Derived) -> Self {
        Self {
            onnxruntime: derived.runtime.trim_start_matches("onnxruntime ").to_owned(),
            one_row_us: profile.one_row_us,
            batch_rows: profile.max_batch.min(BATCH),
            row_in_batch_us: profile.row_in_batch_us,
            invariance: profile.invariance,
            rows: profile.rows,
            max_batch: profile.max_batch,
            steady: profile.steady,
        }
    }
}
