//! The champion before, which a server that starts after a promotion loads to compare it: it never stands in the way of the one
//! that serves.

mod common;

use common::proxy::Fault;
use common::repo::{Repo, row};
use common::s3repo::S3Repo;
use common::{Server, wait_for};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The pointer, as if its champion had been promoted just now.
fn just_promoted(repo: &Repo) -> String {
    let text = std::fs::read_to_string(repo.path().join("anomaly/aliases.json")).expect("a pointer");
    let mut aliases: Value = serde_json::from_str(&text).expect("JSON");
    aliases["promoted_at"] = json!(OffsetDateTime::now_utc().format(&Rfc3339).expect("a time"));
    repo.write_aliases(&aliases.to_string());
    aliases.to_string()
}

fn previous(server: &Server) -> Value {
    server.ops("/models/anomaly/shadow").json()["previous"]["version"].clone()
}

/// While it is tried out, and fails, the champion answers.
#[test]
fn a_champion_before_that_hangs_holds_nothing_up() {
    let repo = Repo::new();
    repo.install(1, "hang");
    repo.install(2, "good");
    repo.point(1, None);
    repo.point(2, None);
    just_promoted(&repo);
    let server = Server::launch(repo.path(), &["--probe-timeout", "3s"]);
    let trying = |server: &Server| server.log().lines().filter(|line| line.contains("trying out a model")).count();
    wait_for("its trial", || (trying(&server) == 2).then_some(()));
    assert_eq!(server.model_status("anomaly")["rejected"], json!([]), "it is not known yet");
    server.predict(&row(1));
    let rejected = wait_for("the refusal", || {
        Some(server.model_status("anomaly")["rejected"][0].clone()).filter(Value::is_object)
    });
    assert_eq!((&rejected["role"], &rejected["version"]), (&json!("previous"), &json!("1")), "{rejected}");
    server.predict(&row(2));
    assert_eq!((server.ops("/readyz").status, previous(&server)), (200, json!(null)));
    let series = "onnxd_model_swaps_total{model=\"anomaly\",role=\"previous\",outcome=\"rejected\",stage=\"probe\"}";
    assert_eq!(server.metric(series), Some(1.0), "{}", server.ops("/metrics").text());
}

/// It is far away and comes slowly.
#[test]
fn a_champion_before_that_takes_long_to_come_is_compared_when_it_is_there() {
    let repo = S3Repo::new();
    repo.install_large(1, "other", 40 << 20);
    repo.install(2, "good");
    repo.local().point(1, None);
    repo.local().point(2, None);
    repo.bucket.put("anomaly/aliases.json", just_promoted(repo.local()).into_bytes());
    repo.proxy.set_for("1/model.onnx", Fault::Slow(200 << 10));
    let server = repo.serve(&["--models", "anomaly"]);
    server.predict(&row(1));
    wait_for("the download", || (server.ops("/status").json()["downloads"][0]["version"] == json!("1")).then_some(()));
    assert_eq!(previous(&server), json!(null));
    repo.proxy.set(Fault::None);
    wait_for("the champion before", || (previous(&server) == json!("1")).then_some(()));
    assert_eq!(server.model_status("anomaly")["champion"]["version"], json!("2"));
}
