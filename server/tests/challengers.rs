//! Several challengers at once, each for itself, and the champion before beside the one that replaced it.

mod common;

use std::fs;
use std::process::Command;

use common::repo::{Repo, fixture, row, serves, settled};
use common::{Server, wait_for};
use onnxd::source::sha256;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// Names champion 1 and these challengers.
fn point(repo: &Repo, epoch: u64, challengers: &[u32]) {
    let hash = |version: &u32| sha256(&fs::read(repo.version(*version).join("manifest.json")).expect("a manifest"));
    let pins: serde_json::Map<String, Value> =
        challengers.iter().chain(&[1]).map(|version| (version.to_string(), json!(hash(version)))).collect();
    let names: Vec<String> = challengers.iter().map(u32::to_string).collect();
    let aliases = json!({"champion": "1", "challengers": names, "epoch": epoch, "manifest_sha256": pins});
    repo.write_aliases(&aliases.to_string());
}

fn repository(challengers: &[&str]) -> Repo {
    let repo = Repo::new();
    repo.install(1, "good");
    for (version, name) in (2..).zip(challengers) {
        repo.install(version, name);
    }
    repo
}

fn challengers(server: &Server) -> Vec<Value> {
    let shadow = server.ops("/models/anomaly/shadow").json();
    shadow["challengers"].as_array().cloned().unwrap_or_default()
}

fn pairs(server: &Server) -> Vec<u64> {
    challengers(server).iter().map(|challenger| challenger["statistics"]["pairs"].as_u64().unwrap_or(0)).collect()
}

fn roles(server: &Server) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    challengers(server).iter().map(|challenger| (text(&challenger["role"]), text(&challenger["version"]))).collect()
}

/// Changes what is served as a user does.
fn promote(repo: &Repo, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    command.args(arguments).args(["--model", "anomaly", "--repository"]).arg(repo.path());
    let output = command.current_dir(common::root()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn three_are_scored_on_the_same_rows_and_a_fourth_is_refused() {
    let repo = repository(&["other", "good", "other", "good"]);
    point(&repo, 1, &[2, 3, 4, 5]);
    let server = Server::start(repo.path(), &[]);
    let status = settled(&server, 1);
    let rejected = &status["rejected"][0];
    assert_eq!((&rejected["role"], &rejected["version"]), (&json!("challenger"), &json!("5")));
    assert!(rejected["reason"].as_str().expect("a text").contains("more than 3 challengers"), "{rejected}");
    server.predict(&json!((0..40).map(row).collect::<Vec<_>>()));
    wait_for("forty pairs of each", || (pairs(&server) == [40, 40, 40]).then_some(()));
    let own = |role: &str, version: &str| (role.to_owned(), version.to_owned());
    let three = [own("challenger", "2"), own("challenger-2", "3"), own("challenger-3", "4")];
    assert_eq!(roles(&server), three);
    let seen = challengers(&server);
    assert_eq!(seen[0]["statistics"]["decisions"], seen[2]["statistics"]["decisions"], "the same model twice");
    assert_ne!(seen[0]["statistics"]["decisions"], seen[1]["statistics"]["decisions"]);
    assert_eq!(seen[1]["agreement"], json!(1.0), "the champion's own");
    assert!(seen.iter().all(|challenger| challenger["evidence"]["requests"] == json!(40)));
    for role in ["challenger", "challenger-2", "challenger-3"] {
        let series = format!("onnxd_shadow_pairs_total{{model=\"anomaly\",role=\"{role}\",outcome=\"compared\"}}");
        assert_eq!(server.metric(&series), Some(40.0), "{role}");
    }
    // One leaves: what was counted of the others goes on, in the roles that they have now.
    point(&repo, 2, &[3, 4]);
    settled(&server, 2);
    assert_eq!(roles(&server), [own("challenger", "3"), own("challenger-2", "4")]);
    assert_eq!(pairs(&server), [40, 40]);
    server.predict(&row(1));
    wait_for("another pair of each", || (pairs(&server) == [41, 41]).then_some(()));
}

/// A challenger that is slow, or that only fails, takes nothing from the one beside it.
#[test]
fn one_challenger_does_not_hold_up_another() {
    for bad in ["slow", "fails-sometimes"] {
        let repo = repository(&[bad, "other"]);
        point(&repo, 1, &[2, 3]);
        let server = Server::start(repo.path(), &["--shadow-queue-rows", "64"]);
        settled(&server, 1);
        // Rows on which it fails; it is paused meanwhile.
        let rows = |turn: usize| json!({"cpu_zscore": 70 + turn % 9, "memory_zscore": 1});
        let mut turn = 0;
        // On an idle machine, the slow one may keep up for a while.
        wait_for("a hundred pairs of the good one, which is ahead", || {
            server.predict(&rows(turn));
            turn += 1;
            let seen = pairs(&server);
            (seen[1] >= 100 && seen[0] < seen[1]).then_some(())
        });
    }
}

#[test]
fn another_challenger_joins_by_a_push_until_there_are_three() {
    let repo = Repo::new();
    let onnxd = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.args(arguments).args(["--model", "anomaly", "--repository"]).arg(repo.path());
        let output = command.current_dir(common::root()).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let file = |name: &str| fixture(name).join("model.onnx").to_string_lossy().into_owned();
    let push = |name: &str, role: &[&str]| onnxd(&[&["push", file(name).as_str()], role].concat());
    assert!(push("good", &[]).0);
    let another = ["--as", "another-challenger"];
    for (name, expected) in [("other", "challengers 2,"), ("needs-more", "no"), ("slow", "challengers 2, 3,")] {
        let (_, text) = push(name, &another);
        assert!(text.contains(expected), "{name}: {text}");
    }
    let (done, text) = push("named", &another);
    assert!(!done, "there is no such file: {text}");
    let aliases: Value =
        serde_json::from_slice(&fs::read(repo.path().join("anomaly/aliases.json")).expect("a pointer")).expect("JSON");
    assert_eq!(aliases["challengers"], json!(["2", "3"]));
}

/// After a promotion the roles are changed: the champion before scores the new one's rows.
#[test]
fn the_champion_before_is_compared_with_the_one_that_replaced_it() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &["--guard-period", "0s"]);
    let epoch = repo.point(2, None);
    settled(&server, epoch);
    server.predict(&json!((0..20).map(row).collect::<Vec<_>>()));
    let previous = || server.ops("/models/anomaly/shadow").json()["previous"].clone();
    wait_for("twenty pairs", || (previous()["evidence"]["requests"] == json!(20)).then_some(()));
    assert_eq!((&previous()["role"], &previous()["version"]), (&json!("previous"), &json!("1")));
    assert_eq!(server.model_status("anomaly")["guard"], json!(null), "it compares and does not watch");
    // Going back ends it: what served before is what serves.
    let epoch = repo.point(1, None);
    settled(&server, epoch);
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &["--guard-period", "0s", "--compare-previous", "0s"]);
    let epoch = repo.point(2, None);
    settled(&server, epoch);
    server.predict(&row(1));
    assert_eq!(server.ops("/models/anomaly/shadow").json()["previous"], json!(null));
}

/// What is left of its time is used, however often the server starts; what cannot be loaded is told and hurts nobody.
#[test]
fn the_champion_before_is_compared_after_a_restart_too() {
    let repo = Repo::serving("good", Some("other"));
    let state = TempDir::new().expect("a folder");
    let arguments = ["--state", state.path().to_str().expect("a path"), "--guard-period", "0s"];
    let previous = |server: &Server| server.ops("/models/anomaly/shadow").json()["previous"].clone();
    let compared = |server: &Server, rows: u64| {
        wait_for("the pairs", || (previous(server)["evidence"]["requests"] == json!(rows)).then_some(()));
    };
    let server = Server::start(repo.path(), &arguments);
    promote(&repo, &["promote"]);
    serves(&server, 2);
    server.predict(&json!((0..20).map(row).collect::<Vec<_>>()));
    compared(&server, 20);
    server.stop();

    let server = Server::start(repo.path(), &arguments);
    compared(&server, 20);
    assert_eq!((&previous(&server)["role"], &previous(&server)["version"]), (&json!("previous"), &json!("1")));
    server.predict(&row(1));
    compared(&server, 21);
    assert_eq!(server.model_status("anomaly")["guard"], json!(null), "it compares and does not watch");
    assert!(server.log().contains("the champion before is compared again"), "{}", server.log());
    drop(server);

    // A challenger that comes later changes nothing of when that was.
    let path = repo.path().join("anomaly/aliases.json");
    let aliases = || serde_json::from_slice::<Value>(&fs::read(&path).expect("a pointer")).expect("JSON");
    let record: Value =
        serde_json::from_slice(&fs::read(path.with_file_name("ledger").join("2.json")).expect("a record"))
            .expect("JSON");
    let mut promoted = aliases();
    assert_eq!(promoted["promoted_at"], record["at"]);
    let hours_ago = (OffsetDateTime::now_utc() - Duration::hours(2)).format(&Rfc3339).expect("a time");
    promoted["promoted_at"] = json!(hours_ago);
    repo.write_aliases(&promoted.to_string());
    let file = fixture("good").join("model.onnx");
    promote(&repo, &["push", file.to_str().expect("a path"), "--as", "challenger"]);
    let promoted = aliases();
    assert_eq!((&promoted["epoch"], &promoted["previous"]), (&json!(3), &json!("1")));
    assert_eq!(promoted["promoted_at"], json!(hours_ago));
    let server = Server::start(repo.path(), &["--compare-previous", "1h", "--guard-period", "0s"]);
    settled(&server, 3);
    server.predict(&row(1));
    wait_for("a pair of the challenger", || (pairs(&server) == [1]).then_some(()));
    assert_eq!(server.model_status("anomaly")["previous"], json!(null));
    drop(server);
    let server = Server::start(repo.path(), &arguments);
    wait_for("the champion before", || (previous(&server)["version"] == json!("1")).then_some(()));
    drop(server);
    fs::write(repo.version(1).join("model.onnx"), "damaged").expect("a file");
    let server = Server::start(repo.path(), &arguments);
    let refused = wait_for("the refusal", || {
        let rejected = server.model_status("anomaly")["rejected"].clone();
        rejected.as_array()?.iter().find(|rejected| rejected["role"] == "previous").cloned()
    });
    assert_eq!(refused["version"], json!("1"), "{refused}");
    assert_eq!((server.predict(&row(1)).is_object(), previous(&server)), (true, json!(null)));
}

/// Trials of a server that run in children of its own.
fn children(server: &Server) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    children.map(|pids| pids.split_whitespace().count()).sum()
}

/// While it is tried out, which takes longer than any test waits, everything else goes on.
#[test]
fn a_challenger_that_hangs_holds_nothing_up() {
    let repo = Repo::new();
    for (version, name) in [(1, "good"), (2, "hang"), (3, "other"), (4, "good"), (5, "other")] {
        repo.install(version, name);
    }
    repo.point(1, Some(2));
    let server = Server::launch(repo.path(), &["--probe-timeout", "10m"]);
    serves(&server, 1);
    let trying = |server: &Server| server.model_status("anomaly")["trying"].clone();
    assert_eq!(trying(&server), json!(["2"]));
    assert_eq!(server.ops("/readyz").status, 200);
    server.predict(&row(1));

    // A new version is tried out in its place, and it begins anew.
    repo.point(3, Some(2));
    serves(&server, 3);
    wait_for("the second trial", || {
        let lines =
            server.log().lines().filter(|line| line.contains("trying out a model") && line.contains("\"2\"")).count();
        (lines == 2).then_some(())
    });
    // Going back needs no trial.
    repo.point(1, Some(2));
    serves(&server, 1);
    assert_eq!((trying(&server), children(&server)), (json!(["2"]), 1));

    // Other challengers wait, and go on when it is not wanted any more.
    point(&repo, 4, &[2, 4, 5]);
    wait_for("the others", || (trying(&server) == json!(["2", "4", "5"])).then_some(()));
    point(&repo, 5, &[4, 5]);
    wait_for("the others", || (roles(&server).len() == 2).then_some(()));
    assert_eq!((trying(&server), children(&server)), (json!([]), 0));
    assert_eq!(server.model_status("anomaly")["rejected"], json!([]));
    server.predict(&row(2));
}
