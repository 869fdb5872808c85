//! The verdict of several servers: added up, told, and in the mode `auto` carried out once.

mod common;

use std::fs;
use std::path::Path;

use common::peer::{Peer, challenger, champion, compared, running, state, told, two_days, version};
use common::repo::{Repo, row, serves, settled};
use common::{Server, onnxd, wait_for};
use onnxd::judge::{Judgement, Settings, StepKind, judge};
use onnxd::promotion::{Author, ChangeError, carry_out};
use onnxd::shadow::origin::now;
use onnxd::shadow::state::State;
use onnxd::source::{self, Source};
use onnxd::verdict::drift::Drift;
use onnxd::verdict::rule::{Decision, Kind};
use onnxd::verdict::state::Evidence;
use serde_json::{Value, json};

#[track_caller]
fn judged(states: &[State], missing: &[&str]) -> Judgement {
    let missing: Vec<String> = missing.iter().map(|told| (*told).to_owned()).collect();
    judge(states, &missing, &Settings::default(), now()).expect("a state")
}

/// Each of four servers sees too little to decide, all of them enough; and their sum is what one would have seen.
#[test]
fn what_servers_saw_adds_up() {
    let states: Vec<State> = (0..4).map(|i| told(&format!("server-{i}"), two_days(2.0, i, 4))).collect();
    for alone in &states {
        let judgement = judged(std::slice::from_ref(alone), &[]);
        assert_eq!(judgement.verdicts[0].verdict.decision, Decision::Hold);
        assert!(judgement.step().is_none() && !judgement.verdicts[0].verdict.estimate.is_empty());
    }
    let together = judged(&states, &[]);
    let verdict = &together.verdicts[0].verdict;
    assert_eq!(verdict.decision, Decision::Promote, "{verdict:?}");
    assert_eq!((together.servers.told, together.epoch), (4, 7));
    assert!(together.step().is_some_and(|step| step.kind == StepKind::Promote && step.of.version == challenger()));
    let mut other_order = states.clone();
    other_order.reverse();
    let json = |judgement: &Judgement| {
        let mut json = serde_json::to_value(judgement).expect("JSON");
        json["at"] = json!(0);
        json
    };
    assert_eq!(json(&judged(&other_order, &[])), json(&together));
    // One that told twice, as a server that is its own peer does, counts once.
    let twice = [states.clone(), vec![states[0].clone()]].concat();
    assert_eq!(json(&judged(&twice, &[])), json(&together));
    let one = told(
        "one",
        (0..4).fold(Evidence::default(), |mut sum, i| {
            sum.merge(&two_days(2.0, i, 4));
            sum
        }),
    );
    assert_eq!(json(&judged(&[one], &[]))["verdicts"][0]["improvement"], json(&together)["verdicts"][0]["improvement"]);
}

/// Whoever was not heard may have seen the opposite.
#[test]
fn nothing_is_decided_without_all_servers() {
    let good = told("a", two_days(2.0, 0, 1));
    for bad in [two_days(2.0, 0, 1), two_days(4.0, 0, 1)] {
        let judgement = judged(&[told("a", bad)], &["b did not answer within 2 s"]);
        let verdict = &judgement.verdicts[0].verdict;
        assert_eq!(verdict.decision, Decision::Hold);
        assert!(judgement.step().is_none());
        assert!(verdict.reasons.iter().any(|reason| reason.contains("b did not answer")), "{:?}", verdict.reasons);
    }
    let behind = State { epoch: 6, ..told("b", two_days(2.0, 0, 1)) };
    let elsewhere = State { champion: version("9", "c"), ..told("c", two_days(2.0, 0, 1)) };
    let foreign = State { model: "other".into(), ..told("d", two_days(2.0, 0, 1)) };
    let without = State { challengers: vec![], ..told("e", Evidence::default()) };
    for (odd, why) in [
        (behind, "b is on epoch 6, not yet on 7"),
        (elsewhere, "c serves version 9"),
        (foreign, "d told of the model \"other\""),
        (without, "e does not run it"),
    ] {
        // A champion of the same epoch is that of whoever tells first.
        let judgement = judged(&[good.clone(), odd], &[]);
        let verdict = &judgement.verdicts[0].verdict;
        assert_eq!(verdict.decision, Decision::Hold, "{why}");
        let said = [verdict.reasons.as_slice(), &judgement.servers.missing].concat().join("; ");
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(judgement.champion, champion());
    }
    // The highest epoch is the one that is judged, whoever tells first.
    let behind = State { epoch: 6, champion: version("0", "0"), ..told("b", two_days(2.0, 0, 1)) };
    let judgement = judged(&[behind, good], &[]);
    assert_eq!((judgement.epoch, judgement.champion, judgement.servers.told), (7, champion(), 1));
    assert!(judge(&[], &[], &Settings::default(), now()).is_err());
}

#[test]
fn one_thing_is_done_at_a_time() {
    let [worse, better, best] = [("2", 4.0), ("3", 2.5), ("4", 1.5)]
        .map(|(name, off)| compared(&format!("challenger-{name}"), version(name, name), two_days(off, 0, 1)));
    let mut all = state("a", 7, champion(), vec![worse.clone(), better, best]);
    let judgement = judged(&[all.clone()], &[]);
    let decisions: Vec<Decision> = judgement.verdicts.iter().map(|judged| judged.verdict.decision).collect();
    assert_eq!(decisions, [Decision::Reject, Decision::Promote, Decision::Promote]);
    let step = judgement.step().expect("two are better");
    assert_eq!((step.kind, step.of.version.version.as_str()), (StepKind::Promote, "4"), "the best of them");
    // What mends the champion comes first.
    all.previous = Some(compared("previous", version("0", "0"), two_days(2.0, 0, 1)));
    let judgement = judged(&[all.clone()], &[]);
    let step = judgement.step().expect("the one before is better");
    assert_eq!((step.kind, step.of.version.version.as_str()), (StepKind::BringBack, "0"));
    // One before that is worse is no reason for anything.
    all.previous = Some(compared("previous", version("0", "0"), two_days(4.0, 0, 1)));
    all.challengers = vec![worse];
    let judgement = judged(&[all.clone()], &[]);
    assert_eq!(judgement.previous.as_ref().map(|judged| judged.verdict.decision), Some(Decision::Reject));
    assert_eq!(judgement.step().map(|step| step.kind), Some(StepKind::Reject));
    all.challengers = vec![];
    assert!(judged(&[all], &[]).step().is_none());
}

/// The same answers in another form are enough where that is asked for, and only there.
#[test]
fn an_equivalent_challenger_is_promoted_where_that_is_enough() {
    let states = [told("a", two_days(3.0, 0, 1))];
    assert_eq!(judged(&states, &[]).verdicts[0].verdict.decision, Decision::Hold);
    // Of each series, a row in ten minutes: the more rows the sooner.
    let settings = Settings { kind: Kind::Equivalent, alpha: 0.2, ..Settings::default() };
    let judgement = judge(&states, &[], &settings, now()).expect("a state");
    let verdict = &judgement.verdicts[0].verdict;
    assert_eq!(verdict.decision, Decision::Promote, "{verdict:?}");
    assert_eq!(serde_json::to_value(&judgement).expect("JSON")["rule"], json!("equivalent"));
}

/// What came of `cpu_zscore`, of which this share was in the upper of two bins.
fn drift(upper: f64, counts: [u64; 2]) -> Drift {
    let reference = json!({"edges": [0.0], "p": [1.0 - upper, upper], "p_missing": 0.0, "n": 10_000});
    let values = json!({"counts": counts, "missing": 0});
    let drift = json!({"cpu_zscore": {"reference": reference, "days": {"20000": values}}});
    serde_json::from_value(drift).expect("drift")
}

/// While inputs are not as in training, what is compared does not stand for what is to come. What servers saw of them adds up.
#[test]
fn nobody_is_promoted_while_inputs_drift() {
    let drift = |high: u64| drift(0.5, [40, high]);
    let states = [0, 1].map(|i| State { drift: drift(90), ..told(&format!("server-{i}"), two_days(2.0, i, 2)) });
    let judgement = judged(&states, &[]);
    let verdict = &judgement.verdicts[0].verdict;
    assert_eq!(verdict.decision, Decision::Hold, "{verdict:?}");
    assert!(verdict.reasons[0].contains("inputs are not as in training: cpu_zscore"), "{:?}", verdict.reasons);
    let drifted = judgement.drift["cpu_zscore"];
    assert!(drifted.alarm && drifted.psi > 0.1 && drifted.log_e > 7.0, "{drifted:?}");
    let calm = states.map(|state| State { drift: drift(42), ..state });
    assert!(judged(&calm, &[]).step().is_some_and(|step| step.kind == StepKind::Promote));
}

/// What is to come is what a challenger was trained on, where its manifest tells: one that was trained since inputs drifted need
/// not wait for them to become what they were, and one that was trained on other ones waits though the champion was not.
#[test]
fn a_challenger_is_held_by_drift_from_its_own_training() {
    let tell = |server: u64, of: u64, champion: f64, own: Option<f64>| {
        let counts = [40, 90].map(|count| count * 2 / of);
        let mut state = told(&format!("server-{server}"), two_days(2.0, server, of));
        state.drift = drift(champion, counts);
        state.challengers[0].drift = own.map(|own| drift(own, counts)).unwrap_or_default();
        state
    };
    let verdict = |states: &[State]| {
        let judgement = judged(states, &[]);
        (serde_json::to_value(&judgement.verdicts[0]).expect("JSON"), judgement)
    };
    for (champion, own, decision, says) in [
        (0.5, Some(0.7), "promote", "its forecast is better"),
        (0.7, Some(0.7), "promote", "its forecast is better"),
        (0.7, Some(0.5), "hold", "inputs are not as in version 2's training: cpu_zscore, so that"),
        (0.5, Some(0.5), "hold", "inputs are not as in version 2's training: cpu_zscore, so that"),
        (0.5, None, "hold", "inputs are not as in training: cpu_zscore, so that"),
        (0.7, None, "promote", "its forecast is better"),
    ] {
        let states = [0, 1].map(|server| tell(server, 2, champion, own));
        let (together, judgement) = verdict(&states);
        let case = format!("{champion} {own:?}: {together}");
        assert_eq!(together["decision"], json!(decision), "{case}");
        assert!(together["reasons"][0].as_str().is_some_and(|reason| reason.contains(says)), "{case}");
        assert_eq!(judgement.drift["cpu_zscore"].alarm, champion < 0.6, "the champion's, whatever challenges: {case}");
        assert_eq!(judgement.step().is_some(), decision == "promote", "{case}");
        // One server that saw all says the same, and so does one that is told in the other order.
        let mut sum = tell(0, 1, champion, own);
        sum.challengers[0].evidence = states.iter().fold(Evidence::default(), |mut sum, state| {
            sum.merge(&state.challengers[0].evidence);
            sum
        });
        let [first, second] = states;
        for same in [vec![sum], vec![second, first]] {
            let (same, _) = verdict(&same);
            assert_eq!((&same["drift"], &same["conditions"]), (&together["drift"], &together["conditions"]), "{case}");
        }
        assert_eq!(together["drift"].is_null(), own.is_none(), "{case}");
    }
    // A server of a version that does not tell it is read, and what others tell counts.
    let known = tell(1, 2, 0.5, Some(0.7));
    let mut old = serde_json::to_value(tell(0, 1, 0.5, Some(0.7))).expect("JSON");
    assert!(old["challengers"][0].as_object_mut().expect("an object").remove("drift").is_some());
    let old: State = serde_json::from_value(old).expect("a state");
    assert!(old.challengers[0].drift.is_empty());
    let (together, _) = verdict(&[old.clone(), known]);
    assert_eq!((&together["decision"], &together["drift"]["cpu_zscore"]["alarm"]), (&json!("promote"), &json!(false)));
    let (alone, _) = verdict(&[old]);
    assert_eq!((&alone["decision"], &alone["drift"]), (&json!("hold"), &Value::Null));
}

/// Challengers that ran beside it and are gone have had their part of the error.
#[test]
fn those_that_are_gone_share_the_error() {
    let needs = |beside| {
        let states = [1, beside].map(|beside| {
            told(&format!("server-{beside}"), Evidence { beside, ..two_days(2.0, u64::from(beside) % 2, 2) })
        });
        let json = serde_json::to_value(judged(&states, &[])).expect("JSON");
        let conditions = json["verdicts"][0]["conditions"].as_array().expect("conditions").clone();
        let found = conditions.iter().find(|condition| condition["name"] == "catches more").expect("a condition");
        found["needs"].as_f64().expect("a number")
    };
    assert!((needs(3) - needs(1) - 3_f64.ln()).abs() < 1e-9);
}

/// The answer's shape is what the console and other programs read.
#[test]
fn a_judgement_is_told_as_documented() {
    let mut told = told("a", two_days(2.0, 0, 1));
    told.previous = Some(compared("previous", version("0", "0"), Evidence::default()));
    let json = serde_json::to_value(judged(&[told], &["b cannot be reached"])).expect("JSON");
    assert_eq!(json["servers"], json!({"told": 1, "missing": ["b cannot be reached"]}));
    assert_eq!((&json["model"], &json["rule"], &json["mode"]), (&json!("anomaly"), &json!("better"), &json!("manual")));
    assert_eq!(json["champion"], json!(champion()));
    let verdict = &json["verdicts"][0];
    assert_eq!((&verdict["role"], &verdict["version"]), (&json!("challenger"), &json!("2")));
    assert_eq!((&verdict["sha256"], &verdict["decision"]), (&json!("b".repeat(64)), &json!("hold")));
    assert!(verdict["improvement"]["lower"].as_f64().is_some_and(|lower| lower > 0.0), "{verdict}");
    let condition = &verdict["conditions"][0];
    assert!(condition["name"].is_string() && condition["holds"].is_boolean() && condition["needs"].is_number());
    let both = &verdict["alarms"]["both"];
    assert_eq!(verdict["alarms"], json!({"both": both, "champion": 0, "challenger": 0, "neither": 0}));
    assert!(
        both.as_u64().is_some_and(|halves| (96..=97).contains(&halves)),
        "two days of half hours, of which those at the ends are not full"
    );
    assert!(condition["route"].is_null(), "it is needed whatever the route");
    assert!(verdict["latency"]["champion"].as_object().is_some_and(|told| told.contains_key("p99")), "{verdict}");
    assert!(verdict["scores"]["challenger"].is_array() && verdict["labels"].is_object(), "{verdict}");
    assert!(verdict["band"].as_array().is_some_and(|band| !band.is_empty()), "{verdict}");
    assert_eq!(verdict["estimate"][0]["condition"], json!("servers"));
    assert_eq!(json["previous"]["decision"], json!("hold"));
}

fn author() -> Author {
    Author { by: "tests".into(), reason: String::new(), evidence: Value::Null }
}

fn open(repository: &Path) -> Source {
    let options = source::Options { repository: repository.into(), ..source::Options::default() };
    Source::open(&options).expect("a folder")
}

/// The judgement of what these servers run, with this evidence.
fn judgement_of(repo: &Repo, evidence: Evidence) -> Judgement {
    let aliases = repo.aliases();
    let epoch = aliases["epoch"].as_u64().expect("a number");
    judged(&[state("a", epoch, champion(), vec![compared("challenger", challenger(), evidence)])], &[])
}

/// Many that judge the same at the same time make one change.
#[test]
fn one_of_many_carries_it_out() {
    let repo = Repo::serving("good", Some("other"));
    let judgement = judgement_of(&repo, two_days(2.0, 0, 1));
    let results: Vec<_> = std::thread::scope(|scope| {
        let (judgement, repo) = (&judgement, &repo);
        let one = move |number: usize| {
            let step = judgement.step().expect("a promotion");
            let author = Author { by: format!("server {number}"), ..author() };
            carry_out(&open(repo.path()), judgement, &step, &author, false)
        };
        let all: Vec<_> = (0..8).map(|number| scope.spawn(move || one(number))).collect();
        all.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(results.iter().filter(|result| result.as_ref().is_ok_and(|done| done.changed)).count(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(ChangeError::Lost(_)))).count(), 7, "{results:?}");
    assert_eq!((&repo.aliases()["champion"], &repo.aliases()["epoch"]), (&json!("2"), &json!(2)));
    // The record of the pointer that was written by hand is made up for.
    assert_eq!(repo.records(), ["1.json", "2.json"]);
}

#[test]
fn only_what_was_judged_is_promoted() {
    let repo = Repo::serving("good", Some("other"));
    let judgement = judgement_of(&repo, two_days(2.0, 0, 1));
    let step = judgement.step().expect("a promotion");
    let source = open(repo.path());
    let tried = carry_out(&source, &judgement, &step, &author(), true).expect("it could be promoted");
    assert!(!tried.changed && tried.aliases.champion == "2" && repo.records().is_empty());
    // Someone puts other bytes in the version's place: servers would go on with those that were judged.
    repo.edit(2, |manifest| manifest["created_by"] = json!({"tool": "another"}));
    let refused = carry_out(&source, &judgement, &step, &author(), false);
    assert!(
        matches!(&refused, Err(ChangeError::Refused(why)) if why.contains("not the one that was judged")),
        "{refused:?}"
    );
    // A pointer of the same epoch that names another champion is another pointer.
    let mut other = repo.aliases();
    other["champion"] = json!("2");
    repo.write_aliases(&other.to_string());
    let lost = carry_out(&source, &judgement, &step, &author(), false);
    assert!(matches!(lost, Err(ChangeError::Lost(_))), "{lost:?}");
    assert!(repo.records().is_empty());
}

/// A challenger can be taken out whatever is wrong with its files.
#[test]
fn a_rejected_challenger_is_taken_out() {
    let repo = Repo::serving("good", Some("other"));
    let judgement = judgement_of(&repo, two_days(4.0, 0, 1));
    let step = judgement.step().expect("it is worse");
    fs::remove_dir_all(repo.version(2)).expect("a folder");
    let author = Author { evidence: judgement.evidence(), reason: step.reason(), ..author() };
    let done = carry_out(&open(repo.path()), &judgement, &step, &author, false).expect("it is taken out");
    assert!(done.changed && done.aliases.challengers.is_empty() && done.aliases.champion == "1");
    let record = repo.record(2);
    assert_eq!((&record["action"], &record["champion"]), (&json!("reject"), &json!("1")));
    assert_eq!(record["evidence"]["verdicts"][0]["decision"], json!("reject"));
    assert!(
        record["reason"].as_str().is_some_and(|why| why.starts_with("version 2: its forecast is worse")),
        "{record}"
    );
    let again = carry_out(&open(repo.path()), &judgement, &step, &author, false);
    assert!(matches!(again, Err(ChangeError::Lost(_))), "{again:?}");
    let said = onnxd(&["status", "--model", "anomaly", "--repository", repo.path().to_str().expect("text")]);
    assert!(said.1.contains("reject") && said.0 == 0, "{said:?}");
}

/// Servers of a repository that judge ten times a second, with a peer beside them.
fn servers(count: usize, repo: &Repo, mode: &str, peer: &Peer) -> Vec<Server> {
    let peers = peer.address.to_string();
    let args = ["--verdict", mode, "--verdict-interval", "100ms", "--peers", &peers];
    (0..count).map(|_| Server::start(repo.path(), &args)).collect()
}

/// What the peer tells: that it runs what the server does, and saw this.
fn tells(peer: &Peer, server: &Server, evidence: Evidence) {
    let status = wait_for("the challenger", || {
        Some(server.model_status("anomaly")).filter(|status| status["challengers"][0].is_object())
    });
    let (epoch, champion, challenger) = running(&status);
    peer.tell_state(&state("peer", epoch, champion, vec![compared("challenger", challenger, evidence)]));
}

fn promoted(servers: &[Server], outcome: &str) -> f64 {
    let series = format!("onnxd_promotions_total{{model=\"anomaly\",outcome=\"{outcome}\"}}");
    servers.iter().map(|server| server.metric(&series).expect("it is there from the start")).sum()
}

#[test]
fn in_auto_mode_one_of_three_servers_promotes() {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let servers = servers(3, &repo, "auto", &peer);
    tells(&peer, &servers[0], two_days(2.0, 0, 1));
    for server in &servers {
        serves(server, 2);
    }
    let record = repo.record(2);
    assert_eq!((&record["action"], &record["replaced"]), (&json!("promote"), &json!("1")), "{record}");
    assert!(record["by"].as_str().is_some_and(|by| by.starts_with("verdict of onnxd at ")), "{record}");
    assert!(record["reason"].as_str().is_some_and(|why| why.contains("its forecast is better")), "{record}");
    let evidence = &record["evidence"];
    assert_eq!((&evidence["epoch"], &evidence["servers"]["missing"]), (&json!(1), &json!([])));
    assert_eq!(evidence["verdicts"][0]["decision"], json!("promote"));
    wait_for("the count", || (promoted(&servers, "auto_promoted") == 1.0).then_some(()));
    assert_eq!(repo.records(), ["1.json", "2.json"]);
    assert_eq!(promoted(&servers, "failed"), 0.0);
}

#[test]
fn in_auto_mode_a_worse_challenger_is_taken_out() {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let servers = servers(1, &repo, "auto", &peer);
    tells(&peer, &servers[0], two_days(4.0, 0, 1));
    wait_for("its end", || (servers[0].model_status("anomaly")["challengers"] == json!([])).then_some(()));
    assert_eq!(repo.record(2)["action"], json!("reject"));
    assert_eq!(repo.aliases()["champion"], json!("1"));
    wait_for("the count", || (promoted(&servers, "auto_rejected") == 1.0).then_some(()));
}

#[test]
fn without_all_servers_nothing_is_written() {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = silent.local_addr().expect("bound").to_string();
    drop(silent);
    let peers = format!("{},{gone}", peer.address);
    let args = ["--verdict", "auto", "--verdict-interval", "100ms", "--peers", &peers];
    let server = Server::start(repo.path(), &args);
    tells(&peer, &server, two_days(2.0, 0, 1));
    let asked = peer.asked();
    wait_for("some judgements", || (peer.asked() > asked + 5).then_some(()));
    let judgement = server.ops("/models/anomaly/verdict").json();
    let missing = judgement["servers"]["missing"][0].as_str().expect("one");
    assert!(missing.contains(&gone) && judgement["verdicts"][0]["decision"] == "hold", "{judgement}");
    assert_eq!((&repo.aliases()["epoch"], repo.records()), (&json!(1), vec![]));
}

#[test]
fn in_manual_mode_a_verdict_is_told_and_nothing_is_written() {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let servers = servers(1, &repo, "manual", &peer);
    let server = &servers[0];
    tells(&peer, server, two_days(2.0, 0, 1));
    let judgement = server.ops("/models/anomaly/verdict").json();
    assert_eq!(judgement["servers"], json!({"told": 2, "missing": []}), "{judgement}");
    assert_eq!((&judgement["mode"], &judgement["verdicts"][0]["decision"]), (&json!("manual"), &json!("promote")));
    assert_eq!(server.ops("/models/none/verdict").status, 404);
    // The metrics tell what all servers saw, the test by a name that stays.
    let series = |state| format!("onnxd_verdict{{model=\"anomaly\",role=\"challenger\",state=\"{state}\"}}");
    wait_for("the metric", || server.metric(&series("promote")).filter(|value| *value == 1.0));
    assert_eq!(server.metric(&series("hold")), Some(0.0));
    let log_e = "onnxd_shadow_log_e{model=\"anomaly\",role=\"challenger\",test=\"catches_more\"}";
    assert!(server.metric(log_e).is_some());
    assert_eq!((&repo.aliases()["epoch"], repo.records()), (&json!(1), vec![]));
}

/// Two real servers, each with rows of its own: one judges by what both saw, and so does the command.
#[test]
fn servers_tell_each_other_what_they_saw() {
    let repo = Repo::serving("good", Some("other"));
    let first = Server::start(repo.path(), &[]);
    let peers = first.ops.to_string();
    let second = Server::start(repo.path(), &["--peers", &peers]);
    for (server, rows) in [(&first, 30), (&second, 12)] {
        (0..rows).for_each(|turn| drop(server.predict(&row(turn))));
        wait_for("the pairs", || (server.shadow()["pairs"] == json!(rows)).then_some(()));
    }
    let judgement = second.ops("/models/anomaly/verdict").json();
    assert_eq!(judgement["servers"], json!({"told": 2, "missing": []}), "{judgement}");
    assert_eq!(judgement["verdicts"][0]["pairs"], json!(42), "{judgement}");
    assert_eq!(first.ops("/models/anomaly/verdict").json()["verdicts"][0]["pairs"], json!(30), "it knows of no other");
    let both = format!("{peers},{}", second.ops);
    let (code, said, errors) = onnxd(&["verdict", "--peers", &both, "--json"]);
    let json: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{errors}"));
    assert_eq!((code, &json["servers"]["told"], &json["verdicts"][0]["pairs"]), (10, &json!(2), &json!(42)), "{said}");
}

/// What was promoted by hand, or by a verdict that was wrong, is judged by the same evidence.
#[test]
fn in_auto_mode_the_champion_before_comes_back_when_it_is_better() {
    let (repo, peer) = (Repo::serving("good", None), Peer::start());
    repo.install(2, "good");
    let servers = servers(1, &repo, "auto", &peer);
    settled(&servers[0], repo.point(2, None));
    let own: State = serde_json::from_slice(&servers[0].ops("/models/anomaly/shadow").body).expect("a state");
    let before = own.previous.clone().expect("it is compared with the one that replaced it");
    let previous = Some(compared("previous", before.version, two_days(2.0, 0, 1)));
    peer.tell_state(&State { server: "peer".into(), previous, ..own });
    serves(&servers[0], 1);
    let record = repo.record(3);
    assert_eq!((&record["action"], &record["replaced"]), (&json!("rollback"), &json!("2")), "{record}");
    assert!(record["by"].as_str().is_some_and(|by| by.starts_with("verdict of onnxd at ")), "{record}");
    assert_eq!(record["evidence"]["previous"]["decision"], json!("promote"));
    wait_for("the count", || (promoted(&servers, "auto_rolled_back") == 1.0).then_some(()));
}
