//! `onnxd inspect`: each kind of finding is made where it should be and only there, and a model that kills is a finding.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::repo::fixture;
use common::{root, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

fn command(file: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.arg("inspect").arg(file).args(args).current_dir(root());
    command
}

/// Standard output and the exit code.
fn run(file: &Path, args: &[&str]) -> (String, i32) {
    let output = command(file, args).output().expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.stderr.is_empty() || !text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (text, output.status.code().expect("an exit code"))
}

fn report(file: &Path, args: &[&str]) -> Value {
    let (text, code) = run(file, &[args, &["--json"]].concat());
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(code, i32::from(report["served"] != json!(true)), "{text}");
    report
}

/// Level and kind of each finding.
fn found(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let findings = report["findings"].as_array().expect("a list");
    findings.iter().map(|f| (text(&f["level"]), text(&f["kind"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(level, kind)| ((*level).to_owned(), (*kind).to_owned())).collect()
}

/// A folder with these files, and the good manifest for the model if it is asked for.
fn folder(model: &Path, manifest: Option<&dyn Fn(&mut Value)>) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let onnx = fs::read(model).expect("a fixture");
    fs::write(folder.path().join("model.onnx"), &onnx).expect("a file");
    if let Some(change) = manifest {
        let text = fs::read_to_string(fixture("good/manifest.json")).expect("a fixture");
        let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
        manifest["artifact"]["sha256"] = json!(onnxd::model::sha256(&onnx));
        manifest["artifact"]["bytes"] = json!(onnx.len());
        change(&mut manifest);
        fs::write(folder.path().join("manifest.json"), manifest.to_string()).expect("a file");
    }
    folder
}

#[test]
fn the_trained_champion_has_no_findings() {
    let report = report(&root().join("models/anomaly/1"), &[]);
    let keys: Vec<_> = report.as_object().expect("an object").keys().map(String::as_str).collect();
    // Programs read them: they may become more, and none may go or change its meaning.
    let promised = "file bytes sha256 manifest ir_version producer opsets inputs outputs features external_data nodes operators \
                    functions findings measured served";
    assert_eq!(keys.join(" "), promised);
    assert_eq!(report["findings"], json!([]));
    assert_eq!(report["served"], json!(true));
    assert_eq!(report["manifest"], json!("anomaly version 1"));
    assert_eq!(report["opsets"], json!({"ai.onnx": 17, "ai.onnx.ml": 3}));
    assert_eq!(report["operators"]["Gemm"], json!(6));
    assert_eq!(report["inputs"], json!([{"name": "features", "dtype": "float32", "shape": ["N", 5]}]));
    assert_eq!(report["features"]["from"], json!("manifest.json"));
    assert_eq!(report["features"]["names"][3], json!("cpu_baseline"));
    let measured = &report["measured"];
    assert_eq!((&measured["invariance"], &measured["max_batch"]), (&json!("exact"), &json!(1024)));
    assert_eq!((&measured["batch_rows"], &measured["steady"]), (&json!(64), &json!(true)));
    let (one, row) = (measured["one_row_us"].as_f64().expect("a number"), measured["row_in_batch_us"].as_f64());
    assert!(one > row.expect("a number"), "{measured}");
    let alone = folder(&root().join("models/anomaly/1/model.onnx"), None);
    let report = self::report(alone.path(), &["--no-run"]);
    assert_eq!(report["features"]["from"], json!("metadata_props"));
    assert_eq!(report["measured"], json!(null));
}

/// All that the graph alone shows, without ONNX Runtime.
#[test]
fn each_fault_of_a_graph_is_found_and_no_other() {
    let nameless = ("warning", "feature-names");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("zipmap.onnx", &[nameless, ("note", "zipmap")]),
        ("exports/float8.onnx", &[("note", "float8")]),
        ("faults/sequence.onnx", &[("error", "output-type"), nameless]),
        ("faults/half.onnx", &[nameless]),
        ("faults/no-inputs.onnx", &[("warning", "no-inputs")]),
        ("exports/map-input.onnx", &[("error", "input-type")]),
        ("exports/no-shape.onnx", &[("error", "no-shape")]),
        ("exports/first-axes.onnx", &[("note", "no-rows")]),
        ("scalar-input.onnx", &[("note", "no-rows")]),
        ("fixed-batch.onnx", &[("warning", "fixed-batch"), nameless]),
        ("faults/three-rows.onnx", &[("warning", "fixed-batch"), nameless]),
        ("metadata.onnx", &[]),
        ("named.onnx", &[]),
        ("faults/feature-count.onnx", &[("error", "feature-names")]),
        ("faults/new-opset.onnx", &[("error", "opset"), nameless]),
        ("faults/old-opset.onnx", &[nameless, ("warning", "opset")]),
        ("faults/custom.onnx", &[("error", "custom-operators"), nameless, ("note", "not-steady")]),
        ("faults/function.onnx", &[nameless, ("note", "not-steady")]),
        ("faults/tree.onnx", &[nameless, ("note", "tree-nan")]),
        ("faults/tree-tracks.onnx", &[nameless]),
        ("faults/tree-double.onnx", &[nameless, ("warning", "float64-thresholds")]),
        ("faults/double.onnx", &[nameless, ("warning", "float64-to-float32")]),
        ("faults/double-throughout.onnx", &[nameless, ("note", "float64")]),
        ("faults/dropout-training.onnx", &[nameless, ("warning", "random")]),
        ("faults/dropout-inference.onnx", &[nameless]),
        ("random.onnx", &[nameless, ("warning", "random")]),
        ("faults/locale.onnx", &[("warning", "locale")]),
        ("faults/many-nodes.onnx", &[("warning", "many-nodes")]),
        ("faults/duplicates.onnx", &[nameless, ("note", "duplicate-weights")]),
        ("hang/model.onnx", &[("note", "not-steady")]),
        ("crash/model.onnx", &[("error", "integer-division")]),
        ("crash-on-request/model.onnx", &[("error", "integer-division")]),
        ("faults/outside.onnx", &[("error", "external-data-outside"), ("error", "external-data"), nameless]),
        ("wide.onnx", &[("error", "external-data-missing"), ("error", "external-data")]),
        ("external-beyond/model.onnx", &[("error", "external-data-bounds")]),
        ("external/model.onnx", &[("error", "external-data-missing")]),
        ("external-good/model.onnx", &[]),
        ("make.py", &[("error", "not-a-model")]),
    ];
    for (name, expected) in cases {
        assert_eq!(found(&report(&fixture(name), &["--no-run"])), pairs(expected), "{name}");
    }
}

#[test]
fn what_the_files_beside_it_show_is_found() {
    let good = fixture("good/model.onnx");
    let files = |folder: &TempDir| found(&report(folder.path(), &["--no-run"]));
    assert_eq!(files(&folder(&good, Some(&|_| {}))), pairs(&[]));
    let other = folder(&good, Some(&|m| m["artifact"]["sha256"] = json!("0".repeat(64))));
    assert_eq!(files(&other), pairs(&[("error", "manifest")]));
    let broken = folder(&good, Some(&|m| m["x"] = json!(1)));
    assert_eq!(files(&broken), pairs(&[("error", "manifest"), ("warning", "feature-names")]));
    // A file that belongs to the model by its manifest only.
    let listed = |m: &mut Value| {
        let sha256 = onnxd::model::sha256(b"12345678");
        m["artifact"]["external_data"] = json!([{"path": "weights.bin", "sha256": sha256, "bytes": 8}]);
    };
    let unused = folder(&good, Some(&listed));
    fs::write(unused.path().join("weights.bin"), b"12345678").expect("a file");
    assert_eq!(files(&unused), pairs(&[("warning", "external-data-unused")]));
    fs::write(unused.path().join("weights.bin"), b"12345679").expect("a file");
    assert_eq!(files(&unused), pairs(&[("error", "manifest"), ("warning", "external-data-unused")]));
    // A link out of the folder is not followed.
    fs::remove_file(unused.path().join("weights.bin")).expect("a file");
    std::os::unix::fs::symlink(fixture("external-good/weights.bin"), unused.path().join("weights.bin"))
        .expect("a link");
    assert_eq!(files(&unused)[0], pairs(&[("error", "external-data-missing")])[0]);
    // Missing values reach the trees, the manifest says.
    let tree = folder(&fixture("faults/tree.onnx"), Some(&|_| {}));
    assert_eq!(files(&tree), pairs(&[("warning", "tree-nan")]));
}

/// It would be served once it is pushed, so it is run; and as it lies there it would be refused.
#[test]
fn weights_without_a_manifest_are_run_and_refused() {
    let bare = folder(&fixture("external-good/model.onnx"), None);
    fs::copy(fixture("external-good/weights.bin"), bare.path().join("weights.bin")).expect("a file");
    let report = report(bare.path(), &[]);
    assert_eq!(found(&report), pairs(&[("error", "external-data"), ("warning", "feature-names")]));
    let file = json!({"path": "weights.bin", "used_bytes": 8, "bytes": 8, "listed": false});
    assert_eq!(report["external_data"], json!([file]));
    assert!(report["measured"]["one_row_us"].is_number(), "{report}");
}

#[test]
fn what_a_run_shows_is_found() {
    let nameless = ("warning", "feature-names");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("good/model.onnx", &[]),
        ("declared-wrong.onnx", &[nameless, ("note", "declared-shape")]),
        ("batch-mean/model.onnx", &[("warning", "rows-depend")]),
        ("slow/model.onnx", &[("warning", "slow"), ("note", "not-steady")]),
        ("wrong-golden/model.onnx", &[("error", "run")]),
        ("fails/model.onnx", &[("error", "run")]),
        ("hungry/model.onnx", &[("error", "run"), ("note", "not-steady")]),
        ("zipmap.onnx", &[nameless, ("note", "zipmap")]),
        // The graph has told it already.
        ("exports/map-input.onnx", &[("error", "input-type")]),
        ("exports/first-axes.onnx", &[("note", "no-rows")]),
        ("exports/four-together.onnx", &[("warning", "fixed-batch"), nameless, ("note", "no-rows")]),
        ("exports/pooled.onnx", &[nameless, ("note", "no-rows")]),
        ("exports/picky.onnx", &[("warning", "not-tried")]),
        ("exports/random-draw.onnx", &[("warning", "no-inputs"), ("warning", "random")]),
        ("faults/new-opset.onnx", &[("error", "run"), nameless, ("warning", "opset")]),
        // What runs is known, whatever its number.
        ("faults/function.onnx", &[nameless, ("note", "not-steady")]),
        ("random.onnx", &[nameless, ("warning", "random")]),
    ];
    for (name, expected) in cases {
        assert_eq!(found(&report(&fixture(name), &[])), pairs(expected), "{name}");
    }
    let refused = report(&fixture("wrong-golden/model.onnx"), &[]);
    let what = refused["findings"][0]["what"].as_str().expect("text");
    assert!(what.contains("golden sample 0") && what.contains("the manifest expects"), "{what}");
}

/// As a model does that crashes ONNX Runtime: SIGABRT, while it runs.
#[test]
fn a_model_that_kills_the_process_is_a_finding() {
    let child = command(&fixture("hang"), &["--json"]).stdout(Stdio::piped()).spawn().expect("the program runs");
    let inspecting = child.id();
    let probe = wait_for("the probe", || {
        let tasks = fs::read_dir(format!("/proc/{inspecting}/task")).ok()?;
        let children = tasks.flatten().find_map(|task| {
            fs::read_to_string(task.path().join("children")).ok().filter(|children| !children.trim().is_empty())
        });
        let probe = children?.trim().to_owned();
        // Once its limits are set it is past reading the model.
        let limits = fs::read_to_string(format!("/proc/{probe}/limits")).ok()?;
        let address_space = limits.lines().find(|line| line.starts_with("Max address space"))?;
        (!address_space.contains("unlimited")).then_some(probe)
    });
    assert!(Command::new("kill").args(["-s", "ABRT", &probe]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found(&report)[0], ("error".to_owned(), "run".to_owned()));
    assert!(report["findings"][0]["what"].as_str().expect("text").contains("signal 6 (SIGABRT)"), "{report}");
}

#[test]
fn people_read_the_same() {
    let (text, code) = run(&fixture("zipmap.onnx"), &[]);
    assert_eq!(code, 0);
    for part in [
        "zipmap.onnx: 490 bytes, SHA-256",
        "IR 8 by onnxd-fixtures, opsets ai.onnx 17, ai.onnx.ml 3",
        "output_probability  sequence of maps  not declared",
        "features: float_input (from graph)",
        "5 nodes: ",
        "note     zipmap\n  output output_probability is a sequence of maps (ZipMap): it is served as a tensor",
        "[rows, 3], whose columns are 0, 1, 2\n  -> ",
        "options={id(model): {\"zipmap\": False}}",
        "would be served (errors: 0, warnings: 1, notes: 1)",
    ] {
        assert!(text.contains(part), "{part}\n---\n{text}");
    }
    let (text, code) = run(&fixture("good"), &[]);
    assert_eq!(code, 0);
    for part in ["one row", "64 rows", "bit for bit", "most rows in a run  1024", "\nwould be served (errors: 0"] {
        assert!(text.contains(part), "{part}\n---\n{text}");
    }
    let (text, _) = run(&fixture("external-good"), &["--no-run"]);
    assert!(text.contains(" weights.bin  8      8     yes") && text.contains("it was not run"), "{text}");
}

#[test]
fn what_cannot_be_inspected_is_said() {
    let code = |command: &mut Command| {
        let output = command.output().expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, told) = code(&mut command(&PathBuf::from("no-such.onnx"), &[]));
    assert!(status == Some(2) && told.contains("name an .onnx file"), "{told}");
    let (status, told) = code(&mut command(&fixture("good"), &["--onnxruntime", "no-such.so"]));
    assert!(status == Some(2) && told.contains("--no-run"), "{told}");
    assert_eq!(code(Command::new(env!("CARGO_BIN_EXE_onnxd")).arg("inspect")).0, Some(2));
}
