//! Where credentials come from, and that renewed ones are found without a restart.

mod common;

use std::fs;
use std::path::Path;

use common::proxy::Fault;
use common::repo::{row, serves};
use common::s3::{ENVIRONMENT, python};
use common::s3repo::S3Repo;
use common::{Server, wait_for};
use serde_json::json;
use tempfile::TempDir;

/// Nothing but these: no keys in the environment, no instance to ask.
fn environment<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("AWS_REGION", "us-east-1"), ("AWS_EC2_METADATA_DISABLED", "true")], more].concat()
}

fn start(repo: &S3Repo, more: &[(&str, &str)]) -> Server {
    let endpoint = repo.proxy.endpoint();
    let args = repo.args(&endpoint, &["--models", "anomaly"]);
    let server = Server::launch_with(repo.bucket.url().as_ref(), &args, &environment(more));
    wait_for("an answer or a reason", || {
        let error = server.ops("/status").json()["source"]["error"].is_string();
        (error || server.ops("/readyz").status == 200).then_some(())
    });
    server
}

/// The key ids of the requests to the bucket.
fn ids(repo: &S3Repo) -> Vec<String> {
    let id = |header: String| header.split("Credential=").nth(1)?.split('/').next().map(str::to_owned);
    repo.proxy.requests().into_iter().filter_map(|seen| id(seen.authorization?)).collect()
}

fn write_profile(file: &Path, id: &str) {
    let text = format!("[serving]\naws_access_key_id = {id}\naws_secret_access_key = secret\n");
    fs::write(file, text).expect("written");
}

/// Expired keys in ~/.aws are read again once they were renewed there.
#[test]
fn renewed_credentials_of_a_profile_are_found() {
    let repo = S3Repo::serving("good", None);
    repo.install(2, "other");
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("credentials");
    write_profile(&file, "OLD");
    let server = start(
        &repo,
        &[
            ("AWS_PROFILE", "serving"),
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().expect("text")),
            ("AWS_CONFIG_FILE", "/dev/null"),
        ],
    );
    server.predict(&row(1));
    assert!(ids(&repo).iter().all(|id| id == "OLD"), "{:?}", ids(&repo));
    repo.proxy.set(Fault::Status(403, "ExpiredToken"));
    wait_for("the error", || server.ops("/status").json()["source"]["error"].as_str().map(str::to_owned));
    write_profile(&file, "NEW");
    repo.proxy.set(Fault::None);
    repo.proxy.clear();
    repo.point(2, None);
    serves(&server, 2);
    assert!(ids(&repo).iter().any(|id| id == "NEW"), "{:?}", ids(&repo));
}

/// A pod's role (IRSA): the token in a file is exchanged for credentials.
#[test]
fn a_web_identity_is_exchanged_for_credentials() {
    let repo = S3Repo::serving("good", None);
    let folder = TempDir::new().expect("a folder");
    let token = folder.path().join("token");
    fs::write(&token, "a.token.of.the.cluster").expect("written");
    let sts = format!("http://{}", repo.bucket.s3.address());
    let server = start(
        &repo,
        &[
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/onnxd"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().expect("text")),
            ("AWS_ENDPOINT_URL_STS", &sts),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ],
    );
    server.predict(&row(1));
    // Temporary keys begin like this.
    assert!(ids(&repo).iter().all(|id| id.starts_with("ASIA")), "{:?}", ids(&repo));
}

/// Over TLS, with an authority of one's own: it is trusted when SSL_CERT_FILE names it, and refused otherwise.
#[test]
fn a_server_of_an_own_authority_is_trusted_when_it_is_named() {
    let repo = S3Repo::serving("good", None);
    let folder = TempDir::new().expect("a folder");
    let upstream = repo.bucket.s3.address().port().to_string();
    let (mut relay, address) = python("tls_relay.py", &[&upstream, folder.path().to_str().expect("text")]);
    let endpoint = format!("https://localhost:{}", address.port());
    let args = repo.args(&endpoint, &["--models", "anomaly"]);
    let start = |more: &[(&str, &str)]| {
        Server::launch_with(repo.bucket.url().as_ref(), &args, &[ENVIRONMENT.as_slice(), more].concat())
    };
    let stranger = start(&[]);
    let error = wait_for("the error", || stranger.ops("/status").json()["source"]["error"].as_str().map(str::to_owned));
    assert!(error.contains("certificate"), "{error}");
    let authority = folder.path().join("ca.pem");
    let server = start(&[("SSL_CERT_FILE", authority.to_str().expect("text"))]);
    serves(&server, 1);
    // It is a child of this process and has nothing left to do.
    let _ = relay.kill();
    let _ = relay.wait();
}

#[test]
fn without_credentials_the_reason_says_where_they_come_from() {
    let repo = S3Repo::serving("good", None);
    let server = start(&repo, &[("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
    let status = server.ops("/status").json();
    let error = status["source"]["error"].as_str().expect("a reason");
    assert!(error.contains("there are no credentials: they come from"), "{error}");
    assert_eq!((server.ops("/readyz").status, server.ops("/livez").status), (503, 200));
    assert_eq!(status["models"], json!([]));
}
