//! Who may change what: every route that there is, asked without a token, and tokens for some calls.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::http::{Reply, request};
use common::repo::{Repo, row, serves};
use common::{Server, wait_for};
use onnxd::source::sha256;
use serde_json::json;
use tempfile::NamedTempFile;

/// The list by which metrics tell routes apart: a request on a route that is not in it has no name in `/metrics`.
const OBSERVED: &str = include_str!("../src/http/observe.rs");

/// The paths, with the model's name where a name belongs.
fn paths() -> Vec<String> {
    let list =
        OBSERVED.split("const PATHS: &[&str] = &[").nth(1).and_then(|rest| rest.split("];").next()).expect("a list");
    let quoted = list.split('"').skip(1).step_by(2);
    quoted.map(|path| path.replacen('*', "anomaly", 1).replace('*', "1")).collect()
}

#[test]
fn nothing_changes_without_the_token() {
    let repo = Repo::serving("good", Some("other"));
    repo.point(2, Some(1));
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), "0123456789abcdef").expect("written");
    let server = Server::start(repo.path(), &["--admin-token-file", file.path().to_str().expect("text")]);
    let state = || {
        let status = server.model_status("anomaly");
        (status["epoch"].clone(), status["champion"]["version"].clone(), repo.aliases(), repo.records())
    };
    let before = state();
    assert_eq!((&before.0, &before.1), (&json!(2), &json!("2")));
    let paths = paths();
    assert!(paths.len() > 60 && paths.contains(&"/models/anomaly/promote".to_owned()), "{paths:?}");
    let mut guarded = BTreeSet::new();
    let tokens: [&[(&str, &str)]; 3] =
        [&[], &[("authorization", "Bearer 0123456789abcdeF")], &[("authorization", "Basic 0123456789abcdef")]];
    for (port, address) in [("data", server.http), ("operations", server.ops)] {
        for path in &paths {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                for token in tokens {
                    let headers = [token, &[("content-type", "application/json")]].concat();
                    let reply = request(address, method, path, &headers, b"{}");
                    assert!(reply.status < 500, "{method} {path}: {}", reply.text());
                    if [401, 403].contains(&reply.status) {
                        guarded.insert(format!("{port} {method} {path} {}", reply.status));
                    }
                }
            }
        }
    }
    let expected = [
        "data POST /v2/repository/models/anomaly/load 401",
        "data POST /v2/repository/models/anomaly/unload 401",
        "operations POST /models/anomaly/promote 401",
        "operations POST /models/anomaly/reload 401",
        "operations POST /models/anomaly/rollback 401",
    ];
    assert_eq!(guarded, expected.map(str::to_owned).into());
    assert_eq!(state(), before);
    server.predict(&row(1));
}

fn call(server: &Server, what: &str, token: &str) -> Reply {
    let authorization = format!("Bearer {token}");
    let body = json!({"by": "ann", "reason": "a test"}).to_string();
    let body = if what == "reload" { "" } else { &body };
    request(
        server.ops,
        "POST",
        &format!("/models/anomaly/{what}"),
        &[("authorization", &authorization)],
        body.as_bytes(),
    )
}

#[test]
fn tokens_have_names_and_limits_and_change_without_a_restart() {
    let repo = Repo::serving("good", Some("other"));
    let file = NamedTempFile::new().expect("a file");
    let write = |text: &str| fs::write(file.path(), text).expect("written");
    let [ci, shop, old, new] = ["ci", "shop", "old", "new"].map(|name| format!("a-long-token-of-{name}"));
    write(&format!(
        "# who may what\n\nci sha256:{} promote,reload\nshop {shop} * shop\nold {old}\n",
        sha256(ci.as_bytes())
    ));
    let server = Server::start(repo.path(), &["--admin-token-file", file.path().to_str().expect("text")]);
    let reply = call(&server, "promote", &ci);
    assert_eq!(reply.status, 200, "{}", reply.text());
    serves(&server, 2);
    let by = repo.record(2)["by"].as_str().expect("text").to_owned();
    assert!(by.starts_with("ann, token ci at "), "{by}");
    for (token, what) in [(&ci, "rollback"), (&shop, "rollback"), (&shop, "reload")] {
        let reply = call(&server, what, token);
        assert_eq!(reply.status, 403, "{what}: {}", reply.text());
        assert!(reply.text().contains("does not allow"), "{}", reply.text());
    }
    assert_eq!(call(&server, "reload", &ci).status, 200);
    assert_eq!(call(&server, "reload", &old).status, 200);
    // The hash is no token.
    assert_eq!(call(&server, "reload", &sha256(ci.as_bytes())).status, 401);

    // Both work, then the new one alone.
    write(&format!("old {old}\nnew {new}\n"));
    assert_eq!((call(&server, "reload", &old).status, call(&server, "reload", &new).status), (200, 200));
    write(&format!("new {new}\n"));
    assert_eq!((call(&server, "reload", &old).status, call(&server, "reload", &new).status), (401, 200));

    // What cannot be used opens nothing, and the log says why.
    for (text, reason) in [
        ("", "it is empty"),
        ("short", "at least 16 characters"),
        ("ann a-long-token-of-ann fly", "some of promote, rollback"),
        ("ann sha256:abc", "64 hexadecimal digits"),
        ("one two three four five", "a line is a token"),
    ] {
        write(text);
        assert_eq!(call(&server, "reload", &new).status, 403, "{text}");
        wait_for("the reason", || server.log().contains(reason).then_some(()));
    }
    fs::remove_file(file.path()).expect("removed");
    assert_eq!(call(&server, "reload", &new).status, 403);
    let log = server.log();
    for token in [&ci, &shop, &old, &new] {
        assert!(!log.contains(token.as_str()), "{log}");
    }
    let audited = |what: &str| log.lines().filter(|line| line.contains("an admin call") && line.contains(what)).count();
    assert_eq!((audited("\"token\":\"ci\""), audited("not allowed"), audited("not known")), (4, 3, 2), "{log}");
}
