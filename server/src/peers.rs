//! Other servers of the same models: who they are, what they tell, and what they are told.
//!
//! A peer is the address of an operations port, such as `10.0.0.7:8082`. A name stands for all of its addresses, as that of a
//! headless service in Kubernetes does; it is looked up each time, since pods come and go. A server may be its own peer:
//! whoever adds up what peers tell counts each server once.
//!
//! Plain HTTP/1.1 on a connection for each question. Nothing is tried again: who asks comes back by itself.

mod tell;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::tell::{Teller, Told};
use crate::text::{SENTENCE, cut};

/// How long a name may take to be looked up, and then how long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Peers that are asked at a time.
const AT_A_TIME: usize = 16;
/// Peers that are asked in all.
const MOST: usize = 256;
/// Bytes of an answer: 14 days of buckets of three challengers take less than one MiB.
const ANSWER_BYTES: usize = 16 << 20;

/// Operations ports of servers, as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Vec<Name>);

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

/// One address of a name.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    address: SocketAddr,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.to_string();
        if self.name == address { f.write_str(&address) } else { write!(f, "{} ({})", self.name, self.address.ip()) }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wants = || {
            format!("{text:?} is no peer: write HOST:PORT of an operations port, as in onnxd-peers:8082 or [::1]:8082")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wants)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wants)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_name = |host: &str| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        let is_good = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(host),
        };
        if !is_good {
            return Err(wants());
        }
        Ok(Self { host: bare.unwrap_or(host).to_ascii_lowercase(), port })
    }
}

impl FromStr for Peers {
    type Err = String;

    /// Reads `HOST:PORT[,HOST:PORT..]`; nothing is no peers.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// What peers told.
#[derive(Debug)]
pub struct Gathered<T> {
    /// One of each that answered.
    pub answers: Vec<T>,
    /// One sentence for each that did not, which names it.
    pub missing: Vec<String>,
}

impl Peers {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks all of them the same: `GET path`, which is to be answered by a `T` as JSON.
    pub async fn gather<T: DeserializeOwned>(&self, path: &str) -> Gathered<T> {
        let (peers, mut missing) = self.look_up().await;
        let asked = peers.into_iter().map(|peer| async move {
            let answer = exchange(&peer, Method::GET, path, Bytes::new()).await.map_err(|wrong| wrong.reason)?;
            serde_json::from_slice::<T>(&answer)
                .map_err(|e| cut(format!("{peer} answers {path} with what this version does not know: {e}"), SENTENCE))
        });
        let mut answers = vec![];
        let mut asked = stream::iter(asked).buffered(AT_A_TIME);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(reason) => missing.push(reason),
            }
        }
        Gathered { answers, missing }
    }

    /// [`Peers::gather`] on a thread that may wait.
    ///
    /// # Errors
    /// One sentence when the system refuses what it takes to wait.
    pub fn gather_here<T: DeserializeOwned>(&self, path: &str) -> Result<Gathered<T>, String> {
        if self.is_empty() {
            return Ok(Gathered { answers: vec![], missing: vec![] });
        }
        let runtime = runtime()?;
        let gathered = runtime.block_on(self.gather(path));
        // A name that is still looked up is not waited for.
        runtime.shutdown_background();
        Ok(gathered)
    }

    /// What the addresses of each name are, or why they are not known.
    async fn find(&self) -> Vec<(String, Result<Vec<SocketAddr>, String>)> {
        let asked = self.0.clone().into_iter().map(|name| async move {
            let found = timeout(PATIENCE, tokio::net::lookup_host((name.host.as_str(), name.port))).await;
            let found = match found.map(|found| found.map(Iterator::collect::<Vec<_>>)) {
                Ok(Ok(addresses)) if addresses.is_empty() => Err(format!("{name} has no address")),
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => Err(format!("{name} cannot be looked up: {error}")),
                Err(_) => Err(format!("{name} was not looked up within {} s", PATIENCE.as_secs())),
            };
            (name.to_string(), found)
        });
        stream::iter(asked).buffered(AT_A_TIME).collect().await
    }

    /// All addresses of all names, each once, and what is wrong with the others.
    async fn look_up(&self) -> (Vec<Peer>, Vec<String>) {
        let (mut peers, mut missing, mut known) = (vec![], vec![], BTreeSet::new());
        for (name, found) in self.find().await {
            match found {
                Ok(addresses) => {
                    let new = addresses.into_iter().filter(|address| known.insert(*address));
                    peers.extend(new.map(|address| Peer { name: name.clone(), address }));
                }
                Err(reason) => missing.push(reason),
            }
        }
        if peers.len() > MOST {
            missing.push(beyond(peers.len()));
            peers.truncate(MOST);
        }
        (peers, missing)
    }
}

fn beyond(found: usize) -> String {
    format!("{} peers are beyond the {MOST} that are asked: name fewer", found - MOST)
}

/// Why an exchange was no success.
struct Wrong {
    /// What was answered, if anything was.
    status: Option<StatusCode>,
    /// One sentence that names the peer.
    reason: String,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self { status: None, reason }
    }
}

/// Asks the server that listens at `address` on this machine: `GET path`, on a thread that may wait. An unspecified address,
/// such as 0.0.0.0, is that of the loopback.
///
/// # Errors
/// One sentence when it cannot be reached, does not answer within 2 s, or answers with no success.
pub fn ask_here(address: SocketAddr, path: &str) -> Result<Bytes, String> {
    let here = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(here, address.port());
    let peer = Peer { name: address.to_string(), address };
    let answer = runtime()?.block_on(exchange(&peer, Method::GET, path, Bytes::new()));
    answer.map_err(|wrong| wrong.reason)
}

/// What it takes to wait for peers on one thread.
fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| format!("cannot ask other servers: {e}"))
}

/// One question and its answer, which must be a success.
async fn exchange(peer: &Peer, method: Method, path: &str, body: Bytes) -> Result<Bytes, Wrong> {
    let answer = timeout(PATIENCE, send(peer, method, path, body)).await;
    answer.unwrap_or_else(|_| Err(format!("{peer} did not answer within {} s", PATIENCE.as_secs()).into()))
}

async fn send(peer: &Peer, method: Method, path: &str, body: Bytes) -> Result<Bytes, Wrong> {
    let stream = TcpStream::connect(peer.address).await.map_err(|e| format!("{peer} cannot be reached: {e}"))?;
    let broken = |e: hyper::Error| format!("{peer} answers no HTTP: {e}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // It ends with whoever waits for the answer.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, &peer.name)
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|e| format!("{peer} cannot be asked for {path:?}: {e}"))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let collected = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
    let answer =
        collected.map_err(|e| format!("{peer} breaks off its answer, or it has over {ANSWER_BYTES} bytes: {e}"))?;
    let answer = answer.to_bytes();
    if !status.is_success() {
        let said = String::from_utf8_lossy(&answer).into_owned();
        let detail = serde_json::from_slice::<serde_json::Value>(&answer).ok();
        let detail = detail.and_then(|problem| problem["detail"].as_str().map(str::to_owned)).unwrap_or(said);
        let reason = cut(format!("{peer} answers {status}: {}", detail.trim()), SENTENCE);
        return Err(Wrong { status: Some(status), reason });
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_hosts_with_ports() {
        let good = "10.0.0.1:8082, onnxd-peers.ml.svc:8082,[::1]:80,";
        let peers: Peers = good.parse().expect("three of them");
        let names: Vec<String> = peers.0.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["10.0.0.1:8082", "onnxd-peers.ml.svc:8082", "[::1]:80"]);
        assert!("".parse::<Peers>().expect("none").is_empty());
        for bad in
            ["onnxd", "onnxd:", ":8082", "onnxd:0", "onnxd:70000", "::1:80", "http://onnxd:80", "[onnxd]:80", "a b:1"]
        {
            let said = bad.parse::<Peers>().expect_err(bad);
            assert!(said.contains("write HOST:PORT"), "{said}");
        }
    }
}
