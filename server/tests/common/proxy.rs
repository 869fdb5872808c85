//! Stands between the server under test and S3 and does to the traffic what networks, disks and services do.

use std::collections::HashMap;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::wire::{Message, read_message, read_request};

/// What is done to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every connection is reset.
    Refuse,
    /// An error of S3's: status and code.
    Status(u16, &'static str),
    /// Not a byte comes, for as long as the fault lasts.
    Hang,
    /// Bytes of the body a second, for as long as the fault lasts.
    Slow(usize),
    /// The connection is reset after this many bytes of the body.
    ResetAfter(usize),
    /// The first so many GETs are reset after so many bytes, the later ones are not.
    Breaks {
        gets: usize,
        after: usize,
    },
    /// The connection is closed after this many bytes of the body; the header promises all of them.
    Truncate(usize),
    /// The same with a header that promises no more than comes.
    Shorten(usize),
    /// One bit of the body.
    Flip,
    /// 200 with an error document.
    XmlError,
    /// The same bytes under another `ETag` each time.
    OtherEtag,
    /// The last answer from before the fault, though there is a newer one.
    Stale,
}

/// A request that came by.
#[derive(Clone, Debug)]
pub struct Seen {
    id: u64,
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub query: String,
    /// 0 while there is no answer.
    pub status: u16,
    pub range: Option<String>,
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    pub authorization: Option<String>,
    /// Bytes of the body.
    pub sent: usize,
    /// When the answer ended.
    pub until: Option<Instant>,
}

impl Seen {
    pub fn is_list(&self) -> bool {
        self.query.contains("list-type")
    }
}

#[derive(Default)]
struct State {
    everywhere: Option<Fault>,
    somewhere: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    /// The last good answer to each target.
    kept: HashMap<String, Message>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    number: AtomicU64,
    end: AtomicBool,
}

/// A running proxy; its threads end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            number: AtomicU64::new(0),
            end: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.end.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&own);
                // A client or a server that went away ends this connection, not the proxy.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { address, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on for every request. `Fault::None` ends all faults.
    pub fn set(&self, fault: Fault) {
        let mut state = self.shared.state();
        if fault == Fault::None {
            state.somewhere.clear();
        }
        state.everywhere = Some(fault);
    }

    /// From now on for requests whose path ends so or whose query contains it; before what is set for every request.
    pub fn set_for(&self, place: &str, fault: Fault) {
        let mut state = self.shared.state();
        state.somewhere.retain(|(other, _)| other != place);
        state.somewhere.push((place.into(), fault));
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// The requests for paths that end so.
    pub fn requests_for(&self, place: &str) -> Vec<Seen> {
        self.shared.state().seen.iter().filter(|seen| seen.path.ends_with(place)).cloned().collect()
    }

    pub fn clear(&self) {
        self.shared.state().seen.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        self.set(Fault::None);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the proxy panics")
    }

    fn fault(&self, request: &Message) -> Fault {
        let state = self.state();
        let (path, query) = request.target();
        let here = state.somewhere.iter().find(|(place, _)| path.ends_with(place) || query.contains(place));
        here.map(|(_, fault)| fault).or(state.everywhere.as_ref()).cloned().unwrap_or(Fault::None)
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.state().seen.iter_mut().rev().find(|seen| seen.id == id) {
            change(seen);
        }
    }

    fn serve(&self, mut client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        while !self.end.load(Ordering::Relaxed) {
            // The last byte of a head stays unread until it is known what to do: closing with it resets the connection.
            let Some(mut request) = read_request(&mut client)? else { return Ok(()) };
            let (path, query) = request.target();
            let (id, header) = (self.number.fetch_add(1, Ordering::Relaxed), |name| request.header(name));
            let seen = Seen {
                id,
                at: Instant::now(),
                method: request.method().into(),
                path: path.into(),
                query: query.into(),
                status: 0,
                range: header("range"),
                if_match: header("if-match"),
                authorization: header("authorization"),
                if_none_match: header("if-none-match"),
                sent: 0,
                until: None,
            };
            self.state().seen.push(seen);
            let fault = self.fault(&request);
            if fault == Fault::Refuse {
                return Ok(());
            }
            let resets = self.resets(&fault, &request);
            if resets.is_none() {
                request.finish(&mut client)?;
            }
            if fault == Fault::Hang {
                self.pause_while(&request, &Fault::Hang, &client);
                return Ok(());
            }
            let answer = self.answer(&fault, &request)?;
            let done = self.send(&mut client, &request, &answer, &fault, resets, id);
            self.note(id, |seen| seen.until = Some(Instant::now()));
            if !done? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// After how many bytes of its answer's body this request is reset.
    fn resets(&self, fault: &Fault, request: &Message) -> Option<usize> {
        if request.method() != "GET" {
            return None;
        }
        match *fault {
            Fault::ResetAfter(after) => Some(after),
            Fault::Breaks { .. } => {
                let mut state = self.state();
                let State { somewhere, everywhere, .. } = &mut *state;
                // Counted under the lock: other requests are on their way.
                let rule = somewhere.iter_mut().map(|(_, rule)| rule).chain(everywhere).find_map(|rule| match rule {
                    Fault::Breaks { gets, after } if *gets > 0 => Some((gets, *after)),
                    _ => None,
                });
                rule.map(|(gets, after)| {
                    *gets -= 1;
                    after
                })
            }
            _ => None,
        }
    }

    fn answer(&self, fault: &Fault, request: &Message) -> Result<Message> {
        let error = |status: u16, code: &str| {
            let text = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code} of the test</Message>\
                 <RequestId>test</RequestId></Error>"
            );
            Message::new(
                &format!("HTTP/1.1 {status} {code}"),
                &[("content-type", "application/xml")],
                text.into_bytes(),
            )
        };
        let target = format!("{} {}", request.method(), request.start().split(' ').nth(1).unwrap_or_default());
        match fault {
            Fault::Status(status, code) => return Ok(error(*status, code)),
            Fault::XmlError => return Ok(error(200, "InternalError")),
            Fault::Stale => {
                if let Some(kept) = self.state().kept.get(&target) {
                    let known =
                        kept.header("etag").filter(|etag| request.header("if-none-match").as_ref() == Some(etag));
                    return Ok(known.map_or_else(
                        || kept.clone(),
                        |etag| Message::new("HTTP/1.1 304 Not Modified", &[("etag", &etag)], vec![]),
                    ));
                }
            }
            _ => {}
        }
        let mut forward = request.clone();
        forward.set("connection", "close");
        forward.remove("expect");
        if *fault == Fault::OtherEtag {
            forward.remove("if-none-match");
            forward.remove("if-match");
        }
        let mut upstream = TcpStream::connect(self.upstream)?;
        upstream.write_all(&forward.bytes())?;
        let mut answer = read_message(&mut upstream, request.method() == "HEAD")?;
        answer.remove("connection");
        if answer.status() == 200 && request.header("range").is_none() && answer.body.len() < 1 << 20 {
            self.state().kept.insert(target, answer.clone());
        }
        match fault {
            Fault::Flip if !answer.body.is_empty() => {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
            }
            Fault::Shorten(most) => {
                answer.body.truncate(*most);
                answer.set("content-length", &answer.body.len().to_string());
            }
            Fault::OtherEtag => {
                let other = format!("\"{:032x}\"", self.number.fetch_add(1, Ordering::Relaxed));
                answer.set("etag", &other);
            }
            _ => {}
        }
        Ok(answer)
    }

    /// Whether the connection can take another request.
    fn send(
        &self,
        client: &mut TcpStream,
        request: &Message,
        answer: &Message,
        fault: &Fault,
        resets: Option<usize>,
        id: u64,
    ) -> Result<bool> {
        self.note(id, |seen| seen.status = answer.status());
        client.write_all(&answer.head())?;
        let body: &[u8] = if request.method() == "HEAD" { &[] } else { &answer.body };
        let most = resets.unwrap_or(match *fault {
            Fault::Truncate(most) => most,
            _ => body.len(),
        });
        let body = &body[..most.min(body.len())];
        let mut sent = 0;
        while sent < body.len() {
            let chunk = match *fault {
                // Ten times a second, or byte by byte.
                Fault::Slow(rate) if self.fault(request) == *fault => {
                    let chunk = (rate / 10).max(1);
                    std::thread::park_timeout(Duration::from_secs_f64(chunk as f64 / rate as f64));
                    chunk
                }
                _ => 64 << 10,
            };
            let end = (sent + chunk).min(body.len());
            client.write_all(&body[sent..end])?;
            self.note(id, |seen| seen.sent = end);
            sent = end;
        }
        if resets.is_some() {
            // What was written should arrive before the reset does.
            std::thread::park_timeout(Duration::from_millis(20));
            return Ok(false);
        }
        Ok(!matches!(fault, Fault::Truncate(_)))
    }

    /// Until the fault ends or the client leaves.
    fn pause_while(&self, request: &Message, fault: &Fault, client: &TcpStream) {
        let _ = client.set_read_timeout(Some(Duration::from_millis(20)));
        while self.fault(request) == *fault && !self.end.load(Ordering::Relaxed) {
            if matches!((&mut &*client).read(&mut [0]), Ok(0)) {
                return;
            }
        }
    }
}
