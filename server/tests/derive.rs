//! Derived manifests: complete, valid, and without an effect on what is answered.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::repo::fixture;
use common::{Server, root};
use onnxd::Options;
use onnxd::model::manifest::Manifest;
use onnxd::model::runtime::Runtime;
use onnxd::model::{Artifact, External, ModelId};
use onnxd::probe::Probe;
use serde_json::{Value, json};
use tempfile::TempDir;

fn derive(file: &Path, external: Vec<External>, name: &str) -> Value {
    let runtime = Runtime::load(None).expect("ONNX Runtime");
    let onnx = fs::read(file).expect("a fixture");
    let sha256 = onnxd::model::sha256(&onnx);
    let id = ModelId { name: name.into(), version: "1".into(), sha256, manifest_sha256: None };
    let artifact = Artifact { id, onnx: onnx.into(), external, manifest: None };
    let executable = Some(PathBuf::from(env!("CARGO_BIN_EXE_onnxd")));
    let probe = Probe { executable, ..Options::new(".").probe };
    let (profile, derived) = probe.derive(&runtime, &artifact, None).expect("derived");
    derived.manifest(&artifact, &profile, "2026-11-24T00:00:00Z")
}

/// A repository with the model and its derived manifest.
fn install(file: &Path, name: &str, manifest: &Value) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let version = folder.path().join(name).join("1");
    fs::create_dir_all(&version).expect("a folder");
    fs::copy(file, version.join("model.onnx")).expect("a file");
    fs::write(version.join("manifest.json"), manifest.to_string()).expect("a file");
    folder
}

/// Checks a manifest against the JSON schema, by another implementation than ours.
fn validate(manifest: &Value) {
    let check = "import json, sys, jsonschema\n\
                 jsonschema.validate(json.loads(sys.argv[2]), json.load(open(sys.argv[1])))";
    let output = Command::new(root().join(".venv/bin/python"))
        .args(["-c", check])
        .arg(root().join("models/manifest.schema.json"))
        .arg(manifest.to_string())
        .output()
        .expect("Python: run `make test`, which installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Requests that must be answered alike with and without the manifest, refusals included.
fn requests(name: &str) -> Vec<Value> {
    match name {
        "good" => vec![json!({"features": [1, 2, 3, 40, 5]}), json!({"features": [1, null, 3, 40, 5]}), json!({})],
        "metadata" => {
            vec![json!({"d": 4, "c": 3, "b": 2, "a": 1}), json!([{"a": 1}]), json!({"a": null, "b": 1, "c": 1, "d": 1})]
        }
        "named" => vec![
            json!([{"cpu": 1, "memory": 2, "region": "eu"}, {"cpu": [1], "memory": [2], "region": ["us"]}]),
            json!({"cpu": 1}),
        ],
        "vector" => vec![json!({"features": [1, 2, 3, 4]}), json!({"features": [1, 2, 3]}), json!({"feature": 1})],
        "types" => vec![
            json!({"int64": 5, "int32": 6, "float64": 1.1, "bool": true, "float32": 0.1}),
            json!({"int64": 1.5, "int32": 6, "float64": 1.1, "bool": true, "float32": 0.1}),
        ],
        "scalar-input" => vec![json!({"x": 2}), json!([{"x": 2}, {"x": 3}]), json!({"x": [1, 2]})],
        "exports/first-axes" => vec![json!({"x": [[1, 2, 3]], "w": [[1, 2], [0, 1], [1, 0]], "k": 2}), json!({"k": 2})],
        "exports/four-rows" => vec![json!([{"x": [1, 2, 3]}, {"x": [0, 0, 1]}])],
        "exports/tokens" => vec![json!({"input_ids": [1, 2], "attention_mask": [1, 1]})],
        "exports/float8" => {
            vec![json!({"e4m3fn_in": [1, 0.3], "e4m3fnuz_in": [1, 2], "e5m2_in": [1, 2], "e5m2fnuz_in": [1, 2]})]
        }
        "exports/zipmap-row" => vec![json!({"x": [1, 2, 3]})],
        "exports/random-draw" => vec![json!({"x": 1})],
        "zipmap" => vec![json!({"float_input": [1, 2, 3, 4]})],
        "declared-wrong" | "fixed-batch" => vec![json!([{"x": [1, 2, 3, 4]}, {"x": [0, 0, 0, 1]}])],
        other => panic!("no requests for {other}"),
    }
}

#[test]
fn a_derived_manifest_is_valid_and_changes_no_answer() {
    let names = "good metadata named vector types declared-wrong fixed-batch scalar-input zipmap exports/first-axes \
                 exports/four-rows exports/tokens exports/random-draw exports/float8 exports/zipmap-row";
    for path in names.split_whitespace() {
        let bodies = requests(path);
        let name = path.trim_start_matches("exports/");
        let path = if name == "good" { "good/model.onnx".to_owned() } else { format!("{path}.onnx") };
        let bare = TempDir::new().expect("a temporary folder");
        // Under the same name, since refusals may tell it.
        let file = bare.path().join(format!("{name}.onnx"));
        fs::copy(fixture(&path), &file).expect("a file");
        let manifest = derive(&file, vec![], name);
        validate(&manifest);
        let parsed = Manifest::parse(manifest.to_string().as_bytes()).expect(name);
        assert!((1..=4).contains(&parsed.golden.samples.len()), "{name}: {manifest}");
        assert_eq!(manifest["tags"], json!({"derived": true}));
        let complete = install(&file, name, &manifest);
        let (without, with) = (Server::start(&file, &[]), Server::start(complete.path(), &[]));
        assert_eq!(with.model_status(name)["rejected"], json!([]), "{name}");
        for sample in &parsed.golden.samples {
            let body = Value::Object(sample.input.clone());
            let (with, without) = (with.predict(&body), without.predict(&body));
            assert!(with == without || name == "random-draw", "{name}: {body}");
        }
        for body in bodies {
            let (a, b) = (without.post("/predict", &body.to_string()), with.post("/predict", &body.to_string()));
            let told = |reply: &common::http::Reply| {
                let mut told = reply.json();
                // Of this request alone.
                told.as_object_mut().map(|o| o.remove("request_id"));
                (reply.status, told)
            };
            assert_eq!(told(&a), told(&b), "{name}: {body}");
        }
    }
}

#[test]
fn it_says_what_the_graph_and_a_run_say() {
    let derived = derive(&fixture("good/model.onnx"), vec![], "anomaly");
    let real: Value =
        serde_json::from_slice(&fs::read(fixture("good/manifest.json")).expect("a fixture")).expect("JSON");
    for pointer in ["/artifact/sha256", "/artifact/bytes", "/artifact/opsets", "/artifact/ir_version"] {
        assert_eq!(derived.pointer(pointer), real.pointer(pointer), "{pointer}");
    }
    let mut signature = real["signature"].clone();
    // Nothing in the file names them.
    signature["inputs"][0].as_object_mut().expect("an object").remove("features");
    assert_eq!(derived["signature"], signature);
    // A limit that a run's time sets is each server's own.
    assert_eq!(derived["limits"], json!({}));
    // That its author would have to promise.
    assert_eq!(derived["golden"]["batch_invariant"], json!(null));
    let keys: Vec<_> = derived.as_object().expect("an object").keys().map(String::as_str).collect();
    let known: Vec<_> = real.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys[..known.len()], known, "in the order of the schema");

    let named = derive(&fixture("metadata.onnx"), vec![], "m");
    let features: Vec<_> = named["signature"]["inputs"][0]["features"].as_array().expect("features").clone();
    assert_eq!(features[0], json!({"name": "a", "required": true, "missing": "reject"}));
    assert_eq!(features.len(), 4);
    assert_eq!(
        named["signature"]["outputs"][1],
        json!({"name": "probabilities", "dtype": "float32", "shape": [-1, 3]})
    );
    // The graph declares one value, whatever the rows.
    let measured = derive(&fixture("declared-wrong.onnx"), vec![], "m");
    assert_eq!(measured["signature"]["outputs"][0]["shape"], json!([-1]));
    let whole = derive(&fixture("exports/first-axes.onnx"), vec![], "m");
    let signature = &whole["signature"];
    assert_eq!((&signature["layout"], &whole["limits"]["max_batch"]), (&json!("whole"), &json!(1)));
    assert_eq!(signature["inputs"][1], json!({"name": "w", "dtype": "float32", "shape": [3, -1]}));
    assert_eq!(signature["inputs"][2], json!({"name": "k", "dtype": "int64", "shape": []}));
    assert_eq!(signature["outputs"][0], json!({"name": "y", "dtype": "float32", "shape": [-1, -1]}));
    assert_eq!(signature["outputs"][1], json!({"name": "twice", "dtype": "int64", "shape": []}));
    let four = derive(&fixture("exports/four-rows.onnx"), vec![], "m");
    assert_eq!((&four["limits"]["max_batch"], &four["golden"]["batch_invariant"]), (&json!(4), &json!(null)));
    assert_eq!(four["signature"]["inputs"][0]["shape"], json!([4, 3]));
    let maps = derive(&fixture("zipmap.onnx"), vec![], "m");
    let probabilities = json!({"name": "output_probability", "dtype": "float32", "shape": [-1, 3]});
    assert_eq!(maps["signature"]["outputs"][1], probabilities);
    let fixed = derive(&fixture("fixed-batch.onnx"), vec![], "m");
    assert_eq!((&fixed["limits"]["max_batch"], &fixed["golden"]["batch_invariant"]), (&json!(1), &json!(false)));
}

#[test]
fn files_of_weights_are_listed_with_their_hashes() {
    let bytes = fs::read(fixture("external-good/weights.bin")).expect("a fixture");
    let external = vec![External { path: "weights.bin".into(), bytes: bytes.into() }];
    let derived = derive(&fixture("external-good/model.onnx"), external, "anomaly");
    let real: Value =
        serde_json::from_slice(&fs::read(fixture("external-good/manifest.json")).expect("a fixture")).expect("JSON");
    assert_eq!(derived["artifact"]["external_data"], real["artifact"]["external_data"]);
}

/// What differs from run to run, or is not finite, would make the server refuse the model that it was derived from.
#[test]
fn answers_that_no_other_run_gives_are_in_no_sample() {
    let random = derive(&fixture("random.onnx"), vec![], "random");
    for sample in random["golden"]["samples"].as_array().expect("samples") {
        assert_eq!(sample["expected"].as_object().expect("an object").keys().collect::<Vec<_>>(), ["sum"]);
    }
    let rows = derive(&fixture("no-number.onnx"), vec![], "no-number");
    let samples = rows["golden"]["samples"].as_array().expect("samples");
    assert!(!samples.is_empty());
    for sample in samples {
        assert!(sample["expected"]["root"].is_number(), "{sample}");
    }
    for (name, manifest) in [("random", random), ("no-number", rows)] {
        let repository = install(&fixture(&format!("{name}.onnx")), name, &manifest);
        let server = Server::start(repository.path(), &[]);
        assert_eq!(server.model_status(name)["rejected"], json!([]), "{name}");
    }
}
