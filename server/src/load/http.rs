//! As much of HTTP/1.1 as a load generator needs: requests written once, answers with a content length.
//!
//! It is no client: no chunked answers, no redirects, no TLS. What it does not understand is an error, never a guess.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Where to send requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of the server.
    pub address: SocketAddr,
    /// From the first slash on.
    pub path: String,
}

impl Target {
    /// Takes `http://host:port/path` apart; the path is `/predict` where there is none.
    ///
    /// # Errors
    /// What is wrong with the text, or that the host has no address.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url}: only http:// is measured"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = authority
            .to_socket_addrs()
            .with_context(|| format!("{url}: no host:port"))?
            .next()
            .with_context(|| format!("{url}: no address"))?;
        Ok(Self { address, path: if path.is_empty() { "/predict".to_owned() } else { path.to_owned() } })
    }

    /// The bytes of one request that posts JSON and keeps the connection.
    #[must_use]
    pub fn post(&self, body: &[u8]) -> Vec<u8> {
        self.request("content-type: application/json", body)
    }

    /// The same of JSON with tensors' bytes behind it.
    #[must_use]
    pub fn post_binary(&self, body: &[u8], json: usize) -> Vec<u8> {
        let headers = format!("content-type: application/octet-stream\r\ninference-header-content-length: {json}");
        self.request(&headers, body)
    }

    fn request(&self, headers: &str, body: &[u8]) -> Vec<u8> {
        let (path, address, length) = (&self.path, self.address, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    }
}

/// The head of an answer and where its body lies in the bytes it was read from.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Of the answer.
    pub status: u16,
    /// Where its body lies.
    pub body: std::ops::Range<usize>,
    /// Whether the server closes the connection after it.
    pub close: bool,
}

/// Reads one answer at the start of `bytes`: `None` when more bytes are needed.
///
/// # Errors
/// What of it is not understood.
pub fn parse(bytes: &[u8]) -> Result<Option<Response>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = str::from_utf8(&bytes[..head]).context("the head of the answer is not text")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {line:?}"))?;
    let (mut length, mut close) = (None, false);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { bail!("not a header: {line:?}") };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().with_context(|| format!("not a length: {value:?}"))?);
        } else if name.eq_ignore_ascii_case("connection") {
            close = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let start = head + 4;
    let end = start + length.context("an answer without content-length")?;
    Ok((bytes.len() >= end).then_some(Response { status, body: start..end, close }))
}

/// The value of a header in the head of an answer.
#[must_use]
pub fn header<'a>(answer: &'a [u8], name: &str) -> Option<&'a str> {
    let lines = answer.split(|byte| *byte == b'\n').skip(1);
    let mut head = lines.map(<[u8]>::trim_ascii_end).take_while(|line| !line.is_empty());
    let value = head.find_map(|line| {
        let (key, value) = line.split_at_checked(name.len())?;
        key.eq_ignore_ascii_case(name.as_bytes()).then(|| value.strip_prefix(b":")).flatten()
    })?;
    str::from_utf8(value.trim_ascii()).ok()
}

/// One GET on a connection of its own: status and body.
///
/// # Errors
/// That the server does not answer within seconds, or not in HTTP.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (response, bytes) = exchange(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes())?;
    Ok((response.status, String::from_utf8_lossy(&bytes[response.body]).into_owned()))
}

/// One request, written as it is, on a connection of its own: the answer and the bytes that it lies in.
///
/// # Errors
/// That the server does not answer within seconds, or not in HTTP.
pub fn exchange(address: SocketAddr, request: &[u8]) -> Result<(Response, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request)?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(response) = parse(&bytes)? {
            return Ok((response, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ndate: today\r\n\r\n{}";

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        for cut in 0..ANSWER.len() {
            assert_eq!(parse(&ANSWER[..cut]).expect("a prefix is no error"), None, "{cut}");
        }
        let response = parse(ANSWER).expect("it is valid").expect("it is whole");
        assert_eq!((response.status, response.close, &ANSWER[response.body]), (200, false, &b"{}"[..]));
    }

    #[test]
    fn a_header_is_found_by_its_name_in_the_head_only() {
        let answer = b"HTTP/1.1 200 OK\r\nETag:  \"a\" \r\nX-Model-Version: 2\r\ncontent-length: 9\r\n\r\nother: no";
        assert_eq!(header(answer, "etag"), Some("\"a\""));
        assert_eq!(header(answer, "x-model-version"), Some("2"));
        assert_eq!((header(answer, "x-model"), header(answer, "other")), (None, None));
    }

    #[test]
    fn a_server_that_closes_is_noticed() {
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let response = parse(bytes).expect("it is valid").expect("it is whole");
        assert_eq!((response.status, response.close, response.body.len()), (503, true, 0));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_url_names_address_and_path() {
        let target = Target::parse("http://127.0.0.1:8080/models/anomaly/predict").expect("it is a url");
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!(target.path, "/models/anomaly/predict");
        assert_eq!(Target::parse("http://127.0.0.1:1").expect("it is a url").path, "/predict");
        assert!(Target::parse("https://127.0.0.1:1/").is_err());
        assert!(Target::parse("http://127.0.0.1/").is_err());
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let target = Target::parse("http://127.0.0.1:1/predict").expect("it is a url");
        let request = String::from_utf8(target.post(b"{\"a\":1}")).expect("it is text");
        assert!(request.starts_with("POST /predict HTTP/1.1\r\nhost: 127.0.0.1:1\r\n"));
        assert!(request.ends_with("content-length: 7\r\n\r\n{\"a\":1}"));
    }
}
