//! Signatures: with `--require-signature` nothing loads that was not signed by a trusted key, wherever it comes from.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::proxy::Fault;
use common::repo::{Repo, fixture, row, serves, settled};
use common::s3repo::S3Repo;
use common::{Server, root, wait_for};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A private key and its public one in files, as OpenSSL writes them.
struct Key {
    key: SigningKey,
    private: PathBuf,
    public: PathBuf,
}

impl Key {
    fn new(folder: &Path, seed: u8) -> Self {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let file = |name: &str, pem: &str| {
            let path = folder.join(format!("{name}{seed}.pem"));
            fs::write(&path, pem).expect("written");
            path
        };
        let private = key.to_pkcs8_pem(LineEnding::LF).expect("PEM");
        let public = key.verifying_key().to_public_key_pem(LineEnding::LF).expect("PEM");
        Self { private: file("private", &private), public: file("public", &public), key }
    }

    /// Signs a version's manifest as `openssl pkeyutl -sign -rawin` does: 64 bytes.
    fn sign(&self, repo: &Repo, version: u32) -> Vec<u8> {
        let manifest = fs::read(repo.version(version).join("manifest.json")).expect("a manifest");
        let signature = self.key.sign(&manifest).to_bytes();
        fs::write(repo.version(version).join("manifest.json.sig"), signature).expect("written");
        signature.to_vec()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[track_caller]
fn refused(server: &Server, epoch: u64, reason: &str) {
    let status = settled(server, epoch);
    let rejected = &status["rejected"][0];
    assert!(rejected["reason"].as_str().is_some_and(|r| r.contains(reason)), "{status}");
    assert_eq!((&rejected["stage"], &status["champion"]["version"]), (&json!("verify"), &json!("1")));
}

#[test]
fn only_what_a_trusted_key_signed_loads() {
    let folder = TempDir::new().expect("a folder");
    let (mine, other) = (Key::new(folder.path(), 1), Key::new(folder.path(), 2));
    let repo = Repo::serving("good", None);
    mine.sign(&repo, 1);
    let server = Server::start(repo.path(), &["--require-signature", text(&mine.public)]);
    let before = server.predict(&row(3));
    repo.install(2, "other");
    refused(&server, repo.point(2, None), "there is no manifest.json.sig");
    let wrong = other.sign(&repo, 2);
    refused(&server, repo.point(2, None), "none of the trusted keys");
    fs::write(repo.version(2).join("manifest.json.sig"), "not a signature").expect("written");
    refused(&server, repo.point(2, None), "is not an Ed25519 signature");
    // The signature of another version does not fit, and neither does a manifest that was changed afterwards.
    fs::copy(repo.version(1).join("manifest.json.sig"), repo.version(2).join("manifest.json.sig")).expect("copied");
    refused(&server, repo.point(2, None), "of another manifest.json");
    mine.sign(&repo, 2);
    repo.edit(2, |manifest| manifest["tags"] = json!({"changed": "afterwards"}));
    refused(&server, repo.point(2, None), "of another manifest.json");
    assert_eq!(server.predict(&row(3)), before);
    mine.sign(&repo, 2);
    settled(&server, repo.point(2, None));
    serves(&server, 2);
    assert_ne!(wrong, mine.sign(&repo, 2));
    // What has no manifest has no signature.
    let bare = TempDir::new().expect("a folder");
    fs::create_dir_all(bare.path().join("anomaly/1")).expect("a folder");
    fs::copy(fixture("good/model.onnx"), bare.path().join("anomaly/1/model.onnx")).expect("copied");
    let server = Server::launch(bare.path(), &["--require-signature", text(&mine.public)]);
    let rejected =
        wait_for("the refusal", || server.model_status("anomaly")["rejected"][0]["reason"].as_str().map(str::to_owned));
    assert!(rejected.contains("it has no manifest.json"), "{rejected}");
}

/// Keys are changed one after the other: both are trusted meanwhile.
#[test]
fn several_keys_can_be_trusted() {
    let folder = TempDir::new().expect("a folder");
    let (old, new) = (Key::new(folder.path(), 3), Key::new(folder.path(), 4));
    let both = folder.path().join("both.pem");
    let read = |key: &Key| fs::read_to_string(&key.public).expect("a key");
    fs::write(&both, read(&old) + &read(&new)).expect("written");
    let repo = Repo::serving("good", None);
    repo.install(2, "other");
    old.sign(&repo, 1);
    new.sign(&repo, 2);
    let server = Server::start(repo.path(), &["--require-signature", text(&both)]);
    settled(&server, repo.point(2, None));
    serves(&server, 2);
}

fn onnxd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxd")).args(args).current_dir(root()).output().expect("it runs")
}

/// Signed by `push`, checked by `promote` and by the server, also from the cache while S3 is down.
#[test]
fn a_pushed_signature_is_served_from_s3_and_from_the_cache() {
    let folder = TempDir::new().expect("a folder");
    let (mine, other) = (Key::new(folder.path(), 5), Key::new(folder.path(), 6));
    let repo = S3Repo::new();
    let (url, endpoint, model) = (repo.bucket.url(), repo.proxy.endpoint(), fixture("good/model.onnx"));
    let run = |args: &[&str]| {
        let place = ["--model", "anomaly", "--repository", &url, "--s3-endpoint", &endpoint];
        Command::new(env!("CARGO_BIN_EXE_onnxd"))
            .args(args)
            .args(place)
            .envs(common::s3::ENVIRONMENT)
            .current_dir(root())
            .output()
            .expect("it runs")
    };
    let pushed = run(&["push", text(&model), "--sign-with", text(&mine.private)]);
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    assert_eq!(repo.bucket.list("anomaly/1/").len(), 3, "model, manifest and signature");
    let server = repo.serve(&["--require-signature", text(&mine.public)]);
    let first = server.predict(&row(3));
    server.stop();
    // A promotion is checked before it is written.
    let other_model = fixture("other/model.onnx");
    assert!(run(&["push", text(&other_model), "--sign-with", text(&other.private)]).status.success());
    let promoted = run(&["promote", "2", "--require-signature", text(&mine.public)]);
    assert_eq!(promoted.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&promoted.stderr).contains("none of the trusted keys"));
    repo.proxy.set(Fault::Refuse);
    let server = repo.serve(&["--require-signature", text(&mine.public)]);
    assert_eq!(server.predict(&row(3)), first);
    server.stop();
    // Whoever trusts another key does not load it, from wherever it comes.
    let server = repo.launch(&["--require-signature", text(&other.public)]);
    wait_for("the refusal", || {
        let rejected: Value = server.model_status("anomaly")["rejected"][0].clone();
        rejected["stage"].is_string().then_some(())
    });
    let ready = server.ops("/readyz");
    assert_eq!(ready.status, 503);
    let why = server.ops("/status").json()["not_ready"].as_str().expect("a reason").to_owned();
    assert!(why.contains("anomaly: version 1 was refused at ") && ready.text().contains(&why), "{why}");
}

#[test]
fn keys_that_are_none_are_told_at_the_start() {
    let folder = TempDir::new().expect("a folder");
    let key = Key::new(folder.path(), 7);
    for (file, told) in
        [(text(&key.private), "Ed25519 public keys"), ("nowhere.pem", "nowhere.pem"), ("README.md", "no public key")]
    {
        let ports = ["--http", "127.0.0.1:0", "--grpc", "off", "--ops", "off"];
        let output = onnxd(&[&["serve", "models", "--require-signature", file], &ports[..]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(told), "{file}: {said}");
    }
}
