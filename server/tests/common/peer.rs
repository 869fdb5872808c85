//! Another server of the same models: a real listener that tells what a test says, and evidence for it to tell.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use onnxd::shadow::origin::now;
use onnxd::shadow::state::{Compared, State, Version};
use onnxd::shadow::stats::Statistics;
use onnxd::verdict::buckets::SECONDS;
use onnxd::verdict::drift::Drift;
use onnxd::verdict::state::{Events, Evidence};
use serde_json::{Value, json};

const DAY: u64 = 24 * 3600;

/// A server's operations port.
pub struct Peer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, (u16, Vec<u8>)>>,
    posted: Mutex<Vec<(String, Vec<u8>)>>,
    asked: AtomicU64,
}

impl Peer {
    /// Listens on this machine, and has nothing to tell yet.
    pub fn start() -> Self {
        Self::at("127.0.0.1:0").expect("a free port")
    }

    pub fn at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let answering = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answering = Arc::clone(&answering);
                // Whoever asks may leave in between.
                std::thread::spawn(move || drop(answering.answer(&stream)));
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on, this is the answer to this path; without one, what is posted is taken.
    pub fn tell(&self, path: &str, status: u16, body: impl Into<Vec<u8>>) {
        self.shared.answers.lock().expect("no panic").insert(path.into(), (status, body.into()));
    }

    /// From now on, it tells this of its model.
    pub fn tell_state(&self, state: &State) {
        let body = serde_json::to_vec(state).expect("JSON");
        self.tell(&format!("/models/{}/shadow", state.model), 200, body);
    }

    /// Requests up to now.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// What was posted, with its path.
    pub fn posted(&self) -> Vec<(String, Vec<u8>)> {
        self.shared.posted.lock().expect("no panic").clone()
    }
}

impl Shared {
    fn answer(&self, mut stream: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        let (method, path) = {
            let mut words = line.split(' ');
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned())
        };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        self.asked.fetch_add(1, Ordering::SeqCst);
        let told = self.answers.lock().expect("no panic").get(&path).cloned();
        let (status, answer) = if method == "POST" {
            self.posted.lock().expect("no panic").push((path, body));
            told.unwrap_or_else(|| (202, b"{}".to_vec()))
        } else {
            told.unwrap_or_else(|| (404, br#"{"detail": "there is nothing at this path"}"#.to_vec()))
        };
        let head = format!("HTTP/1.1 {status} told\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(&answer)
    }
}

/// A version of a model, of these bytes.
pub fn version(version: &str, sha256: &str) -> Version {
    Version { version: version.into(), sha256: sha256.into() }
}

/// Version 1, which serves where nothing else is said.
pub fn champion() -> Version {
    version("1", &"a".repeat(64))
}

/// Version 2, beside it.
pub fn challenger() -> Version {
    version("2", &"b".repeat(64))
}

/// What a server tells that saw this of both.
pub fn told(server: &str, evidence: Evidence) -> State {
    state(server, 7, champion(), vec![compared("challenger", challenger(), evidence)])
}

/// What a server tells of these versions: epoch, champion, challengers.
pub fn state(server: &str, epoch: u64, champion: Version, challengers: Vec<Compared>) -> State {
    let state = json!({
        "model": "anomaly",
        "server": server,
        "epoch": epoch,
        "horizon_seconds": 300,
        "champion": champion,
        "challengers": challengers,
    });
    serde_json::from_value(state).expect("a state")
}

/// A version beside the champion, and what was seen of it.
pub fn compared(role: &str, version: Version, evidence: Evidence) -> Compared {
    let statistics = Statistics { pairs: evidence.requests, decisions: BTreeMap::new(), ..Statistics::default() };
    Compared { role: role.into(), version, agreement: None, statistics, evidence, drift: Drift::default() }
}

/// The versions that a real server runs as champion and challenger, and its epoch.
pub fn running(status: &Value) -> (u64, Version, Version) {
    let of = |role: &str| {
        let member = if role == "champion" { &status[role] } else { &status["challengers"][0] };
        let text = |key: &str| member[key].as_str().unwrap_or_else(|| panic!("{role}: {status}")).to_owned();
        Version { version: text("version"), sha256: text("sha256") }
    };
    (status["epoch"].as_u64().expect("a number"), of("champion"), of("challenger"))
}

/// Two days up to now of a challenger whose forecast is off by `theirs` where the champion's is off by 3; of three series, those
/// rows and draws that fall to the server number `share` of `of`. It gives the champion's alarms, and fails on no row.
pub fn two_days(theirs: f64, share: u64, of: u64) -> Evidence {
    let mut random = fastrand::Rng::with_seed(5);
    let until = (now() / SECONDS - 6) * SECONDS;
    let since = until - 2 * DAY;
    let mut evidence = Evidence { until: Some(until), ..Evidence::default() };
    evidence.series.extend([1, 2, 3]);
    for second in (since..until).step_by(60) {
        let (champion, challenger) = (3.0 + random.f64(), theirs + random.f64());
        if second / 60 % of == share {
            evidence.requests += 1;
            evidence.forecasts += 1;
            evidence.active.record(second, 1, false);
            evidence.forecast.record(second, champion, challenger);
        }
        if second % SECONDS == 0 && second / SECONDS % of == share {
            evidence.draws.decided(second / SECONDS % 3 + 1, second, true, true);
        }
    }
    let rows = Events { events: 0, trials: evidence.requests };
    (evidence.slow, evidence.units, evidence.missed) = (rows, rows, rows);
    (evidence.far, evidence.off) = (rows, rows);
    evidence
}
