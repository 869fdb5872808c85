//! The library inside another program: load, predict, shadow and swap without HTTP.

mod common;

use std::time::Duration;

use common::repo::Repo;
use common::wait_for;
use onnxd::{Engine, Error, Options};
use serde_json::{Value, json};

#[tokio::test]
async fn an_engine_predicts_shadows_and_swaps_in_process() {
    let repo = Repo::serving("good", Some("other"));
    let options = Options { poll_interval: Duration::from_secs(1), ..Options::new(repo.path()) };
    let engine = Engine::open(options).expect("opened");
    engine.wait(Duration::from_secs(30)).expect("serving");
    wait_for("the challenger", || engine.shadow("anomaly"));
    let body = br#"{"cpu_zscore": 3, "memory_zscore": 1}"#;
    let good: Value = serde_json::from_slice(&engine.predict("anomaly", body).await.expect("an answer")).expect("JSON");
    assert_eq!(good["anomaly"], json!(false));
    assert!(matches!(engine.predict("other", body).await, Err(Error::UnknownModel(_))));
    assert!(matches!(engine.predict("anomaly", b"{}").await, Err(Error::Request(_))));
    wait_for("a pair", || (engine.shadow("anomaly")?.pairs == 1).then_some(()));
    repo.point(2, None);
    engine.look();
    wait_for("the swap", || (engine.lane("anomaly")?.serving.get()?.champion.id.version == "2").then_some(()));
    let other: Value =
        serde_json::from_slice(&engine.predict("anomaly", body).await.expect("an answer")).expect("JSON");
    assert_ne!(good["score"], other["score"]);
    engine.close();
    assert!(matches!(engine.predict("anomaly", body).await, Err(Error::Predict(onnxd::batch::PredictError::Draining))));
}

#[test]
fn an_engine_says_why_nothing_serves() {
    let repo = Repo::serving("wrong-golden", None);
    let engine = Engine::open(Options::new(repo.path())).expect("opened");
    let error = engine.wait(Duration::from_secs(30)).expect_err("refused");
    assert!(error.contains("anomaly version 1: golden: golden sample 0"), "{error}");
    let empty = Repo::new();
    let engine = Engine::open(Options::new(empty.path())).expect("opened");
    assert!(engine.wait(Duration::from_secs(30)).expect_err("empty").contains("holds no model"));
}
