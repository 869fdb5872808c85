//! `onnxd verdict`: what it says, explains and does, and what it says of mistakes.

mod common;

use common::peer::{Peer, challenger, champion, compared, state, told, two_days, version};
use common::repo::Repo;
use common::{Server, onnxd, wait_for};
use onnxd::shadow::origin::now;
use onnxd::verdict::state::Evidence;
use serde_json::{Value, json};

/// `onnxd verdict` with these flags, of a peer that tells this.
fn verdict(evidence: Option<Evidence>, more: &[&str]) -> (i32, String, String) {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    peer.tell("/status", 200, json!({"models": [{"name": "anomaly"}]}).to_string());
    let challengers = evidence.map(|evidence| compared("challenger", challenger(), evidence));
    peer.tell_state(&state("a", 1, champion(), challengers.into_iter().collect()));
    let (peers, repository) = (peer.address.to_string(), repo.path().to_str().expect("text").to_owned());
    let said = onnxd(&[&["verdict", "--peers", &peers, "--repository", &repository], more].concat());
    if more.contains(&"--apply") {
        return (said.0, said.1 + &repo.aliases().to_string(), said.2);
    }
    assert_eq!(repo.records().len(), 0, "nothing is changed without --apply");
    said
}

#[test]
fn the_command_says_what_is_to_be_done() {
    let (code, said, errors) = verdict(Some(two_days(2.0, 0, 1)), &[]);
    assert_eq!(code, 0, "{said}{errors}");
    for part in [
        "anomaly: champion 1, epoch 1, by what 1 server saw",
        "promote: version 2 (challenger)",
        "its forecast is better, and nothing else is worse",
        "CONDITION",
        "to do so: onnxd promote 2 --model anomaly",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let (code, said, _) = verdict(Some(two_days(4.0, 0, 1)), &[]);
    assert!(
        code == 11 && said.contains("reject: version 2") && said.contains("its forecast is worse"),
        "{code} {said}"
    );
    let (code, said, _) = verdict(None, &[]);
    assert!(code == 10 && said.contains("there is no challenger"), "{code} {said}");
    let (code, said, _) = verdict(Some(two_days(2.0, 0, 1)), &["--json"]);
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &json["verdicts"][0]["decision"], &json["change"]), (0, &json!("promote"), &json!(null)));
    // A stricter error than the evidence is good for.
    let little = two_days(3.05, 0, 1);
    assert_eq!(verdict(Some(little), &["--verdict-alpha", "0.000001"]).0, 10);
}

/// Values have units, needs a direction, and a reader sees that one of two ways is enough.
#[test]
fn the_command_groups_conditions_by_the_way_to_a_promotion() {
    let (_, said, _) = verdict(Some(two_days(2.0, 0, 1)), &[]);
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    let at = |start: &[&str]| {
        let found = lines.iter().position(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("{start:?} is not in\n{said}"))
    };
    let order = [
        at(&["CONDITION", "HOLDS", "VALUE", "NEEDS"]),
        at(&["needed always"]),
        at(&["hours", "yes"]),
        at(&["requests", "yes", "2880 rows", "at least 1000 rows"]),
        at(&["series", "yes", "3 series", "at least 3 series"]),
        at(&["servers that did not tell", "yes", "0", "none"]),
        at(&["inputs as in training", "yes", "none drifted", "none"]),
        at(&["scores as the champion's", "yes", "too few rows", "PSI at most 0.25"]),
        at(&["by its forecast"]),
        at(&["forecast is better", "yes"]),
        at(&["gives the champion's alarms", "yes"]),
        at(&["alarms for each of the champion's", "yes", "1", "0.67 to 1.5"]),
        at(&["by its decisions"]),
        at(&["forecast is not worse", "yes"]),
        at(&["catches more", "no", "none", "1 in 400"]),
        at(&["either way"]),
        at(&["catches no less", "no", "none", "1 in 20, or no difference"]),
        at(&["one way is enough, with all that is needed always:"]),
    ];
    assert!(order.is_sorted(), "{order:?} {said}");
    let better = &lines[at(&["forecast is better"])];
    assert!(
        better[2].starts_with("at least ") && better[2].ends_with(" %") && better[3] == "more than 0 %",
        "{better:?}"
    );
    let hours = &lines[at(&["hours"])];
    assert!(hours[2].ends_with(" h") && hours[3] == "at least 24 h", "{hours:?}");
    assert!(said.contains("  its forecast is ") && said.contains("times ten minutes"), "{said}");
    assert!(!said.contains("-0.0") && !said.contains("e-"), "{said}");
    // Of one that is equivalent, all are needed.
    let (_, said, _) = verdict(Some(two_days(3.0, 0, 1)), &["--verdict-rule", "equivalent"]);
    assert!(said.contains("needed always") && !said.contains("either way"), "{said}");
}

#[test]
fn the_command_names_whoever_is_to_be_taken_out() {
    let peer = Peer::start();
    let peers = peer.address.to_string();
    let worse = |role: &str, name: &str| compared(role, version(name, name), two_days(4.0, 0, 1));
    let mut told = state("a", 1, champion(), vec![worse("challenger", "2"), worse("challenger-2", "3")]);
    peer.tell_state(&told);
    let ask = || onnxd(&["verdict", "--peers", &peers, "--model", "anomaly"]);
    let (code, said, _) = ask();
    let hint = "to do so: this command with --apply takes version 2 (challenger) out of the challengers, each further run \
                with it the next: version 3 (challenger-2)";
    assert!(code == 11 && said.contains(hint), "{code} {said}");
    // Beside one that is worse, the second alone is named.
    told.challengers[0] = compared("challenger", challenger(), two_days(3.0, 0, 1));
    peer.tell_state(&told);
    let (code, said, _) = ask();
    assert!(code == 11 && said.contains("--apply takes version 3 (challenger-2) out of the challengers\n"), "{said}");
}

/// The champion before is left where it is no better, and brought back where it is.
#[test]
fn the_command_says_of_the_champion_before_whether_to_bring_it_back() {
    let peer = Peer::start();
    let peers = peer.address.to_string();
    let mut told = state("a", 2, champion(), vec![]);
    for (theirs, code, decision) in [(4.0, 10, "leave"), (2.0, 0, "bring back")] {
        told.previous = Some(compared("previous", version("0", "0"), two_days(theirs, 0, 1)));
        peer.tell_state(&told);
        let (ended, said, _) = onnxd(&["verdict", "--peers", &peers, "--model", "anomaly"]);
        let back = said.contains("to do so: onnxd rollback --to 0 --model anomaly");
        assert!(ended == code && said.contains(&format!("{decision}: version 0 (previous)")), "{ended} {said}");
        assert_eq!(back, decision == "bring back", "{said}");
    }
    let (_, help, _) = onnxd(&["verdict", "--help"]);
    for word in ["promote", "hold", "reject", "bring back", "leave"] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{word}  "))),
            "{word} is not in {help}"
        );
    }
}

#[test]
fn the_command_explains_what_is_missing() {
    let mut little = two_days(2.9, 0, 1);
    little.active = onnxd::verdict::active::Active::default();
    (0..36).for_each(|bucket| little.active.record(now() - 6 * 3600 + 600 * bucket, 14, false));
    little.requests = 500;
    little.series = [1].into();
    little.forecast = onnxd::verdict::buckets::Buckets::default();
    little.draws = onnxd::verdict::draws::Draws::default();
    let (code, said, _) = verdict(Some(little), &["--explain"]);
    assert_eq!(code, 10);
    for part in [
        "what it takes:",
        "- hours: 18.0 more hours with rows, for a daily cycle",
        "- requests: 500 more requests: 6 hours at the rate so far",
        "- series: rows of 2 more series",
        "- forecast is better: at least 50 more buckets of 10 minutes",
        "no labels of anomalies on which exactly one of both is right yet",
        "what brings it:",
        "outputs_semantics.<forecast>.target_feature",
        "POST /feedback",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let promoted = verdict(Some(two_days(2.0, 0, 1)), &["--explain"]);
    assert!(promoted.0 == 0 && !promoted.1.contains("what it takes"), "{}", promoted.1);
}

#[test]
fn the_command_does_what_the_verdict_says() {
    let (code, said, errors) = verdict(Some(two_days(2.0, 0, 1)), &["--apply", "--by", "ann"]);
    assert!(code == 0 && said.contains("done: anomaly: champion 2, challengers none, epoch 2"), "{said}{errors}");
    assert!(said.contains(r#""by":"ann""#) && said.contains("its forecast is better"), "{said}");
    let (code, said, errors) = verdict(Some(two_days(4.0, 0, 1)), &["--apply"]);
    assert!(code == 11 && said.contains("done: anomaly: champion 1, challengers none, epoch 2"), "{said}{errors}");
    let (code, said, _) = verdict(Some(two_days(2.0, 0, 1)), &["--apply", "--dry-run"]);
    assert!(code == 0 && said.contains("would be: anomaly: champion 2") && said.contains(r#""epoch":1"#), "{said}");
    let (code, said, _) = verdict(Some(Evidence::default()), &["--apply"]);
    assert!(code == 10 && said.contains(r#""epoch":1"#), "{said}");
}

#[test]
fn the_command_tells_mistakes() {
    let (code, _, errors) = onnxd(&["verdict", "--peers", "127.0.0.1:1", "--model", "anomaly"]);
    assert!(code == 1 && errors.contains("127.0.0.1:1 cannot be reached") && errors.contains("--peers"), "{errors}");
    let (code, _, errors) = onnxd(&["verdict", "--peers", "nowhere"]);
    assert!(code == 2 && errors.contains("\"nowhere\" is no peer: write HOST:PORT"), "{errors}");
    let (code, _, errors) = onnxd(&["verdict", "--verdict-rule", "newer", "--verdict-alpha", "2"]);
    assert!(code == 2 && errors.lines().count() == 2, "{errors}");
    let peer = Peer::start();
    peer.tell("/status", 200, json!({"models": [{"name": "a"}, {"name": "b"}]}).to_string());
    let (code, _, errors) = onnxd(&["verdict", "--peers", &peer.address.to_string()]);
    assert!(code == 2 && errors.contains("name one with --model: a, b"), "{errors}");
    let (code, _, errors) = onnxd(&["verdict", "--peers", &peer.address.to_string(), "--model", "../x"]);
    assert!(code == 2 && errors.contains("not a model's name"), "{errors}");
    // Of two servers, one does not tell: on hold, although the other's evidence would be enough.
    peer.tell_state(&told("a", two_days(2.0, 0, 1)));
    let peers = format!("{},127.0.0.1:1", peer.address);
    let (code, said, _) = onnxd(&["verdict", "--peers", &peers, "--model", "anomaly"]);
    assert!(code == 10 && said.contains("missing: 127.0.0.1:1 cannot be reached"), "{said}");
    assert!(said.matches("cannot be reached").count() == 1 && said.contains("1 of the servers did not tell"), "{said}");
    assert!(said.contains(": start it, or name with --peers the operations ports of those that run"), "{said}");
    peer.tell_state(&state("a", 1, champion(), vec![]));
    let ahead = Peer::start();
    ahead.tell_state(&told("b", two_days(2.0, 0, 1)));
    let peers = format!("{},{}", peer.address, ahead.address);
    let (code, said, _) = onnxd(&["verdict", "--peers", &peers, "--model", "anomaly"]);
    let next = "a is on epoch 1, not yet on 7: it follows within its --poll-interval";
    assert!(code == 10 && said.contains(next), "{said}");
}

/// Of a real server: what it answers on other ports, and of other models.
#[test]
fn the_command_says_what_was_asked_in_vain() {
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    let (data, grpc, ops) = (server.http.to_string(), server.grpc.to_string(), server.ops.to_string());
    for port in [&data, &grpc] {
        for model in [&[][..], &["--model", "anomaly"]] {
            let (code, _, errors) = onnxd(&[&["verdict", "--peers", port], model].concat());
            let hint =
                "that is a data port: name the operations port (--ops of the server, 8082 unless it was told another)";
            assert!(code == 1 && errors.contains(port) && errors.contains(hint), "{errors}");
        }
    }
    let both = format!("{ops},{data}");
    let (code, said, _) = onnxd(&["verdict", "--peers", &both, "--model", "anomaly"]);
    assert!(code == 10 && said.contains(&format!("missing: {data}")) && said.contains("that is a data port"), "{said}");
    let (code, _, errors) = onnxd(&["verdict", "--peers", &ops, "--model", "anomalie"]);
    let hint = "there is no model \"anomalie\"; served are: anomaly: name one of those with --model";
    assert!(code == 1 && errors.contains(hint), "{errors}");
    let empty = tempfile::TempDir::new().expect("a folder");
    let server = Server::launch(empty.path(), &[]);
    let (code, _, errors) = onnxd(&["verdict", "--peers", &server.ops.to_string()]);
    assert!(code == 1 && errors.contains("no model yet: onnxd push adds one"), "{errors}");
}

/// One that answers wrongly when it is tried out needs no evidence to lose.
#[test]
fn a_challenger_that_servers_refuse_has_lost() {
    let repo = Repo::serving("good", Some("wrong-golden"));
    let server = Server::start(repo.path(), &[]);
    let (peers, repository) = (server.ops.to_string(), repo.path().to_str().expect("text").to_owned());
    let (code, said, errors) = onnxd(&["verdict", "--peers", &peers, "--repository", &repository, "--explain"]);
    assert_eq!(code, 11, "{said}{errors}");
    for part in
        ["reject: version 2 (challenger)", "refused at golden: ", "the manifest expects", "--apply takes version 2"]
    {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let verdict = server.ops("/models/anomaly/verdict").json();
    assert_eq!((&verdict["verdicts"][0]["decision"], &verdict["previous"]), (&json!("reject"), &json!(null)));
    drop(server);
    let server = Server::start(repo.path(), &["--verdict", "auto", "--verdict-interval", "100ms"]);
    let record = repo.record(2);
    assert_eq!((&record["action"], &record["champion"]), (&json!("reject"), &json!("1")), "{record}");
    assert!(record["reason"].as_str().is_some_and(|why| why.starts_with("version 2: refused at golden")), "{record}");
    wait_for("the new pointer", || (server.model_status("anomaly")["epoch"] == json!(2)).then_some(()));
    assert_eq!(repo.aliases()["challengers"], json!([]));
}
