//! `push`, `promote`, `rollback` and `status` on a folder, as their users see them.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::repo::{Repo, fixture, row, serves};
use common::{Server, root, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

fn run(repository: &Path, args: &[&str]) -> Output {
    let repository = repository.to_str().expect("text");
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(args).args(["--repository", repository]).current_dir(root()).output().expect("it runs")
}

#[track_caller]
fn done(repository: &Path, args: &[&str]) -> String {
    let output = run(repository, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn refused(repository: &Path, args: &[&str], code: i32) -> String {
    let output = run(repository, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

fn model(name: &str) -> String {
    fixture(name).to_str().expect("text").into()
}

fn pointer(repository: &Path, model: &str) -> Value {
    let text = fs::read_to_string(repository.join(model).join("aliases.json")).expect("a pointer");
    serde_json::from_str(&text).expect("JSON")
}

/// Changes a file of JSON.
fn edit(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("JSON");
    change(&mut value);
    fs::write(file, value.to_string()).expect("written");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A model without a manifest is pushed, served and replaced; nothing was written by hand.
#[test]
fn a_folder_is_filled_and_moved_by_the_commands_alone() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    let (first, second) = (model("metadata.onnx"), model("metadata.onnx"));
    let said = done(place, &["push", &first, "--model", "plain", "--dry-run"]);
    assert!(said.contains("plain version 1: would be added") && said.contains("manifest derived"), "{said}");
    assert_eq!(fs::read_dir(place).expect("a folder").count(), 0, "a dry run writes nothing");
    let said = done(place, &["push", &first, "--model", "plain", "--by", "ann"]);
    assert!(said.contains("champion none -> 1, challengers none, epoch 1, by ann"), "{said}");
    let server = Server::start(place, &[]);
    let body = r#"{"a": 1, "b": 2, "c": 3, "d": 4}"#;
    let answer = server.post("/predict", body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    // The same file again is the same version: a job that is run twice does no harm.
    let said = done(place, &["push", &second, "--model", "plain"]);
    assert!(said.contains("plain version 1: has the same model already"), "{said}");
    assert_eq!(fs::read_dir(place.join("plain/ledger")).expect("a ledger").count(), 1);
    // The model's own answers stand in the manifest, and whoever serves it checks them.
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.join("plain/1/manifest.json")).expect("a manifest")).expect("JSON");
    assert_eq!((&manifest["name"], &manifest["version"]), (&json!("plain"), &json!("1")));
    assert!(manifest["golden"]["samples"].as_array().is_some_and(|samples| !samples.is_empty()));
}

#[test]
fn a_challenger_is_withdrawn_and_its_version_stays() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    done(place, &["push", &model("good/model.onnx"), "--model", "anomaly"]);
    done(place, &["push", &model("other/model.onnx"), "--model", "anomaly", "--as", "challenger"]);
    let said = done(place, &["withdraw", "2", "--by", "ann", "--reason", "the wrong week", "--dry-run"]);
    assert!(said.contains("would be: champion 1, challengers none"), "{said}");
    assert_eq!(pointer(place, "anomaly")["challengers"], json!(["2"]));
    done(place, &["withdraw", "2", "--by", "ann", "--reason", "the wrong week"]);
    let aliases = pointer(place, "anomaly");
    assert_eq!((&aliases["champion"], &aliases["challengers"]), (&json!("1"), &json!([])));
    assert_eq!((&aliases["by"], &aliases["reason"]), (&json!("ann"), &json!("the wrong week")));
    assert!(place.join("anomaly/2/model.onnx").is_file());
    assert!(refused(place, &["withdraw", "2"], 1).contains("version 2 of anomaly is no challenger to take out"));
    assert!(refused(place, &["withdraw", "1"], 1).contains("it has none"));
    assert!(refused(place, &["withdraw"], 2).contains("<VERSION>"));
}

#[test]
fn what_servers_would_refuse_is_refused_at_the_push() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    done(place, &["push", &model("good/model.onnx"), "--model", "anomaly"]);
    for (name, told) in [
        ("fails/model.onnx", "golden sample"),
        ("crash/model.onnx", "could kill the process"),
        ("wrong-golden/model.onnx", "the manifest expects"),
        ("external/model.onnx", "weights.bin"),
        ("renamed/model.onnx", "servers would refuse it"),
        ("exports/map-input.onnx", "map"),
        ("exports/picky.onnx", "a manifest with golden samples proves it"),
    ] {
        let said = refused(place, &["push", &model(name), "--model", "anomaly", "--as", "champion"], 1);
        assert!(said.contains(told), "{name}: {said}");
    }
    assert_eq!(pointer(place, "anomaly")["epoch"], json!(1));
    assert_eq!(fs::read_dir(place.join("anomaly")).expect("a folder").count(), 4, "1, aliases.json, ledger, .lock");
    // What cannot be the champion may still be added, and the author is told.
    let said = done(place, &["push", &model("renamed/model.onnx"), "--model", "anomaly"]);
    assert!(said.contains("warning: it cannot replace the champion"), "{said}");
    // A manifest of another file does not pass for this one.
    let manifest = model("other/manifest.json");
    let said = refused(place, &["push", &model("good/model.onnx"), "--model", "anomaly", "--manifest", &manifest], 1);
    assert!(said.contains("leave the manifest out"), "{said}");
}

#[test]
fn external_data_is_pushed_with_its_model() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    done(place, &["push", &model("external-good/model.onnx"), "--model", "anomaly"]);
    // And once more without the manifest that lies beside it.
    let alone = TempDir::new().expect("a folder");
    for name in ["model.onnx", "weights.bin"] {
        fs::copy(fixture("external-good").join(name), alone.path().join(name)).expect("copied");
    }
    let file = alone.path().join("model.onnx");
    done(place, &["push", file.to_str().expect("text"), "--model", "derived"]);
    assert!(place.join("derived/1/weights.bin").exists());
    let server = Server::start(place, &["--default-model", "anomaly"]);
    wait_for("both", || server.model_status("derived")["champion"].is_object().then_some(()));
    let good = Repo::serving("good", None);
    let good = Server::start(good.path(), &[]);
    assert_eq!(server.predict(&row(3)), good.predict(&row(3)));
}

#[test]
fn status_and_history_are_tables_and_json() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    assert!(done(place, &["status"]).contains("holds no model yet"));
    done(place, &["push", &model("good/model.onnx"), "--model", "anomaly", "--by", "ann"]);
    done(place, &["push", &model("other/model.onnx"), "--model", "anomaly", "--as", "challenger", "--by", "ben"]);
    done(place, &["promote", "--by", "cat", "--reason", "it was better"]);
    let table = done(place, &["status"]);
    let cells: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells[..5], ["anomaly", "2", "-", "1", "3"], "{table}");
    let detail = done(place, &["status", "--model", "anomaly"]);
    for part in ["champion", "previous", "1 -> 2", "it was better", "ann", "ben", "cat"] {
        assert!(detail.contains(part), "{part} is not in\n{detail}");
    }
    let said = done(place, &["status", "--model", "anomaly", "--json", "--history", "2"]);
    let status: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(status[0]["aliases"]["champion"], json!("2"));
    let history = status[0]["history"].as_array().expect("a list");
    assert_eq!(history.len(), 2);
    // Each record names the hash of the one before.
    let before = fs::read(place.join("anomaly/ledger/2.json")).expect("a record");
    assert_eq!(history[0]["previous_record_sha256"], json!(onnxd::source::sha256(&before)));
    assert_eq!(history[1]["action"], json!("challenge"));
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let folder = TempDir::new().expect("a folder");
    let place = folder.path();
    assert!(refused(place, &["promote"], 2).contains("holds no model yet"));
    assert!(refused(place, &["push", "nowhere.onnx", "--model", "anomaly"], 1).contains("nowhere.onnx"));
    assert!(refused(place, &["push", &model("good/model.onnx")], 2).contains("--model"));
    let first = ["push", &model("good/model.onnx"), "--model", "anomaly"];
    assert!(
        refused(place, &[first.as_slice(), &["--as", "challenger"]].concat(), 1).contains("push its champion first")
    );
    done(place, &first);
    assert!(refused(place, &["promote"], 1).contains("no challenger to promote: name a version (its versions: 1)"));
    assert!(refused(place, &["rollback"], 1).contains("name one with --to (its versions: 1)"));
    assert!(refused(place, &["promote", "9"], 1).contains("no version 9"));
    assert!(refused(place, &["promote", "../1"], 1).contains("not a positive whole number"));
    fs::remove_file(place.join("anomaly/1/model.onnx")).expect("a file");
    assert!(refused(place, &["rollback", "--to", "1"], 1).contains("model.onnx is missing"));
    assert!(refused(Path::new("s3://bucket/y"), &["status", "--s3-endpoint", "localhost:1"], 1).contains("http://"));
    assert!(refused(Path::new("gs://bucket/y"), &["status"], 1).contains("s3://bucket/prefix"));
}

#[test]
fn a_repository_is_named_and_found_before_anything_is_done() {
    let folder = TempDir::new().expect("a folder");
    let (place, good) = (folder.path().join("new"), model("good/model.onnx"));
    for args in [&["push", &good, "--model", "anomaly"][..], &["promote"], &["rollback"], &["status"]] {
        let said = refused(&place, args, 1);
        assert!(said.contains(&format!("`mkdir {}`", place.display())), "{said}");
    }
    let file = fixture("good/model.onnx");
    for args in [&["push", &good, "--model", "model"][..], &["promote", "1"], &["rollback", "--to", "1"]] {
        let said = refused(&file, args, 1);
        assert!(said.contains("is one model file, not a repository"), "{said}");
    }
    assert!(done(&file, &["status"]).contains("model"));
    fs::create_dir(&place).expect("a folder");
    for named in ["nope", "../new"] {
        let said = refused(&place, &["status", "--model", named], 1);
        assert!(said.contains("there is no model") && said.contains("holds: none: onnxd push adds one"), "{said}");
    }
    let first = ["push", &good, "--model", "anomaly"];
    let shown = text(&place).to_owned();
    let said = done(&place, &[first.as_slice(), &["--dry-run"]].concat());
    assert!(said.contains(&format!("would be added to {shown}, ")), "{said}");
    assert!(said.contains("it would become the champion"), "{said}");
    assert!(done(&place, &first).contains(&format!("added to {shown}, ")));
    // What it is, is told; nothing is promised of it that is not so.
    let said = done(&place, &first);
    assert!(said.contains("it is the champion already") && !said.contains("nothing yet"), "{said}");
    let other = model("other/model.onnx");
    let second = ["push", &other, "--model", "anomaly"];
    assert!(done(&place, &second).contains("it serves nothing yet"));
    done(&place, &[second.as_slice(), &["--as", "challenger"]].concat());
    assert!(done(&place, &second).contains("it is the challenger already"));
    done(&place, &["promote"]);
    fs::remove_dir_all(place.join("anomaly/2")).expect("a folder");
    assert!(done(&place, &first).contains("it is the champion before"));
    let said = refused(&place, &["status", "--model", "nope"], 1);
    assert!(said.contains("there is no model \"nope\"; the repository holds: anomaly"), "{said}");
    let pushed: Value = serde_json::from_str(&done(&place, &[first.as_slice(), &["--json"]].concat())).expect("JSON");
    let expected = (&json!(shown), &json!(["previous"]), &json!("added"));
    assert_eq!((&pushed["repository"], &pushed["roles"], &pushed["becomes"]), expected);
}

/// Records are made up for pointers that nobody is about to record, and for no others.
#[test]
fn a_missing_record_is_made_up_when_nobody_writes_it() {
    let repo = Repo::serving("good", None);
    for version in 2..=5 {
        repo.install(version, "other");
    }
    let ledger = repo.path().join("anomaly/ledger");
    let record = |epoch: u32| -> Option<Value> {
        fs::read(ledger.join(format!("{epoch}.json"))).ok().map(|text| serde_json::from_slice(&text).expect("JSON"))
    };
    let before = |epoch: u32| record(epoch).expect("a record")["previous_record_sha256"].clone();
    // Written by hand, without a time.
    done(repo.path(), &["promote", "2"]);
    assert_eq!(record(1).expect("made up")["action"], json!("unrecorded"));
    assert!(before(2).is_string());
    // As when its author writes it at this moment.
    fs::remove_file(ledger.join("2.json")).expect("a file");
    done(repo.path(), &["promote", "3"]);
    assert_eq!((record(2), before(3)), (None, Value::Null));
    // As when its author was killed.
    fs::remove_file(ledger.join("3.json")).expect("a file");
    let aliases = repo.path().join("anomaly/aliases.json");
    edit(&aliases, |aliases| aliases["updated_at"] = json!("2024-01-01T00:00:00Z"));
    done(repo.path(), &["promote", "4"]);
    assert_eq!(record(3).expect("made up")["action"], json!("unrecorded"));
    assert!(before(4).is_string());
    // One that cannot be read is there all the same.
    fs::remove_file(ledger.join("4.json")).expect("a file");
    std::os::unix::fs::symlink("nowhere", ledger.join("4.json")).expect("a link");
    edit(&aliases, |aliases| aliases["updated_at"] = json!("yesterday"));
    done(repo.path(), &["promote", "5"]);
    assert_eq!((fs::read_link(ledger.join("4.json")).ok(), before(5)), (Some("nowhere".into()), Value::Null));
    // What is so already has no record of its own.
    let said: Value = serde_json::from_str(&done(repo.path(), &["promote", "5", "--json"])).expect("JSON");
    assert_eq!((&said["changed"], &said["record"]), (&json!(false), &Value::Null));
    // After the last epoch there is none.
    edit(&aliases, |aliases| aliases["epoch"] = json!(u64::MAX));
    let text = fs::read(&aliases).expect("a pointer");
    for args in [&["promote", "1"][..], &["rollback"], &["promote", "1", "--dry-run"]] {
        assert!(refused(repo.path(), args, 1).contains("highest epoch"));
    }
    assert_eq!(fs::read(&aliases).expect("a pointer"), text);
}

#[test]
fn what_a_repository_says_cannot_write_on_a_terminal() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    done(repo.path(), &["promote", "2", "--by", "\u{1b}[2Jann", "--reason", "a\u{1b}]0;b\u{7}\r\nc\u{202e}"]);
    let texts = [
        done(repo.path(), &["status"]),
        done(repo.path(), &["status", "--model", "anomaly"]),
        done(repo.path(), &["rollback", "--dry-run", "--by", "\u{9b}2J"]),
    ];
    for text in texts {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
    }
    let said: Value = serde_json::from_str(&done(repo.path(), &["status", "--json"])).expect("JSON");
    assert_eq!(said[0]["aliases"]["by"], json!("\u{1b}[2Jann"));
    edit(&repo.path().join("anomaly/1/manifest.json"), |manifest| manifest["name"] = json!("\u{1b}[2J"));
    let said = refused(repo.path(), &["rollback"], 1);
    assert!(said.contains("is of ") && !said.contains('\u{1b}'), "{said:?}");
}

/// As with `onnxd status --json | head -1`.
/// What is written must be read again by everybody.
#[test]
fn a_reason_that_the_pointer_has_no_room_for_changes_nothing() {
    let repo = Repo::serving("good", Some("other"));
    let before = fs::read(repo.path().join("anomaly/aliases.json")).expect("a pointer");
    let (long, name, escaped) = ("a".repeat(100_000), "b".repeat(2_000), "\u{1}".repeat(16_000));
    for (args, said) in [
        (["promote", "2", "--reason", &long], "reason has 100000 bytes, 16384 are the most"),
        (["promote", "2", "--by", &name], "by has 2000 bytes, 1024 are the most"),
        (["promote", "2", "--reason", &escaped], "give a shorter reason"),
    ] {
        let errors = refused(repo.path(), &args, 1);
        assert!(errors.contains(said), "{errors}");
    }
    assert_eq!(fs::read(repo.path().join("anomaly/aliases.json")).expect("a pointer"), before);
    // The longest that there may be.
    done(repo.path(), &["promote", "2", "--reason", &"c".repeat(16_384)]);
    done(repo.path(), &["rollback", "--reason", &"c".repeat(16_384)]);
    assert_eq!(pointer(repo.path(), "anomaly")["champion"], "1");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let repo = Repo::serving("good", None);
    let place = text(repo.path());
    for args in [
        &["status", "--repository", place][..],
        &["status", "--json", "--repository", place],
        &["promote", "1", "--repository", place],
        &["serve", place, "--print-config"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        let output = command.args(args).current_dir(root()).stdout(writer).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{args:?}: {said}");
    }
}

/// A pointer that is gone is no order to serve whatever has the highest number.
#[test]
fn a_pointer_that_is_gone_promotes_nothing() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let server = Server::start(repo.path(), &[]);
    fs::remove_file(repo.path().join("anomaly/aliases.json")).expect("a file");
    let status = wait_for("the report", || {
        let status = server.model_status("anomaly");
        status["error"].is_string().then_some(status)
    });
    assert!(status["error"].as_str().is_some_and(|e| e.contains("aliases.json is gone")), "{status}");
    assert_eq!(status["champion"]["version"], json!("1"));
    repo.point(2, None);
    serves(&server, 2);
}

/// Ten writers at once on one folder: each that says it won is in the ledger, and nothing is lost.
#[test]
fn writers_of_a_folder_take_turns() {
    let repo = Repo::serving("good", None);
    for version in 2..=10 {
        repo.install(version, "other");
    }
    let children: Vec<_> = (1..=10)
        .map(|version: u32| {
            Command::new(env!("CARGO_BIN_EXE_onnxd"))
                .args(["promote", &version.to_string(), "--json", "--repository", repo.path().to_str().expect("text")])
                .current_dir(root())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("it runs")
        })
        .collect();
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().expect("it ends")).collect();
    let won = outputs.iter().filter(|output| {
        serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|said| said["changed"] == json!(true))
    });
    let won = won.count() as u64;
    assert!(outputs.iter().all(|output| matches!(output.status.code(), Some(0 | 3))), "{outputs:?}");
    assert_eq!(pointer(repo.path(), "anomaly")["epoch"].as_u64(), Some(1 + won));
    // The one that was written by hand before has no record until now: the first writer made it up from the pointer.
    let records = fs::read_dir(repo.path().join("anomaly/ledger")).expect("a ledger").flatten();
    let records = records.filter(|entry| entry.path().extension().is_some_and(|e| e == "json")).count() as u64;
    assert_eq!(records, 1 + won);
}
