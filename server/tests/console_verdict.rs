//! The verdict on the console: the improvement's band and the conditions, in a real browser, of a real server whose peer tells what
//! it saw.

#[path = "console/browser.rs"]
mod browser;
mod common;

use browser::{Browser, opened, shows};
use common::peer::{Peer, compared, running, state, two_days};
use common::repo::Repo;
use common::{Server, wait_for};
use onnxd::shadow::origin::now;
use onnxd::verdict::buckets::{Buckets, SECONDS};
use onnxd::verdict::state::Evidence;
use serde_json::{Value, json};

/// A server with a peer that saw this of its challenger.
fn serving(evidence: Evidence) -> (Repo, Server) {
    let (repo, peer) = (Repo::serving("good", Some("other")), Peer::start());
    let server = Server::start(repo.path(), &["--peers", &peer.address.to_string()]);
    let status = wait_for("the challenger", || {
        Some(server.model_status("anomaly")).filter(|status| status["challengers"][0].is_object())
    });
    let (epoch, champion, challenger) = running(&status);
    peer.tell_state(&state("peer", epoch, champion, vec![compared("challenger", challenger, evidence)]));
    (repo, server)
}

/// Forecasts off by about 3 and about 2, in these buckets of ten minutes from two days ago on.
fn forecasts(buckets: impl Iterator<Item = u64>) -> Buckets {
    let (mut found, mut random) = (Buckets::default(), fastrand::Rng::with_seed(5));
    let since = (now() / SECONDS - 288) * SECONDS;
    for bucket in buckets {
        for row in 0..8 {
            found.record(since + SECONDS * bucket + row, 3.0 + random.f64(), 2.0 + random.f64());
        }
    }
    found
}

/// What of the band is drawn: used, not used yet, at the edges.
fn drawn(browser: &Browser) -> Value {
    browser.run(
        "const count = (selector) => document.querySelectorAll(`.verdict .chart ${selector}`).length;
         return [count('polyline.mean:not(.early)'), count('polyline.mean.early'), count('.band:not(.early)'), count('.band.early'), count('.beyond')]",
    )
}

#[test]
fn bounds_that_are_not_used_yet_are_grey() {
    let Some(browser) = Browser::start() else { return };
    let (_repo, server) = serving(Evidence { forecast: forecasts(0..30), ..two_days(2.0, 0, 1) });
    assert_eq!(server.ops("/models/anomaly/verdict").json()["verdicts"][0]["improvement"], json!(null));
    opened(&browser, &server);
    let told = shows(&browser, ".verdict", "Not used yet: bounds count from 50 buckets of 10 minutes on");
    assert!(!told.contains("between") && !told.contains("Grey:"), "{told}");
    shows(&browser, ".verdict", "Dashed at the edge: it goes on, up to ");
    let drawn = drawn(&browser);
    assert_eq!((&drawn[0], &drawn[1], &drawn[2], &drawn[3]), (&json!(0), &json!(1), &json!(0), &json!(1)), "{drawn}");
    assert!(drawn[4].as_u64().is_some_and(|edges| edges > 0), "{drawn}");
    let told = browser.run("return document.querySelector('.verdict .chart').ariaLabel");
    assert!(told.as_str().is_some_and(|told| told.contains("not used yet")), "{told}");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

/// Half a day in which nothing counted is no line; and what came before the bounds were used is told from the rest.
#[test]
fn gaps_in_time_are_not_joined() {
    let Some(browser) = Browser::start() else { return };
    let (_repo, server) = serving(Evidence { forecast: forecasts((0..70).chain(142..280)), ..two_days(2.0, 0, 1) });
    let verdict = server.ops("/models/anomaly/verdict").json();
    let improvement = &verdict["verdicts"][0]["improvement"];
    assert_eq!(improvement["ready"], json!(true), "{verdict}");
    opened(&browser, &server);
    let told = shows(&browser, ".verdict", "from 208 buckets of 10 minutes");
    for part in ["Grey: not used yet.", "Where the line breaks, nothing counted."] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let drawn = drawn(&browser);
    assert_eq!((&drawn[0], &drawn[1], &drawn[2], &drawn[3]), (&json!(2), &json!(1), &json!(2), &json!(1)), "{drawn}");
    // At least the first 48 of 208 buckets are grey, by the points of a hundred that stand for them.
    let early = browser.run("return document.querySelector('.mean.early').getAttribute('points').split(' ').length");
    let band = verdict["verdicts"][0]["band"].as_array().expect("points");
    let unused = band.iter().filter(|point| point["ready"] == json!(false)).count();
    assert!(unused >= 23 && early == json!(unused), "{early} of {unused}");
    browser.look(1280, "light");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("console-gaps.png");
    std::fs::write(file, browser.picture()).expect("written");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn conditions_are_grouped_by_the_way_to_a_promotion() {
    let Some(browser) = Browser::start() else { return };
    let (_repo, server) = serving(two_days(2.0, 0, 1));
    opened(&browser, &server);
    shows(&browser, "[data-key=conditions]", "2,880 rows");
    let rows = browser.run(
        "return [...document.querySelectorAll('[data-key=conditions] tbody tr')].map((row) => [...row.children].map((cell) => cell.innerText))",
    );
    let rows = rows.as_array().expect("a list");
    let at =
        |row: &Value| rows.iter().position(|found| found == row).unwrap_or_else(|| panic!("{row} is not in {rows:?}"));
    let order = [
        at(&json!(["needed always"])),
        at(&json!(["requests", "✓ yes", "2,880 rows", "at least 1,000 rows"])),
        at(&json!(["servers that did not tell", "✓ yes", "0", "none"])),
        at(&json!(["scores as the champion's", "✓ yes", "too few rows", "PSI at most 0.25"])),
        at(&json!(["by its forecast"])),
        at(&json!(["alarms for each of the champion's", "✓ yes", "1", "0.67 to 1.5"])),
        at(&json!(["by its decisions"])),
        at(&json!(["catches more", "not yet", "none", "1 in 400"])),
        at(&json!(["either way"])),
        at(&json!(["catches no less", "not yet", "none", "1 in 20, or no difference"])),
    ];
    assert!(order.is_sorted(), "{rows:?}");
    let row =
        |name: &str| rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} is not in {rows:?}"));
    assert!(row("hours")[2].as_str().is_some_and(|hours| hours.ends_with(" h")), "{rows:?}");
    assert_eq!(row("hours")[3], "at least 24 h");
    assert!(row("forecast is better")[2].as_str().is_some_and(|share| share.starts_with("at least ")), "{rows:?}");
    assert_eq!(row("forecast is not worse")[3], "more than −1 %");
    shows(&browser, "[data-key=conditions]", "One way is enough, with all that is needed always.");
    assert_eq!(browser.errors(), Vec::<String>::new());
}
