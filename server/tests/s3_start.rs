//! Starts while something is missing, slow or refused: what served before serves until what is asked for can.

mod common;

use std::fs;

use common::proxy::Fault;
use common::repo::{fixture, row, serves};
use common::s3repo::S3Repo;
use common::wait_for;
use serde_json::{Value, json};

/// Large enough to take longer than a fetch is waited for.
const LARGE: usize = 40 << 20;
/// Bytes a second at which that takes minutes.
const SLOW: usize = 200 << 10;

/// A repository whose champion is large and in the cache, with its answer.
fn served_large() -> (S3Repo, Value) {
    let repo = S3Repo::new();
    repo.install_large(1, "good", LARGE);
    repo.point(1, None);
    let server = repo.serve(&["--models", "anomaly"]);
    let before = server.predict(&row(3));
    server.stop();
    (repo, before)
}

/// A promotion while the server was down, to a version that takes minutes to come.
#[test]
fn a_start_serves_what_served_while_the_new_version_comes() {
    let (repo, before) = served_large();
    repo.install_large(2, "other", LARGE);
    repo.proxy.set_for("2/model.onnx", Fault::Slow(SLOW));
    repo.point(2, None);
    let server = repo.serve(&["--models", "anomaly"]);
    assert_eq!(server.predict(&row(3)), before);
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("1"));
    wait_for("the download", || (server.ops("/status").json()["downloads"][0]["version"] == json!("2")).then_some(()));
    repo.proxy.set(Fault::None);
    serves(&server, 2);
}

/// The champion is refused and the one before is large: it is read from the cache all the same.
#[test]
fn a_start_with_a_champion_that_is_refused_serves_the_one_before() {
    let (repo, before) = served_large();
    repo.install(2, "wrong-golden");
    let epoch = repo.point(2, None);
    let server = repo.serve(&["--models", "anomaly"]);
    assert_eq!(server.predict(&row(3)), before);
    let status = server.model_status("anomaly");
    assert_eq!((&status["wanted"]["epoch"], &status["rejected"][0]["version"]), (&json!(epoch), &json!("2")));
    // Where there is no cache, the pointer says what was champion before.
    let server = repo.serve(&["--models", "anomaly", "--cache", "off"]);
    assert_eq!(server.predict(&row(3)), before);
}

#[test]
fn a_model_that_takes_long_to_come_does_not_keep_the_others_from_serving() {
    let repo = S3Repo::serving("good", None);
    let onnx = fs::read(fixture("other/model.onnx")).expect("a fixture");
    repo.bucket.put("slow/1/model.onnx", onnx);
    repo.proxy.set_for("slow/1/model.onnx", Fault::Hang);
    let server = repo.serve(&["--default-model", "anomaly"]);
    server.predict(&row(3));
    assert_eq!(server.ops("/startupz").status, 200);
    assert_eq!(server.model_status("slow")["champion"], json!(null));
}

/// A version larger than the cache: the note of what can be served without S3 stays.
#[test]
fn a_version_that_the_cache_cannot_hold_does_not_push_the_one_before_out() {
    let repo = S3Repo::serving("good", None);
    let more = ["--models", "anomaly", "--cache-size", "1MiB"];
    let server = repo.serve(&more);
    let before = server.predict(&row(3));
    repo.install_large(2, "other", 3 << 20);
    repo.point(2, None);
    serves(&server, 2);
    server.stop();
    repo.proxy.set(Fault::Refuse);
    let server = repo.serve(&more);
    assert_eq!(server.predict(&row(3)), before);
}

/// What else lies in the bucket is listed when names are looked for, and not at each poll.
#[test]
fn a_foreign_folder_beside_the_models_costs_nothing() {
    let repo = S3Repo::serving("good", None);
    for i in 0..50 {
        repo.bucket.put(&format!("logs/2026/{i}.txt"), "x");
    }
    let server = repo.serve(&[]);
    repo.proxy.clear();
    wait_for("ten polls", || (repo.proxy.requests_for("/anomaly/aliases.json").len() >= 10).then_some(()));
    assert_eq!(repo.proxy.requests().iter().filter(|seen| seen.is_list()).count(), 0);
    server.predict(&row(3));
}
