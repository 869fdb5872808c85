//! The console, in a real browser against a real server.

#[path = "console/browser.rs"]
mod browser;
mod common;

use std::fs;
use std::path::Path;

use browser::{Browser, ENTER, ESCAPE, TAB, console, opened, shows};
use common::repo::{Repo, row, settled};
use common::{Server, wait_for};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

fn token() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), "a-secret-of-the-tests\n").expect("written");
    file
}

fn serve(repository: &Path, token: &NamedTempFile) -> Server {
    Server::start(repository, &["--admin-token-file", token.path().to_str().expect("UTF-8")])
}

/// Presses Tab until this is focused.
#[track_caller]
fn tab_to(browser: &Browser, selector: &str) {
    let is_there = format!("return document.activeElement.matches({})", json!(selector));
    for _ in 0..100 {
        if browser.run(&is_there) == json!(true) {
            return;
        }
        browser.press(&TAB.to_string());
    }
    panic!("{selector} is not reached by Tab");
}

#[test]
fn champion_and_challenger_are_shown_and_their_pairs_grow() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    opened(&browser, &server);
    let status = server.model_status("anomaly");
    let main = browser.text("#main");
    for member in [&status["champion"], &status["challengers"][0]] {
        let sha256 = member["sha256"].as_str().expect("a hash");
        assert!(main.contains(&sha256[..12]), "{main}");
    }
    assert_eq!((browser.text("#ready"), browser.text("#version")), ("ready".into(), env!("CARGO_PKG_VERSION").into()));
    let source = browser.text("#source");
    assert!(source.contains(&*repo.path().to_string_lossy()) && source.contains("watched for changes"), "{source}");
    shows(&browser, ".cards", "Challenger 2");
    shows(&browser, ".comparison", "Challenger 2 against champion 1");
    shows(&browser, "#verdict", "HOLD");
    server.predict(&json!((0..10).map(row).collect::<Vec<_>>()));
    shows(&browser, ".cards", "10 pairs,");
    // What has the focus, what is scrolled and what is opened stays so while numbers change.
    browser.run(
        "document.querySelector('[data-act=promote]').focus(); window.kept = document.activeElement; scrollTo(0, 333)",
    );
    let scrolled = browser.run("return scrollY");
    server.predict(&json!((0..7).map(row).collect::<Vec<_>>()));
    shows(&browser, ".cards", "17 pairs,");
    let kept = browser.run("return [document.activeElement === window.kept && window.kept.isConnected, scrollY]");
    assert_eq!(kept, json!([true, scrolled]));
    let shadow = server.shadow();
    let decided = format!("{} decided pairs", shadow["decided"]);
    shows(&browser, ".panels", &decided);
    shows(&browser, ".panels", "No row was lost.");
    assert_eq!(browser.errors(), Vec::<String>::new());
    let requests = browser.requests();
    let elsewhere: Vec<_> = requests.iter().filter(|url| !url.starts_with(&console(&server))).collect();
    assert!(requests.len() > 10 && elsewhere.is_empty(), "{requests:?}");
}

/// What the verdict stands on and waits for, of rows that say what they are of.
#[test]
fn the_verdict_is_shown_with_what_it_stands_on() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::new();
    repo.install(1, "good");
    repo.install(2, "other");
    repo.edit(1, |manifest| {
        let cpu = json!({"edges": [-5.0, 0.0, 100.0], "p": [0.5, 0.5], "p_missing": 0.0, "n": 1000});
        manifest["reference"] = json!({ "cpu_zscore": cpu });
    });
    repo.point(1, Some(2));
    let server = Server::start(repo.path(), &["--event-time"]);
    let pods = ["a", "b", "c", "d"];
    for minute in 0..600_u64 {
        let rows: Vec<Value> = (0..)
            .zip(pods)
            .map(|(i, pod)| {
                let z = if (minute + 97 * i) % 150 < 3 { 40 } else { 1 };
                json!({"cpu_zscore": z, "memory_zscore": 1, "cpu_baseline": 50, "cpu_scale": 1,
                       "series": pod, "ts": 1_764_000_000 + 60 * minute, "cpu_percent": 50})
            })
            .collect();
        server.predict(&json!(rows));
        if minute % 60 == 59 {
            // The shadow, which waits for an idle CPU, has room for so many; on a busy machine some wait too long.
            wait_for("an hour's rows", || {
                let seen = server.shadow();
                let lost = seen["lost"].as_object()?.values().filter_map(Value::as_u64).sum::<u64>();
                (seen["pairs"].as_u64()? + lost == 4 * (minute + 1)).then_some(())
            });
        }
    }
    let label = json!({"series": "a", "from": 1_764_000_000, "to": 1_764_000_300, "anomaly": true, "source": "chaos"});
    assert_eq!(server.post("/feedback", &label.to_string()).status, 202);
    opened(&browser, &server);
    browser.press("r");
    let verdict = server.ops("/models/anomaly/verdict").json();
    let judged = &verdict["verdicts"][0];
    let buckets = judged["improvement"]["buckets"].as_u64().unwrap_or_else(|| panic!("too much was lost: {judged}"));
    let told = shows(&browser, ".comparison", &format!("from {buckets} buckets of 10 minutes"));
    assert!(told.contains("decided pairs"), "{told}");
    assert_eq!(browser.text("#verdict").to_lowercase(), judged["decision"]);
    for condition in judged["conditions"].as_array().expect("a list") {
        let name = condition["name"].as_str().expect("a name");
        assert!(told.contains(name), "{name} is not in {told}");
    }
    for part in ["hours", "Half hours with alarms, by those of one series in each.", "Share of rows by score", "chaos"]
    {
        shows(&browser, ".comparison", part);
    }
    shows(&browser, "#main", "cpu_zscore");
    for chart in ["alarms", "scores", "band", "latency"] {
        let drawn =
            format!("return document.querySelectorAll('.panels svg, .verdict svg').length > 3 && {}", json!(chart));
        assert_eq!(browser.run(&drawn), json!(chart));
    }
    assert_eq!(browser.errors(), Vec::<String>::new());
    browser.look(1280, "dark");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console-verdict.png");
    fs::write(file, browser.picture()).expect("written");
}

#[test]
fn files_are_bound_to_this_server() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let page = server.ops("/");
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let text = page.text();
    let files: Vec<&str> = text.split(['"']).filter(|part| part.starts_with("/console/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for path in files.into_iter().chain(["/"]) {
        let reply = server.ops(path);
        let policy = reply.header("content-security-policy");
        assert!(reply.status == 200 && policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !reply.text().contains("innerHTML"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
    }
    let missing = server.ops("/console/none.js");
    assert_eq!((missing.status, missing.header("content-type")), (404, "application/problem+json"));
}

#[test]
fn the_ledger_is_told() {
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    let token = token();
    let server = serve(repo.path(), &token);
    // What was written by hand has no record.
    assert_eq!(server.ops("/models/anomaly/ledger").json(), json!({"model": "anomaly", "records": []}));
    for (path, body) in [("promote", r#"{"version":2,"reason":"try","by":"me"}"#), ("rollback", r#"{"reason":"no"}"#)] {
        let path = format!("/models/anomaly/{path}");
        let headers = [("authorization", "Bearer a-secret-of-the-tests")];
        let reply = common::http::request(server.ops, "POST", &path, &headers, body.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let told = server.ops("/models/anomaly/ledger?most=20").json();
    let short = |record: &Value| [record["epoch"].clone(), record["action"].clone(), record["champion"].clone()];
    let records: Vec<_> = told["records"].as_array().expect("a list").iter().map(short).collect();
    let expected = [(3, "rollback", "1"), (2, "promote", "2"), (1, "unrecorded", "1")];
    assert_eq!(records, expected.map(|(epoch, action, champion)| [json!(epoch), json!(action), json!(champion)]));
    let latest = server.ops("/models/anomaly/ledger?most=1").json();
    assert_eq!(latest["records"].as_array().map(Vec::len), Some(1));
    assert_eq!(latest["records"][0]["reason"], "no");
    for (path, status) in [("anomaly/ledger?most=0", 400), ("none/ledger", 404), ("%2e%2e/ledger", 404)] {
        let reply = server.ops(&format!("/models/{path}"));
        assert_eq!((reply.status, reply.header("content-type")), (status, "application/problem+json"), "{path}");
    }
    repo.write_aliases("{");
    let damaged = server.ops("/models/anomaly/ledger");
    assert_eq!(damaged.status, 502, "{}", damaged.text());
    // A repository without pointers has no ledger.
    let plain = tempfile::TempDir::new().expect("a folder");
    fs::create_dir_all(plain.path().join("plain/1")).expect("a folder");
    fs::copy(common::repo::fixture("good/model.onnx"), plain.path().join("plain/1/model.onnx")).expect("copied");
    let server = Server::start(plain.path(), &[]);
    assert_eq!(server.ops("/models/plain/ledger").json()["records"], json!([]));
}

#[test]
fn a_server_that_does_not_answer_is_said_to_and_found_again() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    opened(&browser, &server);
    shows(&browser, "#main", "There is no challenger");
    let ops = server.ops.to_string();
    server.stop();
    shows(&browser, "#ready", "unreachable");
    let told = shows(&browser, "#trouble", "The server does not answer");
    assert!(told.contains("It is asked again in ") && told.contains("What is shown is of "), "{told}");
    assert_eq!(browser.text("#said"), "The server does not answer.");
    assert!(browser.text("#main").contains("champion"), "what was read stays");
    let _server = Server::start(repo.path(), &["--ops", &ops]);
    shows(&browser, "#ready", "ready");
    wait_for("the end of the trouble", || browser.text("#trouble").is_empty().then_some(()));
}

/// By keys alone: a wrong token is refused, the right one promotes, and whoever looks at an old page loses.
#[test]
fn a_challenger_is_promoted_with_the_token_and_by_keys_alone() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", Some("other"));
    repo.install(3, "good");
    let token = token();
    let server = serve(repo.path(), &token);
    opened(&browser, &server);
    shows(&browser, ".cards", "Challenger 2");
    tab_to(&browser, ".comparison [data-act=promote]");
    browser.press(&ENTER.to_string());
    let asked = shows(&browser, "#change", "Promote version 2 of anomaly?");
    assert!(asked.contains("champion 1 → 2") && asked.contains("since epoch 1"), "{asked}");
    // The focus is in the field for the reason.
    browser.press("<script>document.title='x'</script>");
    tab_to(&browser, "#change-token");
    browser.press(&format!("wrong{ENTER}"));
    let refused = shows(&browser, "#change-error", "(401)");
    assert!(refused.contains("nothing was changed") && refused.contains("--admin-token-file names"), "{refused}");
    assert_eq!(server.model_status("anomaly")["champion"]["version"], "1");
    browser.run("document.querySelector('#change-token').select()");
    browser.press(&format!("a-secret-of-the-tests{ENTER}"));
    shows(&browser, "#done", "Version 2 of anomaly is the champion since epoch 2.");
    settled(&server, 2);
    shows(&browser, "#models", "anomaly 2");
    shows(&browser, "#main", "Roll back to 1 …");
    let ledger = shows(&browser, ".ledger", "promote");
    assert!(ledger.contains("<script>document.title='x'</script>") && ledger.contains("console"), "{ledger}");
    // Someone else changes it while the page asks.
    browser.press("b");
    shows(&browser, "#change", "Roll back to version 1 of anomaly?");
    let headers = [("authorization", "Bearer a-secret-of-the-tests")];
    let path = "/models/anomaly/promote";
    let reply = common::http::request(server.ops, "POST", path, &headers, br#"{"version":3,"by":"someone faster"}"#);
    assert_eq!(reply.status, 200, "{}", reply.text());
    tab_to(&browser, "#change-do");
    browser.press(&ENTER.to_string());
    let lost = shows(&browser, "#change-error", "(409)");
    assert!(
        lost.contains("Someone else was first")
            && lost.contains("someone faster, token admin at ")
            && lost.contains(" made epoch 3 "),
        "{lost}"
    );
    browser.press(&ESCAPE.to_string());
    assert_eq!(browser.run("return document.querySelector('dialog[open]')"), json!(null));
    shows(&browser, "#models", "anomaly 3");
    assert_eq!(browser.run("return Object.keys(localStorage).length + Object.keys(sessionStorage).length"), json!(0));
    assert_eq!(browser.run("return document.cookie + location.href"), json!(console(&server)));
}

/// What is in a repository may be written by anyone: it is text, whatever it looks like.
#[test]
fn markup_of_others_is_text() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", Some("other"));
    let token = token();
    let server = serve(repo.path(), &token);
    let hostile = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>";
    let order = json!({"version": 2, "by": hostile, "reason": hostile}).to_string();
    let headers = [("authorization", "Bearer a-secret-of-the-tests")];
    let reply = common::http::request(server.ops, "POST", "/models/anomaly/promote", &headers, order.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    settled(&server, 2);
    let path = repo.path().join("anomaly/aliases.json");
    let mut aliases: Value = serde_json::from_slice(&fs::read(&path).expect("a pointer")).expect("JSON");
    (aliases["challengers"], aliases["epoch"]) = (json!([hostile]), json!(3));
    repo.write_aliases(&aliases.to_string());
    wait_for("the refusal", || (!server.model_status("anomaly")["rejected"].as_array()?.is_empty()).then_some(()));
    opened(&browser, &server);
    let refused = shows(&browser, ".note.bad", "Refused");
    assert!(refused.contains("onerror"), "{refused}");
    assert!(shows(&browser, ".ledger", "promote").contains(hostile));
    let made = browser.run("return [document.querySelectorAll('img, main script').length, document.title]");
    assert_eq!(made, json!([0, "anomaly: console"]));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn every_control_is_reached_by_tab_and_keys_do_what_is_listed() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", Some("other"));
    let server = Server::start(repo.path(), &[]);
    opened(&browser, &server);
    shows(&browser, ".cards", "Challenger 2");
    browser.run("window.reached = new Set(); addEventListener('focusin', (event) => window.reached.add(event.target))");
    let unreached = "return [...document.querySelectorAll('a[href], button, input, summary, .wide')]
        .filter((control) => !control.closest('dialog:not([open])') && control.checkVisibility() && !window.reached.has(control))
        .map((control) => control.outerHTML)";
    for _ in 0..60 {
        browser.press(&TAB.to_string());
    }
    assert_eq!(browser.run(unreached), json!([]));
    let outline = browser.run(
        "document.querySelector('#pause').focus({focusVisible: true});
         return getComputedStyle(document.querySelector('#pause')).outlineStyle",
    );
    assert_eq!(outline, "solid");
    browser.press("?");
    let help = shows(&browser, "#help", "Keys");
    assert!(help.contains("promote the challenger that is shown"), "{help}");
    // A key in a dialog is no order to the page behind it.
    browser.press("p");
    assert_eq!(browser.text("#pause"), "Pause");
    browser.press(&ESCAPE.to_string());
    browser.press("p");
    assert!(shows(&browser, "#age", "paused").contains("paused"));
    server.predict(&json!([row(1)]));
    wait_for("a pair", || (server.shadow()["pairs"] == json!(1)).then_some(()));
    assert!(browser.text(".cards").contains("0 pairs,"), "{}", browser.text(".cards"));
    browser.press("r");
    shows(&browser, ".cards", "1 pair,");
    browser.press("p");
    shows(&browser, "#age", "live");
    browser.press("c");
    shows(&browser, "#change", "The verdict on it is to hold");
    browser.press(&ESCAPE.to_string());
}

/// The least contrast of texts with what is behind them, and whether anything is wider than the page.
const SEEN: &str = "
    const parts = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parts(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const poor = [];
    let texts = 0;
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest('.unseen, .skip, noscript')) continue;
        const style = getComputedStyle(element);
        const [a, b] = [light(parts(element.closest('svg') ? style.fill : style.color)), light(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        texts += 1;
        if (contrast < 4.5) poor.push(`${contrast.toFixed(2)} ${element.tagName} ${element.textContent}`);
    }
    return [poor, document.documentElement.scrollWidth - innerWidth, texts, getComputedStyle(document.body).backgroundColor]";

/// From a narrow phone to a wide screen, in the dark and in the light; pictures of it stay in `target/tmp`.
#[test]
fn it_is_readable_at_any_width_in_the_dark_and_in_the_light() {
    let Some(browser) = Browser::start() else { return };
    let repo = Repo::serving("good", Some("other"));
    let token = token();
    let server = serve(repo.path(), &token);
    server.predict(&json!((0..200).map(row).collect::<Vec<_>>()));
    let headers = [("authorization", "Bearer a-secret-of-the-tests")];
    repo.install(3, "good");
    let order = br#"{"version": 3, "by": "ops", "reason": "the first one was retrained on November's data"}"#;
    let reply = common::http::request(server.ops, "POST", "/models/anomaly/promote", &headers, order);
    assert_eq!(reply.status, 200, "{}", reply.text());
    settled(&server, 2);
    server.predict(&json!((0..200).map(row).collect::<Vec<_>>()));
    opened(&browser, &server);
    shows(&browser, ".cards", "200 pairs,");
    let mut papers = vec![];
    for width in [1280, 390, 360, 2560] {
        for scheme in ["dark", "light"] {
            browser.look(width, scheme);
            let seen = browser.run(SEEN);
            assert_eq!(seen[0], json!([]), "{width} {scheme}");
            assert!(seen[1].as_i64().expect("pixels") <= 0, "{width} {scheme}: {} pixels too wide", seen[1]);
            assert!(seen[2].as_u64().expect("a count") > 60, "{width} {scheme}: {seen}");
            papers.push(seen[3].clone());
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("console-{width}-{scheme}.png"));
            fs::write(file, browser.picture()).expect("written");
        }
    }
    assert_ne!(papers[0], papers[1], "the dark is another than the light");
}
