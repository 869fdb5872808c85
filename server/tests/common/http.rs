//! HTTP/1.1 over a plain socket, so that tests see exactly what is sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A connection that stays open.
pub struct Client<S: Read = TcpStream>(BufReader<S>);

/// A socket on which nobody is waited for longer than a minute.
pub fn socket(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        socket(address).map(Self::over)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let mut message = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            message += &format!("{name}: {value}\r\n");
        }
        let mut bytes = (message + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.0.get_mut().write_all(&bytes)
    }

    pub fn receive(&mut self) -> Result<Reply> {
        let gone = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(gone());
        }
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(gone)?;
        let mut headers = HashMap::new();
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut body = vec![];
        if let Some(length) = headers.get("content-length") {
            body.resize(length.parse().map_err(|_| gone())?, 0);
            self.0.read_exact(&mut body)?;
        } else if headers.get("transfer-encoding").is_some_and(|t| t == "chunked") {
            loop {
                line.clear();
                self.0.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| gone())?;
                let mut chunk = vec![0; size + 2];
                self.0.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        }
        Ok(Reply { status, headers, body })
    }

    pub fn post(&mut self, path: &str, body: &str) -> Result<Reply> {
        self.send("POST", path, &[("content-type", "application/json")], body.as_bytes())?;
        self.receive()
    }
}

/// A connection on which exactly these bytes were sent.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("accepted");
    stream.set_read_timeout(Some(super::PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(super::PATIENCE)).expect("a socket");
    stream.write_all(bytes).expect("sent");
    stream
}

/// One request on a connection of its own.
#[track_caller]
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut client = Client::connect(address).expect("the server accepts");
    // A server that refuses a large body answers before it has read all of it.
    let _ = client.send(method, path, headers, body);
    client.receive().expect("the server answers")
}

/// Many clients that post one after another until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    problems: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a client makes of its answer: an error is a problem, `Ok(false)` ends that client in peace.
type Check = dyn Fn(usize, &Reply) -> std::result::Result<(), String> + Send + Sync;

impl Load {
    /// Starts the clients. `body` gives the request of a client's turn, `check` judges the answer to it.
    pub fn start(
        address: SocketAddr,
        clients: usize,
        body: impl Fn(usize) -> String + Send + Sync + 'static,
        check: impl Fn(usize, &Reply) -> std::result::Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let problems = Arc::new(Mutex::new(vec![]));
        let (body, check): (Arc<dyn Fn(usize) -> String + Send + Sync>, Arc<Check>) = (Arc::new(body), Arc::new(check));
        let threads = (0..clients)
            .map(|i| {
                let (stop, answered, problems) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&problems));
                let (body, check) = (Arc::clone(&body), Arc::clone(&check));
                std::thread::spawn(move || {
                    let mut client = match Client::connect(address) {
                        Ok(client) => client,
                        Err(e) => return problems.lock().expect("no panic").push(format!("connect: {e}")),
                    };
                    let mut turn = i;
                    while !stop.load(Ordering::Relaxed) {
                        let result = client.post("/predict", &body(turn)).map_err(|e| e.to_string());
                        match result.and_then(|reply| check(turn, &reply).map(|()| reply)) {
                            Ok(reply) => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                // The server says goodbye: this connection takes no further request.
                                if reply.header("connection") == "close" {
                                    return;
                                }
                            }
                            Err(problem) => return problems.lock().expect("no panic").push(problem),
                        }
                        turn += clients;
                    }
                })
            })
            .collect();
        Self { stop, answered, problems, threads }
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().expect("no panic").clone()
    }

    /// Stops the clients; gives the number of answers and every problem.
    pub fn finish(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let problems = self.problems.lock().expect("no panic").clone();
        (self.answered.load(Ordering::Relaxed), problems)
    }
}
