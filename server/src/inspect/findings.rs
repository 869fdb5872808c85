//! What is wrong with a model, or good to know of it, and what to do about it.

use super::unit::{Unit, is_plain_name};
use super::{Features, Finding, Level};
use crate::model::check::{Invariance, Profile, Rejection, Stage};
use crate::model::derive::Derived;
use crate::model::facts::{Declared, Facts};
use crate::model::graph;
use crate::model::manifest::{self, Manifest, Missing};
use crate::model::signature::Rows;
use crate::model::trial::Trial;

/// What ONNX Runtime 1.32 knows: the newest operators of each domain, and the newest format.
const NEWEST: [(&str, i64); 2] = [("ai.onnx", 28), ("ai.onnx.ml", 5)];
const NEWEST_IR: i64 = 14;
/// The oldest standard operators that it promises to run.
const OLDEST: i64 = 7;
/// Domains whose operators every ONNX Runtime has.
const KNOWN_DOMAINS: [&str; 3] = ["ai.onnx", "ai.onnx.ml", "com.microsoft"];
/// A run of one row that takes longer is worth a remark.
const SLOW_US: f64 = 1000.0;

fn finding(level: Level, kind: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { level, kind, what: what.into(), fix: fix.into() }
}

/// A few names, and how many more there are.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 3 { format!("{shown} and {} more", names.len() - 3) } else { shown }
}

/// The keys of a request, and who names them.
pub(super) fn features(facts: &Facts, manifest: Option<&std::sync::Arc<Manifest>>) -> Features {
    let own = |names: Vec<String>, from| Features { names, from };
    if let Some(manifest) = manifest {
        let inputs = manifest.signature.inputs.iter();
        let names = inputs.flat_map(|input| match input.features.as_slice() {
            [] => vec![input.name.clone()],
            features => features.iter().map(|f| f.name.clone()).collect(),
        });
        return own(names.collect(), "manifest.json");
    }
    match (facts.metadata.get("onnxd.features"), facts.inputs.as_slice()) {
        (Some(names), [_]) => own(names.split(',').map(|n| n.trim().to_owned()).collect(), "metadata_props"),
        (_, inputs) => own(inputs.iter().map(|i| i.name.clone()).collect(), "graph"),
    }
}

fn save_beside() -> String {
    format!("save the model with its weights in one file beside it: {}", manifest::BESIDE)
}

/// What the files show: those that are not there, and those that do not fit.
pub(super) fn of_files(unit: &Unit, facts: &Facts) -> Vec<Finding> {
    let mut found = unit.findings.clone();
    let one_file = "onnx.save(onnx.load(\"model.onnx\"), \"one.onnx\", save_as_external_data=False)";
    let mut told = vec![];
    for name in unit.missing() {
        told.push(name);
        found.push(if is_plain_name(name) {
            let bytes = facts.external.get(name).copied().unwrap_or(0);
            let what = format!(
                "{name} is not beside the model (or links out of its folder): {bytes} bytes of its weights lie there"
            );
            finding(
                Level::Error,
                "external-data-missing",
                what,
                format!("copy it there, or save the model as one file: {one_file}"),
            )
        } else {
            let what = format!("weights lie in {name:?}, which is not a plain file name in the model's folder");
            finding(Level::Error, "external-data-outside", what, save_beside())
        });
    }
    for problem in &facts.problems {
        let Some(location) = problem.location.as_deref() else { continue };
        // One finding a file is enough, however many weights lie in it.
        if !told.contains(&location) {
            told.push(location);
            let fix = format!("export the model anew, with its files, or save it as one file: {one_file}");
            found.push(finding(Level::Error, "external-data-bounds", problem.text.clone(), fix));
        }
    }
    if unit.manifest.is_none() && !facts.external.is_empty() {
        let names: Vec<String> = facts.external.keys().cloned().collect();
        let what =
            format!("weights lie in {}, which is served with a manifest only: it holds their hashes", some(&names));
        let fix = if names.iter().all(|name| is_plain_name(name)) {
            "`onnxd push` writes the manifest; or list the files in the manifest's artifact.external_data".into()
        } else {
            format!("{}; `onnxd push` then writes the manifest", save_beside())
        };
        found.push(finding(Level::Error, "external-data", what, fix));
    }
    for name in &facts.unused {
        let fix = "take it out of artifact.external_data, and out of the folder";
        found.push(finding(Level::Warning, "external-data-unused", graph::unused(name), fix));
    }
    found
}

/// What the graph shows by itself.
pub(super) fn of_graph(facts: &Facts, manifest: Option<&std::sync::Arc<Manifest>>, runs: bool) -> Vec<Finding> {
    let mut found = vec![];
    outputs(facts, &mut found);
    inputs(facts, manifest, &mut found);
    float8(facts, &mut found);
    versions(facts, runs, &mut found);
    numbers(facts, manifest, &mut found);
    let divisions: Vec<_> = facts.problems.iter().filter(|p| p.location.is_none()).collect();
    if let Some(first) = divisions.first() {
        let more = if divisions.len() > 1 { format!(" (and {} more)", divisions.len() - 1) } else { String::new() };
        let fix = "divide floats (Cast to float32 before the Div or Mod), or by a constant other than -1";
        found.push(finding(Level::Error, "integer-division", format!("{}{more}", first.text), fix));
    }
    if facts.nodes > graph::MANY_NODES {
        let what = format!("{} nodes: each has a cost of its own in every run, whatever the rows", facts.nodes);
        let fix = "export a tree ensemble as one TreeEnsemble node; skl2onnx writes an IsolationForest tree by tree: \
                   fuse them, or use another detector";
        found.push(finding(Level::Warning, "many-nodes", what, fix));
    }
    if !facts.unsteady.is_empty() {
        let names: Vec<String> = facts.unsteady.iter().cloned().collect();
        let what = format!("{}: the values of a request can decide how long a run takes", some(&names));
        let fix = "nothing, if it must be so: such a model runs on workers, and each run is stopped at its deadline";
        found.push(finding(Level::Note, "not-steady", what, fix));
    }
    if facts.operators.contains_key("StringNormalizer") {
        let what =
            "StringNormalizer needs the locale that it names (en_US.UTF-8 unless told) on each machine that serves";
        let fix = "install the locale where it is served, or normalise text before the request";
        found.push(finding(Level::Warning, "locale", what, fix));
    }
    if !facts.random.is_empty() {
        let what = format!("{}: the same row gets another answer each time", some(&facts.random));
        let fix =
            "export for inference: model.eval() and training=TrainingMode.EVAL in PyTorch, no sampling in the graph";
        found.push(finding(Level::Warning, "random", what, fix));
    }
    if !facts.duplicates.is_empty() {
        let wasted: usize = facts.duplicates.iter().map(|(names, bytes)| (names.len() - 1) * bytes).sum();
        let what = format!("{wasted} bytes are constants that are there already: {}", some(&facts.duplicates[0].0));
        let fix = "share them when exporting: torch.onnx.export deduplicates tied weights, other exporters have a pass for it";
        found.push(finding(Level::Note, "duplicate-weights", what, fix));
    }
    found
}

fn outputs(facts: &Facts, found: &mut Vec<Finding>) {
    for (name, labels) in &facts.labels {
        let what = format!(
            "output {name} is a sequence of maps (ZipMap): it is served as a tensor of probabilities [rows, {}], whose \
             columns are {}",
            labels.len(),
            some(labels)
        );
        let fix = "nothing here; with options={id(model): {\"zipmap\": False}} skl2onnx exports the tensor itself";
        found.push(finding(Level::Note, "zipmap", what, fix));
    }
    for output in facts.outputs.iter().filter(|o| !o.served) {
        let Declared { name, kind, .. } = output;
        let fix = "make it a tensor of floats, integers, bool or string (such as ConcatFromSequence), or take it out of \
                   the outputs";
        let what = format!("output {name} is of the type {kind}, which is not served");
        found.push(finding(Level::Error, "output-type", what, fix));
    }
}

fn float8(facts: &Facts, found: &mut Vec<Finding>) {
    let ports = facts.inputs.iter().chain(&facts.outputs).filter(|port| port.served && port.kind == "float8");
    let names: Vec<String> = ports.map(|port| port.name.clone()).collect();
    if !names.is_empty() {
        let what = format!("{}: float8 is sent and answered as float16, which holds all its values", some(&names));
        let fix = "nothing here; a manifest says float16";
        found.push(finding(Level::Note, "float8", what, fix));
    }
}

fn inputs(facts: &Facts, manifest: Option<&std::sync::Arc<Manifest>>, found: &mut Vec<Finding>) {
    if facts.inputs.is_empty() {
        let what = "the graph has no inputs: it gives the same answer to everything, or random ones";
        found.push(finding(Level::Warning, "no-inputs", what, "export the part of the model that takes the features"));
    }
    for input in &facts.inputs {
        let name = &input.name;
        if !input.served {
            let fix = "let the graph take tensors of floats, integers, bool or string, and cast inside of it";
            let what = format!("input {name} is of the type {}, which is not served", input.kind);
            found.push(finding(Level::Error, "input-type", what, fix));
        }
        if input.served && input.dims.is_none() {
            let what = format!("input {name} declares no shape: nobody knows how many dimensions it has");
            found.push(finding(Level::Error, "no-shape", what, "export it with a shape, free dimensions by name"));
        }
    }
    let declared = facts.inputs.iter().filter_map(|input| input.dims.as_deref());
    let shapes: Vec<Vec<i64>> = declared.map(|dims| dims.iter().map(|dim| dim.unwrap_or(-1)).collect()).collect();
    let free =
        "export it with a free first dimension: dynamic_axes={\"x\": {0: \"N\"}} in PyTorch, [None, n] in skl2onnx";
    let guess = Rows::guess(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>());
    match guess {
        Rows::Fixed(1) => {
            let what = "it takes one row a run: rows are never run together";
            found.push(finding(Level::Warning, "fixed-batch", what, free));
        }
        Rows::Fixed(rows) => {
            let what = format!("it takes {rows} rows a run: fewer are padded, which costs as much time as {rows}");
            found.push(finding(Level::Warning, "fixed-batch", what, free));
        }
        // Of inputs that are no tensors enough is said.
        Rows::Whole if !shapes.is_empty() && shapes.len() == facts.inputs.len() => {
            let what = "the first dimensions of its inputs are not rows: each request is one run, with tensors in their full \
                        shapes";
            found.push(finding(
                Level::Note,
                "no-rows",
                what,
                "nothing, if it must be so; rows share runs where there are any",
            ));
        }
        _ => {}
    }
    let [input] = facts.inputs.as_slice() else { return };
    if guess == Rows::Whole {
        return;
    }
    let width = |dims: &[Option<i64>]| dims.get(1..)?.iter().copied().product::<Option<i64>>();
    let width = input.dims.as_deref().and_then(width);
    let named = features(facts, manifest);
    if named.from == "metadata_props" && width.is_some_and(|width| width != named.names.len() as i64) {
        let what = format!("onnxd.features names {} features, a row has {}", named.names.len(), width.unwrap_or(0));
        found.push(finding(Level::Error, "feature-names", what, "name every column, in the graph's order"));
    } else if named.from == "graph" && width.is_some_and(|width| width > 1) {
        let what = format!(
            "nothing names the {} columns of {}: requests must send them as a list, in the right order",
            width.unwrap_or(0),
            input.name
        );
        let fix =
            "onnx.helper.set_model_props(model, {\"onnxd.features\": \"cpu,memory,..\"}) before saving, or a manifest";
        found.push(finding(Level::Warning, "feature-names", what, fix));
    }
}

fn versions(facts: &Facts, runs: bool, found: &mut Vec<Finding>) {
    let mut newer: Vec<String> = vec![];
    for (domain, newest) in NEWEST {
        if let Some(version) = facts.opsets.get(domain).filter(|version| **version > newest) {
            newer.push(format!("{domain} {version} (newest known: {newest})"));
        }
    }
    if facts.ir_version > NEWEST_IR {
        newer.push(format!("IR {} (newest known: {NEWEST_IR})", facts.ir_version));
    }
    if !newer.is_empty() {
        // Where it is run, ONNX Runtime itself decides.
        let level = if runs { Level::Warning } else { Level::Error };
        let what = format!("newer than ONNX Runtime 1.32: {}", newer.join(", "));
        found.push(finding(
            level,
            "opset",
            what,
            "export with an older target_opset: 17, ai.onnx.ml 3 and IR 8 run everywhere",
        ));
    }
    if facts.opsets.get("ai.onnx").is_some_and(|version| *version < OLDEST) {
        let what = format!("opset {}: ONNX Runtime promises {OLDEST} and newer only", facts.opsets["ai.onnx"]);
        let fix = "onnx.version_converter.convert_version(model, 17), or export it anew";
        found.push(finding(Level::Warning, "opset", what, fix));
    }
    let own = |domain: &str| facts.functions.iter().any(|f| f.rsplit_once('.').is_some_and(|(d, _)| d == domain));
    let used = |domain: &str| facts.operators.keys().any(|op| op.rsplit_once('.').is_some_and(|(d, _)| d == domain));
    for domain in facts.opsets.keys().filter(|d| !KNOWN_DOMAINS.contains(&d.as_str()) && !own(d) && used(d)) {
        let what = format!("operators of the domain {domain}, which ONNX Runtime does not have by itself");
        let fix = "export without custom operators, or with their functions in the file: no libraries of operators are loaded";
        found.push(finding(Level::Error, "custom-operators", what, fix));
    }
}

fn numbers(facts: &Facts, manifest: Option<&std::sync::Arc<Manifest>>, found: &mut Vec<Finding>) {
    let fills = facts.operators.contains_key("ai.onnx.ml.Imputer") || facts.operators.contains_key("IsNaN");
    let trees: Vec<String> = facts.trees.iter().filter(|t| t.nan_goes_false).map(|t| t.name.clone()).collect();
    if !trees.is_empty() && !fills {
        let takes_nan = |m: &Manifest| {
            let mut features = m.signature.inputs.iter().flat_map(|input| &input.features);
            features.any(|f| !f.required && f.missing == Missing::Nan)
        };
        let level = if manifest.is_some_and(|m| takes_nan(m)) { Level::Warning } else { Level::Note };
        let what = format!(
            "{}: a missing value (NaN) goes to the false branch of each node (nodes_missing_value_tracks_true is not set), \
             whatever the training framework did with it",
            some(&trees)
        );
        let fix = "compare rows with NaN with the training framework; else fill missing values before the trees (Imputer), or \
                   declare the features with missing \"reject\" or a default";
        found.push(finding(level, "tree-nan", what, fix));
    }
    let rounded: usize = facts.trees.iter().map(|t| t.rounded).sum();
    if rounded > 0 {
        let what = format!("{rounded} thresholds of trees are no float32 numbers, while the inputs are float32");
        let fix = "round each threshold down to float32 when exporting, so that x <= t decides as in training";
        found.push(finding(Level::Warning, "float64-thresholds", what, fix));
    }
    if !facts.narrowed.is_empty() {
        let what = format!("{}: float64 is rounded to float32 (7 digits)", some(&facts.narrowed));
        let fix =
            "compare answers near thresholds with the training framework; train on float32, or keep float64 throughout";
        found.push(finding(Level::Warning, "float64-to-float32", what, fix));
    }
    let doubles = facts.inputs.iter().any(|i| i.kind == "float64") || facts.doubles > 0;
    if doubles && facts.narrowed.is_empty() && rounded == 0 {
        let what = format!("it computes in float64 (constants: {}), which is slower than float32", facts.doubles);
        found.push(finding(Level::Note, "float64", what, "export in float32 unless the digits matter"));
    }
}

/// What a run showed.
pub(super) fn of_run(facts: &Facts, profile: &Profile, derived: &Derived, before: &[Finding]) -> Vec<Finding> {
    let mut found = vec![];
    for output in derived.signature["outputs"].as_array().into_iter().flatten() {
        let name = output["name"].as_str().unwrap_or_default();
        let ran: Vec<i64> = output["shape"].as_array().into_iter().flatten().filter_map(|d| d.as_i64()).collect();
        let declared = facts.outputs.iter().find(|o| o.name == name);
        let Some((dims, shown)) = declared.and_then(|o| Some((o.dims.as_ref()?, o.shape.as_ref()?))) else { continue };
        let fits = |(dim, ran): (&Option<i64>, &i64)| dim.is_none_or(|dim| dim == *ran);
        if dims.len() != ran.len() || !dims.iter().zip(&ran).all(fits) {
            let ran: Vec<String> = ran.iter().map(|d| if *d < 0 { "N".into() } else { d.to_string() }).collect();
            let what = format!("output {name} is declared [{}], a run gave [{}]", shown.join(", "), ran.join(", "));
            let fix = "nothing here, since answers have the shape that the run gives; clients must not rely on the declared one";
            found.push(finding(Level::Note, "declared-shape", what, fix));
        }
    }
    if !derived.random.is_empty() && facts.random.is_empty() {
        let what = format!("{}: the same row got another answer the second time", some(&derived.random));
        found.push(finding(Level::Warning, "random", what, "take random operators out of the graph"));
    }
    if profile.trial == Trial::Nothing {
        let what = profile.warnings.join("; ");
        let fix = "write golden samples into a manifest; without one, whatever fails is an error of the request alone";
        found.push(finding(Level::Warning, "not-tried", what, fix));
    }
    // What the declared shapes show was told already.
    if profile.rows == Rows::Whole && !before.iter().any(|f| f.kind == "no-rows" || f.kind == "no-inputs") {
        let what = profile.warnings.iter().find(|w| w.contains("one run")).cloned();
        let what = what.unwrap_or_else(|| "each request is one run, its tensors in their full shapes".into());
        found.push(finding(
            Level::Note,
            "no-rows",
            what,
            "nothing, if it must be so; rows share runs where there are any",
        ));
    }
    let depend = profile.rows == Rows::Any && profile.invariance == Invariance::No && profile.trial != Trial::Nothing;
    if depend && derived.random.is_empty() {
        let what = profile.warnings.iter().find(|w| w.contains("never batched")).cloned().unwrap_or_default();
        let fix = "look for operators over the first axis (a mean, a softmax, a normalisation of the batch)";
        found.push(finding(Level::Warning, "rows-depend", what, fix));
    }
    if profile.one_row_us > SLOW_US {
        let what = format!("one row takes {:.1} ms", profile.one_row_us / 1000.0);
        found.push(finding(Level::Warning, "slow", what, "fewer trees or layers, or fewer nodes (see the operators)"));
    }
    found
}

/// What it was refused for; nothing when the graph has told it already.
pub(super) fn of_rejection(rejection: &Rejection, before: &[Finding]) -> Option<Finding> {
    let told = before.iter().any(|f| f.level == Level::Error && f.kind != "external-data");
    if rejection.stage == Stage::Verify && told {
        return None;
    }
    let fix = match rejection.stage {
        Stage::Fetch | Stage::Verify => {
            "make the manifest and the graph agree; `onnxd push` writes a manifest from the graph"
        }
        Stage::Probe => {
            "a server refuses it the same way: take parts out of the graph until it runs, and report what kills it"
        }
        Stage::Load => {
            "export it for operators that this ONNX Runtime has (target_opset 17), and check it: onnx.checker"
        }
        Stage::Golden => {
            "run the row with onnxruntime in Python; when the model is right, write its golden samples anew"
        }
    };
    Some(finding(Level::Error, "run", rejection.to_string(), fix))
}
