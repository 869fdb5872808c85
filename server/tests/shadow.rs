//! The shadow lane: the same rows, counted right, and nothing that happens in it reaches a client.

mod common;

use common::http::Load;
use common::repo::Repo;
use common::{Server, wait_for};
use serde_json::{Value, json};

fn row(cpu: usize) -> Value {
    json!({"cpu_zscore": cpu, "memory_zscore": 1, "cpu_baseline": 50, "cpu_scale": 10})
}

fn pairs(server: &Server) -> u64 {
    server.shadow()["pairs"].as_u64().unwrap_or(0)
}

#[test]
fn the_challenger_is_compared_on_every_row() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    let alone = Repo::serving("other", None);
    let alone = Server::start(alone.path(), &[]);
    let rows: Vec<Value> = (0..10).map(row).collect();
    let champion = server.predict(&json!(rows));
    let challenger = alone.predict(&json!(rows));
    wait_for("ten pairs", || (pairs(&server) == 10).then_some(()));
    let shadow = server.ops("/models/anomaly/shadow").json();
    assert_eq!((&shadow["champion"]["version"], &shadow["challengers"][0]["version"]), (&json!("1"), &json!("2")));
    let statistics = &shadow["challengers"][0]["statistics"];
    let values = |answers: &Value, key: &str| -> Vec<Value> {
        answers.as_array().expect("rows").iter().map(|a| a[key].clone()).collect()
    };
    let (a, b) = (values(&champion, "anomaly"), values(&challenger, "anomaly"));
    let agreements = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert_eq!(statistics["agreements"], json!(agreements));
    assert!(agreements < 10, "the fixtures disagree somewhere");
    let counted: u64 = statistics["decisions"].as_object().expect("a map").values().filter_map(Value::as_u64).sum();
    assert_eq!(counted, 10);
    for (field, output) in [("score_difference", "score"), ("forecast_difference", "forecast")] {
        let number = |v: &Value| v.as_f64().expect("a number");
        let differences: Vec<f64> = values(&champion, output)
            .iter()
            .zip(values(&challenger, output))
            .map(|(a, b)| number(&b) - number(a))
            .collect();
        let close = |key: &str, want: f64| {
            let got = number(&statistics[field][key]);
            assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{field}.{key}: {got}, expected {want}");
        };
        close("count", 10.0);
        close("sum", differences.iter().sum());
        close("sum_abs", differences.iter().map(|d| d.abs()).sum());
        close("sum_squares", differences.iter().map(|d| d * d).sum());
    }
    // The champion's time is added after the rows are compared.
    wait_for("the time of both", || {
        let shadow = server.ops("/models/anomaly/shadow").json();
        let statistics = &shadow["challengers"][0]["statistics"];
        let took = |key: &str| statistics[key]["seconds"].as_f64().expect("a number") > 0.0;
        (took("champion_compute") && took("challenger_compute")).then_some(())
    });
    let series = |name: &str| server.metric(name).unwrap_or_default();
    assert!(
        (series("onnxd_shadow_pairs_total{model=\"anomaly\",role=\"challenger\",outcome=\"compared\"}") - 10.0).abs()
            < 0.5
    );
    assert!((series("onnxd_shadow_score_difference_count{model=\"anomaly\",role=\"challenger\"}") - 10.0).abs() < 0.5);
    assert!((series("onnxd_inference_rows_total{model=\"anomaly\",role=\"challenger\"}") - 10.0).abs() < 0.5);
    let page = server.ops("/metrics").text();
    let disagreements: f64 = page
        .lines()
        .filter(|l| l.starts_with("onnxd_shadow_disagreements_total{"))
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((disagreements - (10 - agreements) as f64).abs() < 0.5);
    // The comparison belongs to this champion and this challenger: another champion begins anew.
    repo.install(3, "good");
    let epoch = repo.point(3, Some(2));
    wait_for("the swap", || (server.model_status("anomaly")["epoch"] == json!(epoch)).then_some(()));
    assert_eq!(pairs(&server), 0);
}

#[test]
fn a_share_is_sampled() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &["--shadow-sample", "0.25"]);
    for i in 0..200 {
        server.predict(&row(i % 10));
    }
    wait_for("fifty pairs", || (pairs(&server) >= 49).then_some(()));
    assert!((49..=51).contains(&pairs(&server)), "{}", pairs(&server));
}

/// A challenger that is slow, that fails, or that answers NaN: every client is answered by the champion, and what the
/// challenger did not score is counted.
#[test]
fn a_bad_challenger_reaches_no_client() {
    for (fixture, lost) in [("slow", "full"), ("fails-sometimes", "failed"), ("nan-sometimes", "non_finite")] {
        let repo = Repo::serving("good", Some(fixture));
        let server = Server::start(repo.path(), &["--shadow-queue-rows", "64"]);
        let expected: Vec<Value> = (0..80).map(|cpu| server.predict(&row(cpu))).collect();
        let load = Load::start(
            server.http,
            32,
            |turn| row(turn % 80).to_string(),
            move |turn, reply| {
                if reply.status == 200 && reply.json() == expected[turn % 80] { Ok(()) } else { Err(reply.text()) }
            },
        );
        wait_for("lost pairs", || {
            let enough = load.answered() > 5_000 && server.shadow()["lost"][lost].as_u64().unwrap_or(0) > 0;
            (enough || !load.problems().is_empty()).then_some(())
        });
        let (_, problems) = load.finish();
        assert!(problems.is_empty(), "{fixture}: {problems:?}");
        let series = format!("onnxd_shadow_pairs_total{{model=\"anomaly\",role=\"challenger\",outcome=\"{lost}\"}}");
        assert!(server.metric(&series).unwrap_or_default() > 0.0, "{fixture}");
        assert_eq!(server.ops("/readyz").status, 200);
    }
}

/// A challenger that fails on everything is paused, said so once, and tried again later.
#[test]
fn a_challenger_that_only_fails_is_paused() {
    let repo = Repo::serving("good", Some("fails-sometimes"));
    let server = Server::start(repo.path(), &[]);
    wait_for("the pause", || {
        server.predict(&row(70));
        (server.shadow()["lost"]["paused"].as_u64().unwrap_or(0) > 0).then_some(())
    });
    assert!(server.log().contains("the challenger failed 5 times in a row and is paused for 1 s"));
    // Five batches failed, of one row or more each, whose rows are tried apart; a sixth may have followed a pause that is over.
    let runs = server.shadow()["challenger_compute"]["runs"].as_u64().unwrap_or(0);
    assert!((5..=7 * 16).contains(&runs), "{runs} runs");
    // After the pause it may try again, and good rows are compared again.
    wait_for("pairs", || {
        server.predict(&row(5));
        (pairs(&server) > 0).then_some(())
    });
}

/// The shadow and the loading of models let others go first; whatever serves runs at the priority the process has.
#[cfg(target_os = "linux")]
#[test]
fn only_shadow_and_loading_step_back() {
    const LOADING: [&str; 2] = ["load", "trial"];
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    let threads = || -> Vec<(String, bool, String)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("threads");
        let of = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread may have ended in between.
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            let (name, rest) = stat.split_once('(').and_then(|(_, s)| s.rsplit_once(')')).expect("name in parentheses");
            // Fields are counted from 1 and the first two stand before `rest`: nice is field 19, the policy field 41.
            let field = |n: usize| rest.split_whitespace().nth(n - 3).expect("a field");
            Some((name.to_owned(), field(41) == "5", field(19).to_owned()))
        };
        tasks.filter_map(of).collect()
    };
    // It is the first thing that these threads do, which may be after the server is ready.
    let threads = wait_for("threads that step back", || {
        let threads = threads();
        let back = |(name, idle, nice): &&(String, bool, String)| {
            name == "shadow" && *idle || LOADING.contains(&&**name) && nice == "5"
        };
        (threads.iter().filter(back).count() == 3).then_some(threads)
    });
    for (name, idle, nice) in threads {
        assert_eq!(idle, name == "shadow", "{name} has an idle policy");
        assert_eq!(nice, if LOADING.contains(&&*name) { "5" } else { "0" }, "nice of {name}");
    }
}
