//! A [`Repo`] in a bucket: made in a folder, with its chain of hashes, and written object by object.

use std::fs;
use std::net::SocketAddr;

use onnxd::source::sha256;
use serde_json::json;
use tempfile::TempDir;

use super::Server;
use super::proxy::Proxy;
use super::repo::{Repo, fixture};
use super::s3::{Bucket, S3};

/// What the server under test reads and writes, and where.
pub struct S3Repo {
    repo: Repo,
    pub bucket: Bucket,
    /// Between the server and S3.
    pub proxy: Proxy,
    cache: TempDir,
}

impl S3Repo {
    pub fn new() -> Self {
        let bucket = S3::start().bucket();
        let proxy = Proxy::start(bucket.s3.address());
        Self { repo: Repo::new(), bucket, proxy, cache: TempDir::new().expect("a folder") }
    }

    /// Version 1 is champion and version 2, if any, challenger.
    pub fn serving(champion: &str, challenger: Option<&str>) -> Self {
        let repo = Self { repo: Repo::serving(champion, challenger), ..Self::new() };
        repo.upload(1);
        challenger.iter().for_each(|_| repo.upload(2));
        repo.bucket.put("anomaly/aliases.json", repo.aliases());
        repo
    }

    /// The folder with the same content.
    pub fn local(&self) -> &Repo {
        &self.repo
    }

    pub fn cache(&self) -> &std::path::Path {
        self.cache.path()
    }

    /// Puts a fixture in as a version.
    pub fn install(&self, version: u32, name: &str) {
        self.repo.install(version, name);
        self.upload(version);
    }

    /// Puts the model `name` in with this many bytes added to it, which change nothing of what it answers.
    pub fn install_large(&self, version: u32, name: &str, bytes: usize) -> Vec<u8> {
        self.repo.install(version, name);
        let onnx = large(&fs::read(fixture(name).join("model.onnx")).expect("a fixture"), bytes, version);
        fs::write(self.repo.version(version).join("model.onnx"), &onnx).expect("a file");
        self.repo.edit(version, |manifest| {
            manifest["artifact"]["sha256"] = json!(sha256(&onnx));
            manifest["artifact"]["bytes"] = json!(onnx.len());
        });
        self.upload(version);
        onnx
    }

    /// Writes a version's files; the manifest last.
    pub fn upload(&self, version: u32) {
        for name in ["model.onnx", "manifest.json"] {
            let bytes = fs::read(self.repo.version(version).join(name)).expect("a file");
            self.bucket.put(&format!("anomaly/{version}/{name}"), bytes);
        }
    }

    /// Writes `aliases.json` and gives its epoch.
    pub fn point(&self, champion: u32, challenger: Option<u32>) -> u64 {
        let epoch = self.repo.point(champion, challenger);
        self.bucket.put("anomaly/aliases.json", self.aliases());
        epoch
    }

    /// What `aliases.json` was written as last.
    pub fn aliases(&self) -> Vec<u8> {
        fs::read(self.repo.path().join("anomaly/aliases.json")).expect("a file")
    }

    /// The settings that the server needs to read this repository from `endpoint`; those in `more` win.
    pub fn args<'a>(&'a self, endpoint: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let cache = self.cache().to_str().expect("text");
        let ours = [["--s3-endpoint", endpoint], ["--cache", cache], ["--poll-interval", "100ms"]];
        let ours = ours.iter().filter(|[flag, _]| !more.contains(flag)).flatten().copied();
        ours.chain(more.iter().copied()).collect()
    }

    /// Starts a server on this repository through the proxy and waits until it is ready.
    pub fn serve(&self, more: &[&str]) -> Server {
        Server::start(self.bucket.url().as_ref(), &self.args(&self.proxy.endpoint(), more))
    }

    /// Starts a server and waits until it listens.
    pub fn launch(&self, more: &[&str]) -> Server {
        Server::launch(self.bucket.url().as_ref(), &self.args(&self.proxy.endpoint(), more))
    }
}

/// Appends an entry of `metadata_props` (field 14: key 1, value 2) to a model.
fn large(onnx: &[u8], bytes: usize, seed: u32) -> Vec<u8> {
    let field = |number: usize, value: &[u8]| {
        let mut field = vec![u8::try_from(number << 3 | 2).expect("a small number")];
        let mut length = value.len();
        while length > 0x7f {
            field.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).expect("seven bits"));
        field.extend_from_slice(value);
        field
    };
    // Nowhere the same, so that parts in a wrong order show.
    let mut state = seed | 1;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + u8::try_from(state >> 24).expect("eight bits") % 26
    };
    let padding: Vec<u8> = (0..bytes).map(|_| letter()).collect();
    [onnx, &field(14, &[field(1, b"padding"), field(2, &padding)].concat())].concat()
}

/// An address where nobody listens.
pub fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
