//! One bucket of an S3 server: requests with their time limits, and errors in words. The only module that talks to
//! `aws_sdk_s3`.
//!
//! The SDK retries nothing: how often an object is asked for is decided by whoever asks.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;

use super::{Condition, Written};

const CONNECT: Duration = Duration::from_secs(3);
/// Until the first byte of an answer, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(10);
/// A small object, from the question to its last byte.
const SMALL: Duration = Duration::from_secs(10);
/// One part of an upload.
const UPLOAD: Duration = Duration::from_secs(300);
/// An object from which on an upload gets that much time.
const PATIENT: usize = 1 << 20;
/// How often a part of an upload is sent before the upload fails.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Errors after which credentials are read again: they may have been renewed where they come from.
const DENIED: &[&str] = &[
    "AccessDenied",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];

/// Why a request failed.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) message: String,
}

/// What a failed request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such object.
    Missing,
    /// The object is not the one that was asked for, or is there already.
    Changed,
    /// Everything else: worth another try, later.
    Other,
}

/// A small object, or that it is the one that is known already.
#[derive(Debug)]
pub(super) enum Got {
    Same,
    Object { bytes: Bytes, tag: String },
    Missing,
}

/// An object of a listing.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) tag: String,
    pub(super) bytes: u64,
}

/// A bucket, and the prefix in it under which the repository lies.
pub(super) struct Client {
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    endpoint: Option<String>,
    /// Made when it is first needed, and anew when credentials may have been renewed.
    sdk: Mutex<Arc<OnceCell<aws_sdk_s3::Client>>>,
}

impl Client {
    /// Takes `s3://bucket/prefix` apart.
    pub(super) fn new(url: &str, endpoint: Option<String>) -> Result<Self, String> {
        let rest = url.strip_prefix("s3://").ok_or_else(|| {
            format!(
                "{url}: repositories are folders, .onnx files, or s3://bucket/prefix (other servers: --s3-endpoint)"
            )
        })?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.len() < 3 || bucket.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)) {
            return Err(format!("{url}: {bucket:?} is not a bucket's name: write s3://bucket/prefix"));
        }
        if let Some(endpoint) = &endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(format!("s3-endpoint is {endpoint:?}: it must start with http:// or https://"));
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.into(), prefix, endpoint, sdk: Mutex::default() })
    }

    /// `s3://bucket/prefix/key`.
    pub(super) fn url(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    async fn sdk(&self) -> aws_sdk_s3::Client {
        let client = Arc::clone(&self.lock());
        client.get_or_init(|| self.connect()).await.clone()
    }

    async fn connect(&self) -> aws_sdk_s3::Client {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(SILENCE).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // The hashes of the manifest are checked; other S3 servers do not know the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<OnceCell<aws_sdk_s3::Client>>> {
        self.sdk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a small object, unless it is still the one with the `known` tag.
    pub(super) async fn get(&self, key: &str, known: Option<&str>, most: u64) -> Result<Got, Fault> {
        let read = async {
            let request = self.sdk().await.get_object().bucket(&self.bucket).key(self.key(key));
            let output = match request.set_if_none_match(known.map(Into::into)).send().await {
                Ok(output) => output,
                Err(error) if status(&error) == Some(304) => return Ok(Got::Same),
                Err(error) => {
                    let fault = self.fault(key, &error);
                    return if fault.kind == Kind::Missing { Ok(Got::Missing) } else { Err(fault) };
                }
            };
            // Servers behind some proxies mark it as weak, and then do not take it back like that.
            let tag = output.e_tag().unwrap_or_default().trim_start_matches("W/").to_owned();
            let bytes = self.collect(key, output.body, most).await?;
            Ok(Got::Object { bytes, tag })
        };
        tokio::time::timeout(SMALL, read)
            .await
            .unwrap_or_else(|_| Err(self.other(key, &format!("it did not come within {} s", SMALL.as_secs()))))
    }

    async fn collect(&self, key: &str, mut body: ByteStream, most: u64) -> Result<Bytes, Fault> {
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|e| self.broken(key, &e))?);
            if bytes.len() as u64 > most {
                return Err(self.other(key, &format!("it has more than {most} bytes")));
            }
        }
        Ok(bytes.freeze())
    }

    /// Reads a range of an object into `into`, which has what came even when it ends early. `tag` is the one that the
    /// object must have; the tag that it has is returned with the size of the whole object, where the server tells it.
    pub(super) async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
        tag: Option<&str>,
        into: &mut BytesMut,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(String, Option<u64>), Fault> {
        let request = self
            .sdk()
            .await
            .get_object()
            .bucket(&self.bucket)
            .key(self.key(key))
            .range(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
            .set_if_match(tag.map(Into::into));
        let mut output = request.send().await.map_err(|e| self.fault(key, &e))?;
        let has = output.e_tag().unwrap_or_default().to_owned();
        if tag.is_some_and(|tag| tag != has) {
            return Err(self.changed(key));
        }
        // Without Content-Range the answer is the whole object.
        let whole = match output.content_range() {
            Some(text) => text.rsplit('/').next().and_then(|size| size.parse().ok()),
            None if range.start == 0 => output.content_length().and_then(|size| u64::try_from(size).ok()),
            None => return Err(self.other(key, "the server does not answer ranges")),
        };
        let most = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let begin = into.len();
        loop {
            let piece = tokio::time::timeout(SILENCE, output.body.next())
                .await
                .map_err(|_| self.other(key, &format!("nothing came for {} s", SILENCE.as_secs())))?;
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|e| self.broken(key, &e))?;
            if into.len() - begin + piece.len() > most {
                return Err(self.other(key, "more came than was asked for"));
            }
            into.extend_from_slice(&piece);
            progress(piece.len() as u64);
        }
        Ok((has, whole))
    }

    /// Every object under a prefix, or, with `folders`, the names of the folders right under it.
    pub(super) async fn list(&self, under: &str, folders: bool) -> Result<Vec<Listed>, Fault> {
        let mut found = vec![];
        let mut more = None;
        loop {
            let request = self.sdk().await.list_objects_v2().bucket(&self.bucket).prefix(self.key(under));
            let request = request.set_delimiter(folders.then(|| "/".into())).set_continuation_token(more);
            let page = tokio::time::timeout(SMALL, request.send())
                .await
                .map_err(|_| self.other(under, "it was not listed in time"))?
                .map_err(|e| self.fault(under, &e))?;
            let relative = |key: &str| key.strip_prefix(&self.prefix).unwrap_or(key).to_owned();
            for prefix in page.common_prefixes() {
                let key = relative(prefix.prefix().unwrap_or_default());
                found.push(Listed { key, tag: String::new(), bytes: 0 });
            }
            if !folders {
                for object in page.contents() {
                    found.push(Listed {
                        key: relative(object.key().unwrap_or_default()),
                        tag: object.e_tag().unwrap_or_default().into(),
                        bytes: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                    });
                }
            }
            more = page.next_continuation_token().map(Into::into);
            if more.is_none() {
                return Ok(found);
            }
        }
    }

    /// The size of an object; `None` when there is none.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, Fault> {
        Ok(self.head(key).await?.map(|(size, _)| size))
    }

    /// The size and the tag of an object; `None` when there is none.
    pub(super) async fn head(&self, key: &str) -> Result<Option<(u64, String)>, Fault> {
        match self.sdk().await.head_object().bucket(&self.bucket).key(self.key(key)).send().await {
            Ok(output) => {
                let size = u64::try_from(output.content_length().unwrap_or(0)).unwrap_or(0);
                Ok(Some((size, output.e_tag.unwrap_or_default())))
            }
            Err(error) => {
                let fault = self.fault(key, &error);
                if fault.kind == Kind::Missing { Ok(None) } else { Err(fault) }
            }
        }
    }

    /// Writes an object if the condition holds.
    pub(super) async fn put(&self, key: &str, bytes: Bytes, condition: &Condition) -> Result<Written, Fault> {
        let size = bytes.len();
        let request = self.sdk().await.put_object().bucket(&self.bucket).key(self.key(key)).body(bytes.into());
        let request = match condition {
            Condition::New => request.if_none_match("*"),
            Condition::Unchanged(tag) if tag.is_empty() => {
                return Err(self.other(key, "the server gives no ETag, so nothing can be changed safely"));
            }
            Condition::Unchanged(tag) => request.if_match(tag),
        };
        let patience = if size < PATIENT { SMALL } else { UPLOAD };
        let done = tokio::time::timeout(patience, request.customize().config_override(patient()).send()).await;
        match done {
            Ok(Ok(_)) => Ok(Written::Done),
            Ok(Err(error)) => {
                let fault = self.fault(key, &error);
                // A condition on an object that is gone fails with 404.
                let lost = fault.kind == Kind::Changed
                    || (fault.kind == Kind::Missing && matches!(condition, Condition::Unchanged(_)));
                if lost { Ok(Written::Lost) } else { Err(fault) }
            }
            Err(_) => Err(self.other(key, "it was not written in time")),
        }
    }

    /// Writes a large object that is not there yet, in parts.
    pub(super) async fn put_parts(
        &self,
        key: &str,
        bytes: Bytes,
        part: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Written, Fault> {
        let (sdk, name) = (self.sdk().await, self.key(key));
        let upload = sdk.create_multipart_upload().bucket(&self.bucket).key(&name).send().await;
        let upload = upload.map_err(|e| self.fault(key, &e))?;
        let id = upload.upload_id().unwrap_or_default().to_owned();
        let parts = async {
            let mut done = CompletedMultipartUpload::builder();
            for (number, start) in (1_i32..).zip((0..bytes.len()).step_by(part)) {
                let piece = bytes.slice(start..(start + part).min(bytes.len()));
                let size = piece.len() as u64;
                let mut tries = 0;
                let tag = loop {
                    let request = sdk.upload_part().bucket(&self.bucket).key(&name).upload_id(&id).part_number(number);
                    let request = request.body(piece.clone().into()).customize().config_override(patient());
                    match request.send().await {
                        Ok(output) => break output.e_tag().unwrap_or_default().to_owned(),
                        Err(error) => {
                            tries += 1;
                            let fault = self.fault(key, &error);
                            if tries == TRIES || fault.kind != Kind::Other {
                                return Err(fault);
                            }
                            tokio::time::sleep(FIRST_PAUSE * (1 << tries)).await;
                        }
                    }
                };
                done = done.parts(CompletedPart::builder().part_number(number).e_tag(tag).build());
                progress(size);
            }
            let request = sdk.complete_multipart_upload().bucket(&self.bucket).key(&name).upload_id(&id);
            let request = request.multipart_upload(done.build()).if_none_match("*");
            match request.customize().config_override(patient()).send().await {
                Ok(_) => Ok(Written::Done),
                Err(error) => {
                    let fault = self.fault(key, &error);
                    if fault.kind == Kind::Changed { Ok(Written::Lost) } else { Err(fault) }
                }
            }
        };
        let written = parts.await;
        if !matches!(written, Ok(Written::Done)) {
            // What was sent is of no use; when this fails too, the bucket's lifecycle rule for such uploads clears it.
            let _ = sdk.abort_multipart_upload().bucket(&self.bucket).key(&name).upload_id(&id).send().await;
        }
        written
    }

    fn changed(&self, key: &str) -> Fault {
        Fault { kind: Kind::Changed, message: format!("{}: it was replaced meanwhile", self.url(key)) }
    }

    fn other(&self, key: &str, what: &str) -> Fault {
        Fault { kind: Kind::Other, message: format!("{}: {what}", self.url(key)) }
    }

    fn broken(&self, key: &str, error: &dyn std::error::Error) -> Fault {
        self.other(key, &format!("the answer broke off: {}", innermost(error)))
    }

    fn fault<E>(&self, key: &str, error: &SdkError<E>) -> Fault
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let status = status(error);
        let code = error.code().unwrap_or_default();
        match status {
            Some(404) if code != "NoSuchBucket" => {
                return Fault { kind: Kind::Missing, message: format!("{}: there is no such object", self.url(key)) };
            }
            Some(412) => return self.changed(key),
            _ => {}
        }
        // A fault of the connection says nothing of the credentials; a provider that fails counts as neither.
        let credentials = error.as_service_error().is_some() && (DENIED.contains(&code) || status == Some(403))
            || matches!(error, SdkError::DispatchFailure(e) if !e.is_io() && !e.is_timeout());
        // Of requests that are denied together, the first one does it.
        let mut sdk = self.lock();
        if credentials && sdk.initialized() {
            *sdk = Arc::default();
        }
        drop(sdk);
        self.other(key, &describe(error, status, code))
    }
}

/// Time for a part of an upload, which counts until the first byte of the answer.
fn patient() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(UPLOAD).build();
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts)
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

fn describe<E>(error: &SdkError<E>, status: Option<u16>, code: &str) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let said = match (status, error.message()) {
        (Some(status), Some(message)) => format!("{status} {code}: {message}"),
        (Some(status), None) => format!("{status} {code}"),
        (None, _) => String::new(),
    };
    match error {
        SdkError::TimeoutError(_) => "no answer in time".into(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "no answer in time".into(),
        SdkError::DispatchFailure(failure) if failure.is_io() => format!("cannot be reached: {}", innermost(error)),
        SdkError::DispatchFailure(_) => format!(
            "there are no credentials: they come from the environment (AWS_ACCESS_KEY_ID, ..), ~/.aws, the pod's or the \
             instance's role ({})",
            innermost(error)
        ),
        _ if status == Some(301) => format!("{said} (the bucket is in another region: set AWS_REGION)"),
        _ if code == "AccessDenied" => {
            format!(
                "{said} (s3:GetObject on the prefix is needed; without s3:ListBucket, what is missing looks denied too)"
            )
        }
        _ if status.is_some() => said,
        _ => innermost(error),
    }
}

/// The last cause, which is the one that says something.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
