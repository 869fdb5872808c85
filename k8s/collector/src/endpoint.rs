//! One HTTP server that is asked: its address, its token, and the bounds of a question.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

/// An answer with more bytes is not read to its end.
const MOST_BYTES: usize = 64 << 20;
const CONNECT: Duration = Duration::from_secs(3);
/// Of an error's text, which may be a whole page of a proxy.
const SHOWN: usize = 300;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It may answer later: it is too slow, or breaks off. What it made of the question is not known.
    #[error("{0}")]
    Away(String),
    /// It may answer later, and did nothing with the question: it cannot be reached, or says that it cannot now.
    #[error("{0}")]
    Closed(String),
    /// It will say the same again: the question, a token or a setting must change.
    #[error("{0}")]
    Refused(String),
    /// The answer is larger than what is read of one.
    #[error("{0}")]
    TooMuch(String),
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Vec<u8>,
}

/// Where to ask and how long to wait.
pub struct Endpoint {
    http: Client,
    url: Url,
    token: Option<PathBuf>,
    timeout: Duration,
    most_bytes: usize,
}

impl Endpoint {
    /// A server at this address. A path in it is kept. `token` is a file that holds a bearer token; it is read for each
    /// request, since such files are renewed.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(url: Url, token: Option<PathBuf>, timeout: Duration) -> Result<Self, String> {
        let http = Client::builder()
            .connect_timeout(CONNECT.min(timeout))
            // Nobody is asked but who is configured.
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| format!("HTTPS cannot be set up: {}: install ca-certificates", innermost(&e)))?;
        Ok(Self { http, url, token, timeout, most_bytes: MOST_BYTES })
    }

    /// The address without user, password and query, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.url.path().trim_end_matches('/');
        format!("{}://{}{port}{path}", self.url.scheme(), self.url.host_str().unwrap_or_default())
    }

    /// Posts a body. Every status is an answer.
    ///
    /// # Errors
    /// When no answer came, or not all of it.
    pub async fn post(&self, path: &str, kind: &'static str, body: Vec<u8>) -> Result<Reply, Failure> {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        let mut request = self.http.post(url).header(CONTENT_TYPE, kind).timeout(self.timeout).body(body);
        if let Some(file) = &self.token {
            let token = std::fs::read_to_string(file);
            let token = token.map_err(|e| Failure::Refused(format!("the token's file {}: {e}", file.display())))?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await.map_err(|e| self.away(&e))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.away(&e))? {
            if bytes.len() + piece.len() > self.most_bytes {
                let most = self.most_bytes >> 20;
                return Err(Failure::TooMuch(format!("{} answers with more than {most} MiB", self.name())));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Reply { status, headers, body: bytes })
    }

    fn away(&self, error: &reqwest::Error) -> Failure {
        let name = self.name();
        if error.is_builder() || error.is_request() && error.url().is_none() {
            return Failure::Refused(format!("{name} cannot be asked: {}", innermost(error)));
        }
        if error.is_connect() {
            return Failure::Closed(format!("{name} cannot be reached: {}", innermost(error)));
        }
        Failure::Away(if error.is_timeout() {
            format!("{name} did not answer within {} s", self.timeout.as_secs_f64())
        } else {
            format!("{name} broke off: {}", innermost(error))
        })
    }

    /// The failure that a status other than success means, with what the server said.
    #[must_use]
    pub fn failure(&self, status: StatusCode, said: &str) -> Failure {
        let said: String = said.trim().chars().take(SHOWN).collect();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let message = format!("{} answers {}{said}", self.name(), status.as_u16());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failure::Refused(format!("{message}: give it a valid token (a file, see --help)"))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Failure::Closed(message),
            StatusCode::REQUEST_TIMEOUT => Failure::Away(message),
            status if status.is_server_error() => Failure::Away(message),
            _ => Failure::Refused(message),
        }
    }
}

/// The last cause, which is the one that says something.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
