//! Whose training inputs are held against: a challenger's own where its manifest tells of it, else the champion's. On a server, over a
//! restart, and in a replay.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::repo::{Repo, settled};
use common::{Server, wait_for};
use onnxd::shadow::origin::now;
use onnxd::source::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Rows, each of another series.
const ROWS: u64 = 60;

/// A row on which `cpu_zscore` is 0, which is in the upper of two bins.
fn row(number: u64, ts: u64) -> Value {
    json!({"cpu_zscore": 0, "memory_zscore": 1, "series": format!("pod-{number}"), "ts": ts})
}

/// How `cpu_zscore` and the score were distributed: what comes is in the upper bin of the one, the lower of the other.
fn reference(upper: f64) -> Value {
    let of =
        |edges: [f64; 3], upper: f64| json!({"edges": edges, "p": [1.0 - upper, upper], "p_missing": 0.0, "n": 1000});
    json!({"cpu_zscore": of([-5.0, 0.0, 10.0], upper), "score": of([0.0, 0.5, 1.0], 0.95), "gone": of([0.0, 1.0, 2.0], 0.5)})
}

/// A champion that was trained on other inputs, a challenger that was trained on what comes, one that was not either, and one
/// that does not tell.
fn repository() -> Repo {
    let repo = Repo::new();
    let trained = [("good", Some(0.5)), ("other", Some(0.98)), ("other", Some(0.5)), ("other", None)];
    let mut pins = serde_json::Map::new();
    for (version, (name, upper)) in (1..).zip(trained) {
        repo.install(version, name);
        repo.edit(version, |manifest| {
            let manifest = manifest.as_object_mut().expect("an object");
            manifest.remove("reference");
            manifest.extend(upper.map(|upper| ("reference".to_owned(), reference(upper))));
        });
        let manifest = fs::read(repo.version(version).join("manifest.json")).expect("a manifest");
        pins.insert(version.to_string(), json!(sha256(&manifest)));
    }
    let aliases = json!({"champion": "1", "challengers": ["2", "3", "4"], "epoch": 1, "manifest_sha256": pins});
    repo.write_aliases(&aliases.to_string());
    repo
}

/// The challengers of what a server tells, each by what of it is asked for.
fn each(told: &Value, list: &str, part: impl Fn(&Value) -> Value) -> Vec<Value> {
    told[list].as_array().into_iter().flatten().map(part).collect()
}

/// What a verdict on each of the three says of their inputs.
#[track_caller]
fn holds_each_by_its_own_training(verdict: &Value) {
    let alarms = |drift: &Value| -> Vec<String> {
        let features = drift.as_object().into_iter().flatten();
        features.filter(|(_, told)| told["alarm"] == json!(true)).map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(alarms(&verdict["drift"]), ["cpu_zscore", "score"], "of the champion's training");
    let own = each(verdict, "verdicts", |judged| judged["drift"].clone());
    let names = |drift: &Value| drift.as_object().map(|drift| drift.keys().cloned().collect::<Vec<_>>());
    let features = Some(vec!["cpu_zscore".to_owned()]);
    assert_eq!(own.iter().map(names).collect::<Vec<_>>(), [features.clone(), features, None], "inputs that it has");
    assert_eq!(own.iter().map(alarms).collect::<Vec<_>>(), [vec![], vec!["cpu_zscore".to_owned()], vec![]]);
    let condition = |judged: &Value| {
        let mut conditions = judged["conditions"].as_array().into_iter().flatten();
        let inputs = conditions.find(|condition| condition["name"] == json!("inputs as in training"));
        inputs.map_or(Value::Null, |inputs| json!([inputs["holds"], inputs["value"]]))
    };
    let drifted = each(verdict, "verdicts", condition);
    assert_eq!(drifted, [json!([true, 0.0]), json!([false, 1.0]), json!([false, 2.0])]);
    let reasons = |judged: &Value| {
        let of_inputs = |reason: &&str| reason.starts_with("inputs are not as in");
        let mut reasons = judged["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
        json!(reasons.find(of_inputs))
    };
    let so = "so that what is compared does not stand for them";
    let said = [
        Value::Null,
        json!(format!("inputs are not as in version 3's training: cpu_zscore, {so}")),
        json!(format!("inputs are not as in training: cpu_zscore, score, {so}")),
    ];
    assert_eq!(each(verdict, "verdicts", reasons), said);
}

fn shadow(server: &Server) -> Value {
    server.ops("/models/anomaly/shadow").json()
}

/// What was counted of each challenger's inputs.
fn drifts(shadow: &Value) -> Vec<Value> {
    each(shadow, "challengers", |challenger| challenger["drift"].clone())
}

fn rows_of_each(shadow: &Value) -> Vec<Value> {
    each(shadow, "challengers", |challenger| challenger["evidence"]["requests"].clone())
}

#[test]
fn a_challenger_is_held_by_drift_from_its_own_training() {
    let (repo, state) = (repository(), TempDir::new().expect("a folder"));
    let arguments = ["--state", state.path().to_str().expect("a path")];
    let server = Server::start(repo.path(), &arguments);
    settled(&server, 1);
    let ts = now() / 600 * 600;
    server.predict(&json!((0..ROWS).map(|number| row(number, ts)).collect::<Vec<_>>()));
    // Those of a day, or of two if that is over meanwhile.
    let values = |drift: &Value| -> u64 {
        let days = drift["cpu_zscore"]["days"].as_object().into_iter().flatten();
        days.filter_map(|(_, day)| day["counts"][1].as_u64()).sum()
    };
    let seen = wait_for("all rows", || {
        let shadow = shadow(&server);
        (rows_of_each(&shadow) == vec![json!(ROWS); 3] && values(&shadow["drift"]) == ROWS).then_some(shadow)
    });
    assert_eq!(drifts(&seen).iter().map(values).collect::<Vec<_>>(), [ROWS, ROWS, 0]);
    holds_each_by_its_own_training(&server.ops("/models/anomaly/verdict").json());
    server.stop();

    let server = Server::start(repo.path(), &arguments);
    settled(&server, 1);
    let kept = shadow(&server);
    assert_eq!((drifts(&kept), &kept["drift"]), (drifts(&seen), &seen["drift"]));
    holds_each_by_its_own_training(&server.ops("/models/anomaly/verdict").json());
    server.stop();

    // A file of a version that did not count them: all else is read.
    let files: Vec<PathBuf> = fs::read_dir(state.path().join("anomaly"))
        .expect("files")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.to_str().is_some_and(|path| path.contains("-and-")))
        .collect();
    assert_eq!(files.len(), 3, "of each pair: {files:?}");
    for path in files {
        let mut file: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        assert!(file["saved"].as_object_mut().expect("an object").remove("drift").is_some());
        fs::write(&path, file.to_string()).expect("written");
    }
    let server = Server::start(repo.path(), &arguments);
    settled(&server, 1);
    let kept = shadow(&server);
    assert_eq!(rows_of_each(&kept), vec![json!(ROWS); 3]);
    assert_eq!(drifts(&kept).iter().map(values).collect::<Vec<_>>(), [0; 3]);
    assert!(!server.log().contains("cannot be read"), "{}", server.log());
}

#[test]
fn a_replay_says_the_same() {
    let (repo, folder) = (repository(), TempDir::new().expect("a folder"));
    let file = folder.path().join("rows.ndjson");
    let lines: Vec<String> = (0..ROWS).map(|number| row(number, 1_700_000_000).to_string()).collect();
    fs::write(&file, lines.join("\n")).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.arg("replay").arg(&file).arg("--json").arg("--repository").arg(repo.path()).current_dir(common::root());
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    holds_each_by_its_own_training(&serde_json::from_slice(&output.stdout).expect("JSON"));
}
