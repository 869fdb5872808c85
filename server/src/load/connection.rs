//! One request at a time: an HTTP/1.1 connection, or a stream of an HTTP/2 one.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use axum::http::HeaderMap;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::grpc::{self, Channel};
use super::http::{self, Target};
use super::{Plan, Requests};

/// What carries one request at a time.
pub(super) enum Connection {
    Http(Http),
    Grpc { channel: Rc<Channel>, messages: Rc<[Bytes]>, body: Vec<u8> },
}

/// An answer in the memory of its connection.
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    head: Head<'a>,
}

enum Head<'a> {
    Text(&'a [u8]),
    Map(HeaderMap),
}

impl Answer<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        match &self.head {
            Head::Text(bytes) => http::header(bytes, name),
            Head::Map(headers) => headers.get(name)?.to_str().ok(),
        }
    }
}

impl Connection {
    /// As many as the plan says, connected.
    pub(super) async fn open_all(plan: &Plan) -> Result<Vec<Self>> {
        let target = &plan.target;
        let requests: Rc<[Vec<u8>]> = match &plan.requests {
            Requests::Json(bodies) => bodies.iter().map(|body| target.post(body)).collect(),
            Requests::Binary(bodies) => {
                bodies.iter().map(|binary| target.post_binary(&binary.body, binary.json)).collect()
            }
            Requests::Grpc { messages, connections } => {
                let messages: Rc<[Bytes]> = messages.iter().map(|message| grpc::framed(message)).collect();
                let mut channels = Vec::new();
                for _ in 0..(*connections).clamp(1, plan.connections) {
                    channels.push(Rc::new(Channel::open(target.address).await?));
                }
                let stream = |channel: &Rc<Channel>| Self::Grpc {
                    channel: Rc::clone(channel),
                    messages: Rc::clone(&messages),
                    body: Vec::new(),
                };
                return Ok(channels.iter().cycle().take(plan.connections).map(stream).collect());
            }
        };
        let mut connections = Vec::with_capacity(plan.connections);
        for _ in 0..plan.connections {
            let stream = Some(connect(target.address).await?);
            let (target, requests) = (target.clone(), Rc::clone(&requests));
            connections.push(Self::Http(Http { target, requests, stream, buffer: Vec::with_capacity(4096) }));
        }
        Ok(connections)
    }

    /// Sends the request whose turn it is and waits for its answer. After an error the next one connects anew.
    pub(super) async fn exchange(&mut self, number: usize) -> Result<Answer<'_>> {
        match self {
            Self::Http(http) => http.exchange(number).await,
            Self::Grpc { channel, messages, body } => {
                let message = messages[number % messages.len()].clone();
                let (status, headers) = channel.call(message, body).await?;
                Ok(Answer { status, body: grpc::message(body), head: Head::Map(headers) })
            }
        }
    }
}

pub(super) struct Http {
    target: Target,
    /// Whole, with their heads.
    requests: Rc<[Vec<u8>]>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Http {
    async fn exchange(&mut self, number: usize) -> Result<Answer<'_>> {
        // It is put back when the answer was read to its end and the server keeps the connection.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.target.address).await?,
        };
        stream.write_all(&self.requests[number % self.requests.len()]).await?;
        self.buffer.clear();
        let response = loop {
            if stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            if let Some(response) = http::parse(&self.buffer)? {
                break response;
            }
        };
        self.stream = (!response.close).then_some(stream);
        let body = &self.buffer[response.body.clone()];
        Ok(Answer { status: response.status, body, head: Head::Text(&self.buffer[..response.body.start]) })
    }
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("no server at {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
