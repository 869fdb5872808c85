//! An S3 server (moto, see `s3_server.py`), one for all tests of a file, and what the tests themselves read and write there.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_s3::error::SdkError;
use tokio::runtime::Runtime;

/// What every process that talks to the server under test needs in its environment.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test"),
    ("AWS_REGION", "us-east-1"),
    // Nothing asks the network for credentials.
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The folder of the repository in each bucket.
const PREFIX: &str = "models";

/// A running S3 server.
pub struct S3 {
    /// Its standard input is open for as long as this process lives, however it ends.
    _server: Child,
    address: SocketAddr,
    runtime: Runtime,
    client: Client,
}

impl S3 {
    /// The server that the tests of this file share.
    pub fn start() -> &'static Self {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(Self::launch)
    }

    fn launch() -> Self {
        let (server, address) = python("s3_server.py", &[]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{address}"))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        Self { _server: server, address, runtime, client: Client::from_conf(config) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new, empty bucket.
    pub fn bucket(&'static self) -> Bucket {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bucket-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.runtime.block_on(self.client.create_bucket().bucket(&name).send()).expect("a bucket");
        Bucket { s3: self, name }
    }
}

/// Starts a script of the tests that listens somewhere; it ends when its standard input does, so with this process.
pub fn python(script: &str, args: &[&str]) -> (Child, SocketAddr) {
    let python = super::root().join(".venv/bin/python");
    let missing = |what: &str| format!("{}: {what}: run `make test`, which installs what it needs", python.display());
    let mut child = Command::new(&python)
        .arg(super::root().join("server/tests").join(script))
        .args(args)
        .envs(ENVIRONMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It logs every request.
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}", missing(&e.to_string())));
    let mut port = String::new();
    let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut port));
    assert!(matches!(said, Some(Ok(n)) if n > 0), "{}", missing("it does not start"));
    (child, format!("127.0.0.1:{}", port.trim()).parse().expect("an address"))
}

/// A bucket with a model repository under a prefix; keys are told from there.
pub struct Bucket {
    pub s3: &'static S3,
    pub name: String,
}

impl Bucket {
    /// What `onnxd serve` is given.
    pub fn url(&self) -> String {
        format!("s3://{}/{PREFIX}", self.name)
    }

    /// The path of an object in requests.
    pub fn path(&self, key: &str) -> String {
        format!("/{}/{PREFIX}/{key}", self.name)
    }

    /// Writes an object and gives its `ETag`.
    #[track_caller]
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        self.write(key, bytes.into(), None, None).expect("written")
    }

    /// Writes an object if it has this `ETag`, or gives the status of the refusal.
    pub fn put_if_match(&self, key: &str, bytes: impl Into<Vec<u8>>, etag: &str) -> Result<String, u16> {
        self.write(key, bytes.into(), Some(etag), None)
    }

    /// Writes an object that is not there yet, or gives the status of the refusal.
    pub fn put_new(&self, key: &str, bytes: impl Into<Vec<u8>>) -> Result<String, u16> {
        self.write(key, bytes.into(), None, Some("*"))
    }

    fn write(&self, key: &str, bytes: Vec<u8>, is: Option<&str>, is_not: Option<&str>) -> Result<String, u16> {
        let request = self.s3.client.put_object().bucket(&self.name).key(format!("{PREFIX}/{key}"));
        let request = request.body(bytes.into()).set_if_match(is.map(str::to_owned));
        let answer = self.s3.runtime.block_on(request.set_if_none_match(is_not.map(str::to_owned)).send());
        answer.map(|a| a.e_tag.expect("an ETag")).map_err(|e| status(&e))
    }

    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let request = self.s3.client.get_object().bucket(&self.name).key(format!("{PREFIX}/{key}"));
        self.s3.runtime.block_on(async {
            match request.send().await {
                Ok(answer) => Some(answer.body.collect().await.expect("the whole object").to_vec()),
                Err(e) if status(&e) == 404 => None,
                Err(e) => panic!("{key}: {e:?}"),
            }
        })
    }

    pub fn etag(&self, key: &str) -> Option<String> {
        let request = self.s3.client.head_object().bucket(&self.name).key(format!("{PREFIX}/{key}"));
        match self.s3.runtime.block_on(request.send()) {
            Ok(answer) => answer.e_tag,
            Err(e) if status(&e) == 404 => None,
            Err(e) => panic!("{key}: {e:?}"),
        }
    }

    /// The keys that begin so, in order.
    pub fn list(&self, begin: &str) -> Vec<String> {
        let request = self.s3.client.list_objects_v2().bucket(&self.name).prefix(format!("{PREFIX}/{begin}"));
        let answer = self.s3.runtime.block_on(request.send()).expect("a list");
        assert!(answer.next_continuation_token.is_none(), "more than a page");
        let keys = answer.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
        keys.map(|key| key[PREFIX.len() + 1..].to_owned()).collect()
    }

    pub fn delete(&self, key: &str) {
        let request = self.s3.client.delete_object().bucket(&self.name).key(format!("{PREFIX}/{key}"));
        self.s3.runtime.block_on(request.send()).expect("deleted");
    }
}

/// The status of an answer that is an error.
fn status<E: std::fmt::Debug>(error: &SdkError<E>) -> u16 {
    error.raw_response().map_or_else(|| panic!("no answer: {error:?}"), |answer| answer.status().as_u16())
}
