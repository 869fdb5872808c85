//! The guard after a promotion: a champion that is far worse than the one before is rolled back, with the evidence in the
//! ledger, and nothing else is.

mod common;

use std::fs;

use common::http::Load;
use common::proxy::{Fault, Proxy};
use common::repo::{Repo, row, serves, settled};
use common::s3repo::S3Repo;
use common::{Server, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Requests that all have this `cpu_zscore`; whatever the server answers is fine.
fn load(server: &Server, cpu: f64) -> Load {
    let body = move |turn: usize| json!({"cpu_zscore": cpu, "memory_zscore": turn % 2}).to_string();
    Load::start(server.http, 2, body, |_, _| Ok(()))
}

/// Promotes a model that passes every check and is worse on what really comes; gives the ledger's record.
fn rolled_back(worse: &str, cpu: f64) -> Value {
    let repo = Repo::serving("good", None);
    repo.install(2, worse);
    let server = Server::start(repo.path(), &[]);
    let load = load(&server, cpu);
    wait_for("some requests", || (load.answered() > 500).then_some(()));
    assert_eq!(server.model_status("anomaly")["guard"], json!(null), "nothing was promoted yet");
    let epoch = repo.point(2, None);
    settled(&server, epoch);
    let status = serves(&server, 1);
    assert_eq!((&status["epoch"], &status["guard"]), (&json!(epoch + 1), &json!(null)), "going back is not watched");
    let (_, problems) = load.finish();
    assert!(problems.is_empty(), "{problems:?}");
    let record = repo.record(epoch + 1);
    assert_eq!(
        (&record["action"], &record["champion"], &record["replaced"]),
        (&json!("rollback"), &json!("1"), &json!("2"))
    );
    assert!(record["by"].as_str().is_some_and(|by| by.starts_with("guard of onnxd at ")), "{record}");
    assert_eq!(
        record["reason"],
        json!(format!("version 2: {}", record["evidence"]["finding"].as_str().expect("text")))
    );
    let counted = "onnxd_promotions_total{model=\"anomaly\",outcome=\"guard_rolled_back\"}";
    wait_for("the count", || server.metric(counted).filter(|n| *n == 1.0));
    let aliases = fs::read_to_string(repo.path().join("anomaly/aliases.json")).expect("a pointer");
    let aliases: Value = serde_json::from_str(&aliases).expect("JSON");
    assert_eq!(aliases["previous"], json!(null), "a second rollback cannot bring the faulty version again");
    record
}

#[test]
fn a_champion_that_fails_is_rolled_back() {
    let record = rolled_back("fails-sometimes", 55.0);
    assert_eq!(record["evidence"]["test"], "errors");
    assert!(record["evidence"]["champion"]["failed"].as_u64().is_some_and(|n| n >= 4), "{record}");
    assert_eq!(record["evidence"]["previous"]["failed"], json!(0));
}

#[test]
fn a_champion_whose_answers_are_not_finite_is_rolled_back() {
    assert_eq!(rolled_back("nan-sometimes", 55.0)["evidence"]["test"], "not_finite");
}

#[test]
fn a_champion_that_is_far_slower_is_rolled_back() {
    assert_eq!(rolled_back("slow", 1.0)["evidence"]["test"], "latency");
}

/// `other` decides true for all of these rows, `good` for none.
#[test]
fn a_champion_that_cries_wolf_is_rolled_back() {
    let record = rolled_back("other", 4.0);
    assert_eq!(record["evidence"]["test"], "alerts", "{record}");
    assert!(record["evidence"]["decisions"]["true>false"].as_u64().is_some_and(|n| n >= 30), "{record}");
}

/// An incident: every row is an anomaly, and the new champion says so as the one before does.
#[test]
fn an_incident_after_a_promotion_is_no_reason_to_go_back() {
    let repo = Repo::serving("good", None);
    repo.install(2, "good");
    let server = Server::start(repo.path(), &["--guard-period", "4s"]);
    let quiet = load(&server, 0.0);
    wait_for("some requests", || (quiet.answered() > 500).then_some(()));
    drop(quiet.finish());
    settled(&server, repo.point(2, None));
    assert_eq!(server.model_status("anomaly")["guard"]["state"], "watching");
    let incident = load(&server, 12.0);
    wait_for("the end of the period", || {
        (server.model_status("anomaly")["guard"]["state"] == "watching_failures").then_some(())
    });
    let (answered, problems) = incident.finish();
    assert!(problems.is_empty() && answered > 500, "{answered}: {problems:?}");
    let status = server.model_status("anomaly");
    assert_eq!((&status["champion"]["version"], &status["guard"]["against"]), (&json!("2"), &json!("1")));
    // The champion before is no challenger: nothing of it shows where challengers are counted.
    assert_eq!(
        server.metric("onnxd_shadow_pairs_total{model=\"anomaly\",role=\"challenger\",outcome=\"compared\"}"),
        Some(0.0)
    );
}

/// Rows on which both fail, which any client can send, are no reason to go back.
#[test]
fn rows_that_no_model_takes_are_no_reason_to_go_back() {
    let repo = Repo::serving("nan-sometimes", None);
    repo.install(2, "nan-sometimes");
    let server = Server::start(repo.path(), &["--guard-period", "4s"]);
    settled(&server, repo.point(2, None));
    let load = load(&server, 55.0);
    wait_for("the end of the period", || {
        (server.model_status("anomaly")["guard"]["state"] == "watching_failures").then_some(())
    });
    let (answered, _) = load.finish();
    assert!(answered > 100, "{answered}");
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("2"));
}

/// A server that started with the faulty champion does not take the rollback for a promotion and undo it.
#[test]
fn a_rollback_is_not_watched_by_a_server_that_never_saw_the_champion_before() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    repo.point(2, None);
    let server = Server::start(repo.path(), &[]);
    serves(&server, 2);
    let rollback = std::process::Command::new(env!("CARGO_BIN_EXE_onnxd"))
        .args(["rollback", "--repository", repo.path().to_str().expect("text")])
        .output()
        .expect("it runs");
    assert!(rollback.status.success(), "{rollback:?}");
    let status = serves(&server, 1);
    assert_eq!(status["guard"], json!(null));
}

/// A change that leaves the champion, which this server has not seen yet, does not disarm the guard.
#[test]
fn a_new_challenger_does_not_keep_the_guard_from_rolling_back() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "fails-sometimes");
    let token = tempfile::NamedTempFile::new().expect("a file");
    fs::write(token.path(), "a-secret-of-the-tests").expect("written");
    let token = token.path().to_str().expect("text");
    let server = repo.serve(&["--models", "anomaly", "--poll-interval", "1h", "--admin-token-file", token]);
    repo.point(2, None);
    let headers = [("authorization", "Bearer a-secret-of-the-tests")];
    let reload = common::http::request(server.ops, "POST", "/models/anomaly/reload", &headers, b"");
    assert_eq!(reload.status, 200, "{}", reload.text());
    assert_eq!(server.model_status("anomaly")["guard"]["state"], "watching");
    // Unseen, since nothing polls.
    let mut aliases: Value = serde_json::from_slice(&repo.aliases()).expect("JSON");
    let epoch = aliases["epoch"].as_u64().expect("a number") + 1;
    (aliases["epoch"], aliases["challengers"]) = (json!(epoch), json!(["1"]));
    repo.bucket.put("anomaly/aliases.json", aliases.to_string());
    let load = load(&server, 55.0);
    let status = serves(&server, 1);
    drop(load.finish());
    assert_eq!(status["epoch"], json!(epoch + 1));
}

#[test]
fn without_a_period_nothing_is_rolled_back() {
    let repo = Repo::serving("good", None);
    repo.install(2, "fails-sometimes");
    let server = Server::start(repo.path(), &["--guard-period", "0s"]);
    let epoch = repo.point(2, None);
    settled(&server, epoch);
    let load = load(&server, 55.0);
    let looks = "onnxd_source_polls_total{source=\"file\",outcome=\"unchanged\"}";
    let before = server.metric(looks).unwrap_or(0.0);
    wait_for("three looks", || server.metric(looks).filter(|n| *n > before + 3.0));
    drop(load.finish());
    let status = server.model_status("anomaly");
    assert_eq!((&status["epoch"], &status["guard"]), (&json!(epoch), &json!(null)));
}

/// Both replicas find the champion faulty; one of them may not write, and tries again until it sees that the other did.
#[test]
fn of_two_replicas_one_rolls_back_and_both_follow() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "fails-sometimes");
    let first = repo.serve(&["--models", "anomaly"]);
    let (proxy, cache) = (Proxy::start(repo.bucket.s3.address()), TempDir::new().expect("a folder"));
    let cache = cache.path().to_str().expect("text");
    let args = repo.args(&proxy.endpoint(), &["--models", "anomaly", "--cache", cache]).join("\n");
    let second = Server::start(repo.bucket.url().as_ref(), &args.lines().collect::<Vec<_>>());
    let loads = [load(&first, 55.0), load(&second, 55.0)];
    let epoch = repo.point(2, None);
    settled(&first, epoch);
    settled(&second, epoch);
    // The one that may not read the manifest of the version to go back to cannot promote it either.
    proxy.set_for("1/manifest.json", Fault::Status(403, "AccessDenied"));
    for server in [&first, &second] {
        let status = serves(server, 1);
        assert_eq!(status["epoch"], json!(epoch + 1));
    }
    for load in loads {
        let (_, problems) = load.finish();
        assert!(problems.is_empty(), "{problems:?}");
    }
    let written = |epoch: u64| {
        let ledger = repo.bucket.list("anomaly/ledger/");
        ledger.iter().any(|key| key.ends_with(&format!("/{epoch}.json")))
    };
    wait_for("the record", || written(epoch + 1).then_some(()));
    assert!(!written(epoch + 2));
    assert_eq!(first.post("/predict", &row(1).to_string()).header("x-model-version"), "1");
}

/// A server that starts after the promotion has the champion before to compare with, too.
#[test]
fn a_champion_that_was_promoted_before_the_start_is_watched() {
    let repo = Repo::serving("good", None);
    repo.install(2, "fails-sometimes");
    let arguments = ["promote", "2", "--repository", repo.path().to_str().expect("text")];
    let (code, _, errors) = common::onnxd(&arguments);
    assert_eq!(code, 0, "{errors}");
    let server = Server::start(repo.path(), &[]);
    let guard =
        wait_for("the guard", || Some(server.model_status("anomaly")["guard"].clone()).filter(Value::is_object));
    assert_eq!((&guard["against"], &guard["state"]), (&json!("1"), &json!("watching")));
    let load = load(&server, 55.0);
    serves(&server, 1);
    drop(load.finish());
    let record = repo.record(repo.aliases()["epoch"].as_u64().expect("a number"));
    assert_eq!(
        (&record["evidence"]["test"], &record["evidence"]["previous"]["answered"]),
        (&json!("errors"), &json!(0))
    );
}

/// The champion fails only after the period.
#[test]
fn failures_are_watched_as_long_as_the_one_before_is_compared() {
    let repo = Repo::serving("good", None);
    repo.install(2, "fails-sometimes");
    let server = Server::start(repo.path(), &["--guard-period", "1s"]);
    settled(&server, repo.point(2, None));
    let quiet = load(&server, 0.0);
    wait_for("the end of the period", || {
        (server.model_status("anomaly")["guard"]["state"] == "watching_failures").then_some(())
    });
    drop(quiet.finish());
    let failing = load(&server, 55.0);
    let status = serves(&server, 1);
    drop(failing.finish());
    let record = repo.record(status["epoch"].as_u64().expect("a number"));
    assert_eq!(record["evidence"]["test"], "errors", "{record}");
    assert!(record["evidence"]["after_seconds"].as_f64().is_some_and(|seconds| seconds > 1.0), "{record}");
    // What was answered in the period is no part of it.
    let champion = &record["evidence"]["champion"];
    assert!(champion["failed"].as_u64() > champion["answered"].as_u64(), "{record}");
}
