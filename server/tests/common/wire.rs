//! HTTP/1.1 messages, whole, as the proxy takes and gives them.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;

const MOST: usize = 256 << 20;

/// A request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    start: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn new(start: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut message = Self { start: start.into(), headers, body };
        message.set("content-length", &message.body.len().to_string());
        message
    }

    fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.lines();
        let start = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { start, headers, body: vec![] }
    }

    pub fn start(&self) -> &str {
        &self.start
    }

    /// Of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Path and query of a request.
    pub fn target(&self) -> (&str, &str) {
        let target = self.start.split(' ').nth(1).unwrap_or_default();
        target.split_once('?').unwrap_or((target, ""))
    }

    /// Of an answer.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.into(), value.into()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(other, _)| other != name);
    }

    pub fn head(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}\r\n", self.start).into_bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }

    fn length(&self) -> Result<Option<usize>> {
        let length =
            self.header("content-length").map(|text| text.parse::<usize>().map_err(Error::other)).transpose()?;
        if length.is_some_and(|length| length > MOST) {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(length)
    }

    /// Reads what [`read_request`] left of a request.
    pub fn finish(&mut self, client: &mut TcpStream) -> Result<()> {
        client.read_exact(&mut [0])?;
        if self.header("expect").is_some() {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        self.body.resize(self.length()?.unwrap_or(0), 0);
        client.read_exact(&mut self.body)
    }
}

/// Reads a request's head without its very last byte; `None` when the client has none.
pub fn read_request(client: &mut TcpStream) -> Result<Option<Message>> {
    let mut head = vec![];
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r") {
        if client.read(&mut byte)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        head.push(byte[0]);
    }
    Ok(Some(Message::parse(&head)))
}

/// Reads a whole answer; one to HEAD has no body.
pub fn read_message(server: &mut TcpStream, to_head: bool) -> Result<Message> {
    let mut bytes = vec![];
    let mut buffer = vec![0; 64 << 10];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match server.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let mut message = Message::parse(&bytes[..end]);
    // The proxy keeps connections open, whatever the server behind it does.
    message.start = message.start.replacen("HTTP/1.0", "HTTP/1.1", 1);
    if to_head || matches!(message.status(), 204 | 304) {
        return Ok(message);
    }
    message.body = bytes.split_off(end);
    match message.length()? {
        Some(length) => {
            let missing = length.saturating_sub(message.body.len());
            server.take(missing as u64).read_to_end(&mut message.body)?;
        }
        None if message.header("transfer-encoding").is_some() => {
            return Err(Error::other("an answer in chunks, which moto does not send"));
        }
        None => {
            server.read_to_end(&mut message.body)?;
            message.set("content-length", &message.body.len().to_string());
        }
    }
    Ok(message)
}
