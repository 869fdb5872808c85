//! Where files of rows go: a folder, or a bucket of an S3 server. The only module that talks to `aws_sdk_s3`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::endpoint::innermost;

const CONNECT: Duration = Duration::from_secs(3);
/// One file, from the question to the answer.
const UPLOAD: Duration = Duration::from_secs(60);

/// A place for files.
pub enum Store {
    /// On this machine.
    Folder(PathBuf),
    /// In a bucket.
    S3(Bucket),
}

impl Store {
    /// A folder, or `s3://bucket/prefix`; `endpoint` is that of a server other than Amazon's.
    ///
    /// # Errors
    /// When the address cannot be one, in words.
    pub fn new(place: &str, endpoint: Option<String>) -> Result<Self, String> {
        let Some(rest) = place.strip_prefix("s3://") else {
            return if place.contains("://") {
                Err(format!("{place}: rows go to a folder, or to s3://bucket/prefix"))
            } else {
                Ok(Self::Folder(place.into()))
            };
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.len() < 3 || name.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)) {
            return Err(format!("{place}: {name:?} is not a bucket's name: write s3://bucket/prefix"));
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self::S3(Bucket { name: name.into(), prefix, endpoint, sdk: OnceCell::new() }))
    }

    /// Writes a file that is not there yet; nobody sees a part of it.
    ///
    /// # Errors
    /// In words, with the file's place.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), String> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                let write = tokio::task::spawn_blocking(move || {
                    write(&path, &bytes).map_err(|e| format!("{}: {e}", path.display()))
                });
                write.await.expect("it does not panic")
            }
            Self::S3(bucket) => bucket.put(name, bytes).await,
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// A bucket, and the prefix in it.
pub struct Bucket {
    name: String,
    /// Empty, or ends in `/`.
    prefix: String,
    endpoint: Option<String>,
    /// Made when it is first needed: credentials are asked for then.
    sdk: OnceCell<aws_sdk_s3::Client>,
}

impl Bucket {
    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), String> {
        let key = format!("{}{name}", self.prefix);
        let sdk = self.sdk.get_or_init(|| self.connect()).await;
        let request = sdk.put_object().bucket(&self.name).key(&key).content_type("application/vnd.apache.parquet");
        let sent = request.body(bytes.into()).send().await;
        sent.map(|_| ()).map_err(|error| format!("s3://{}/{key}: {}", self.name, describe(&error)))
    }

    async fn connect(&self) -> aws_sdk_s3::Client {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_timeout(UPLOAD).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            // Who writes files decides how often.
            .retry_config(RetryConfig::disabled())
            // Other S3 servers do not know the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let config = loader.load().await;
        let mut builder = aws_sdk_s3::config::Builder::from(&config).force_path_style(config.endpoint_url().is_some());
        if config.region().is_none() {
            builder = builder.region(Region::from_static("us-east-1"));
        }
        aws_sdk_s3::Client::from_conf(builder.build())
    }
}

fn describe<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(response) = error.raw_response() {
        let (status, code) = (response.status().as_u16(), error.code().unwrap_or_default());
        return match (status, error.message()) {
            (301, _) => format!("{status} {code}: the bucket is in another region: set AWS_REGION"),
            (403, _) => format!("{status} {code}: s3:PutObject on the prefix is needed"),
            (_, Some(message)) => format!("{status} {code}: {message}"),
            (_, None) => format!("{status} {code}"),
        };
    }
    match error {
        SdkError::TimeoutError(_) => "no answer in time".into(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "no answer in time".into(),
        SdkError::DispatchFailure(failure) if failure.is_io() => format!("cannot be reached: {}", innermost(error)),
        SdkError::DispatchFailure(_) => format!(
            "there are no credentials: they come from the environment (AWS_ACCESS_KEY_ID, ..), ~/.aws, or the pod's role ({})",
            innermost(error)
        ),
        _ => innermost(error),
    }
}
