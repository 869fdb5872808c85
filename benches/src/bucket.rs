//! The tests' S3 server as a process of ours, with one bucket: a repository that `onnxd push` fills.
//!
//! Objects are read and written by plain HTTP here, so that a moment can be taken right before the bytes leave. This server
//! wants to know who asks and checks no signature; `onnxd` signs its requests as it does everywhere.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use onnxd::{load::http, model::sha256};
use serde_json::{Value, json};

use crate::server::Server;

pub(crate) const BUCKET: &str = "models";
pub(crate) const MODEL: &str = "anomaly";
/// The object that a promotion writes.
pub(crate) const POINTER: &str = "anomaly/aliases.json";
/// Credentials that this server takes for some. Nothing asks the network for others.
pub(crate) const CREDENTIALS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// What is needed to start the server and to fill the bucket.
#[derive(clap::Args)]
pub(crate) struct Setup {
    /// The binary that is served with and pushed with.
    #[arg(long)]
    pub(crate) onnxd: PathBuf,
    /// The folder of the model whose versions 1 and 2 are pushed.
    #[arg(long, default_value = "models/anomaly")]
    pub(crate) model: PathBuf,
    /// A Python that has moto.
    #[arg(long, default_value = ".venv/bin/python")]
    pub(crate) python: PathBuf,
    /// The tests' S3 server.
    #[arg(long, default_value = "server/tests/s3_server.py")]
    s3_server: PathBuf,
}

/// A running S3 server with the bucket. It ends when this is dropped, or with this process, and all of it is gone then.
pub(crate) struct S3 {
    server: Child,
    pub(crate) address: SocketAddr,
}

impl S3 {
    /// On a port, or on a free one if that is 0.
    pub(crate) fn start(setup: &Setup, port: u16) -> Result<Self> {
        let mut command = Command::new(&setup.python);
        command.arg(&setup.s3_server).arg(port.to_string()).envs(CREDENTIALS);
        // It logs every request.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let missing = || format!("{} has no moto: `make s3` installs it", setup.python.display());
        let mut server = command.spawn().with_context(missing)?;
        let mut line = String::new();
        let read = server.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let port = line.trim().parse::<u16>().ok().filter(|_| matches!(read, Some(Ok(_)))).with_context(missing);
        let s3 = Self { server, address: SocketAddr::from(([127, 0, 0, 1], *port.as_ref().unwrap_or(&0))) };
        port?;
        let (status, ..) = s3.ask("PUT", "", "", b"")?;
        ensure!(status == 200, "the bucket {BUCKET} cannot be made: status {status}");
        Ok(s3)
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.server.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.server.try_wait(), Ok(None))
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `onnxd` calls the repository.
    pub(crate) fn repository() -> String {
        format!("s3://{BUCKET}")
    }

    /// Version 1 becomes the champion, version 2 its challenger.
    pub(crate) fn fill(&self, setup: &Setup) -> Result<()> {
        for (version, role) in [("1", "champion"), ("2", "challenger")] {
            let file = setup.model.join(version).join("model.onnx");
            let mut command = self.onnxd(setup, "push");
            command.arg(&file).args([
                "--model",
                MODEL,
                "--as",
                role,
                "--by",
                "benches",
                "--reason",
                "the first models",
            ]);
            let output = command.output().with_context(|| format!("no {}", setup.onnxd.display()))?;
            if !output.status.success() {
                bail!("{} was not pushed: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(())
    }

    /// Writes a version that answers as version 2 does and has other bytes; gives the hash of its manifest.
    pub(crate) fn add(&self, setup: &Setup, version: &str) -> Result<String> {
        let folder = setup.model.join("2");
        let mut onnx = fs::read(folder.join("model.onnx")).context("version 2")?;
        // An entry of metadata_props: field 14, with key and value in it.
        let key = format!("version {version}");
        let length = u8::try_from(key.len())?;
        onnx.extend([0x72, length + 2, 0x0a, length]);
        onnx.extend(key.bytes());
        let mut manifest: Value = serde_json::from_slice(&fs::read(folder.join("manifest.json"))?)?;
        manifest["version"] = json!(version);
        manifest["artifact"]["sha256"] = json!(sha256(&onnx));
        manifest["artifact"]["bytes"] = json!(onnx.len());
        let manifest = manifest.to_string().into_bytes();
        for (name, bytes) in [("model.onnx", &onnx), ("manifest.json", &manifest)] {
            let (status, ..) = self.ask("PUT", &format!("/{MODEL}/{version}/{name}"), "", bytes)?;
            ensure!(status == 200, "{name} of version {version} cannot be written: status {status}");
        }
        Ok(sha256(&manifest))
    }

    /// A command of `onnxd` on the repository.
    fn onnxd(&self, setup: &Setup, command: &str) -> Command {
        let mut onnxd = Command::new(&setup.onnxd);
        onnxd.arg(command).args(["--repository", &Self::repository(), "--s3-endpoint", &self.endpoint()]);
        onnxd.envs(CREDENTIALS).stdin(Stdio::null());
        onnxd
    }

    /// Starts a server on the repository, read from `endpoint`, and waits until it is ready.
    pub(crate) fn replica(name: &str, onnxd: &Path, endpoint: &str, ports: [u16; 3], more: &[&str]) -> Result<Server> {
        let mut command = Command::new(onnxd.canonicalize().with_context(|| format!("no {}", onnxd.display()))?);
        command.args(["serve", &Self::repository(), "--s3-endpoint", endpoint]);
        let [http, grpc, ops] = ports.map(|port| format!("127.0.0.1:{port}"));
        command.args(["--http", &http, "--grpc", &grpc, "--ops", &ops]).args(more).envs(CREDENTIALS);
        Server::start(name, command)
    }

    /// The pointer and its `ETag`.
    pub(crate) fn pointer(&self) -> Result<(Value, String)> {
        let (status, etag, body) = self.ask("GET", &format!("/{POINTER}"), "", b"")?;
        ensure!(status == 200, "{POINTER} cannot be read: status {status}");
        Ok((serde_json::from_slice(&body)?, etag))
    }

    /// Writes the pointer, if it is still the one with this `ETag`.
    pub(crate) fn point(&self, pointer: &Value, etag: &str) -> Result<()> {
        let (status, ..) =
            self.ask("PUT", &format!("/{POINTER}"), &format!("if-match: {etag}\r\n"), pointer.to_string().as_bytes())?;
        match status {
            200 => Ok(()),
            412 => bail!("someone else changed {POINTER}: a guard that rolled back, perhaps"),
            other => bail!("{POINTER} cannot be written: status {other}"),
        }
    }

    /// Status, `ETag` and body.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, String, Vec<u8>)> {
        let request = format!(
            "{method} /{BUCKET}{path} HTTP/1.1\r\nhost: {}\r\nauthorization: AWS test:unchecked\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
            self.address,
            body.len()
        );
        let (response, bytes) =
            http::exchange(self.address, &[request.as_bytes(), body].concat()).context("the S3 server")?;
        let etag = http::header(&bytes, "etag").unwrap_or_default().to_owned();
        Ok((response.status, etag, bytes[response.body].to_vec()))
    }

    /// Sends its process a signal by name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().context("no kill")?;
        ensure!(status.success(), "the S3 server takes no {name}");
        Ok(())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to do.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Fails with one sentence when something listens on a port already.
pub(crate) fn is_free(port: u16, flag: &str) -> Result<()> {
    let Err(error) = TcpListener::bind(("127.0.0.1", port)) else { return Ok(()) };
    bail!("port {port} cannot be used ({error}): end what listens there, or choose another with {flag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_the_flag_that_changes_it() {
        let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
        let (port, listener) = taken.expect("a free port");
        let error = is_free(port, "--s3-port").expect_err("it is taken").to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--s3-port"), "{error}");
        drop(listener);
        is_free(port, "--s3-port").expect("it is free now");
    }
}
