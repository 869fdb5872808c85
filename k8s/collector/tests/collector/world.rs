//! A small fleet that Prometheus scrapes, with a past, and what the collector needs to measure it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::process::{Collector, Onnxd, Prometheus, folder};

/// Queries of the fleet below.
const SOURCES: &str = "
[[sources]]
name = \"pods\"
labels = [\"namespace\", \"pod\"]
cpu = 'max by (namespace, pod) (test_cpu)'
memory = 'max by (namespace, pod) (test_memory)'
disk_io = 'max by (namespace, pod) (test_disk_io)'
faults = 'max by (namespace, pod) (test_fault)'
";

/// Seconds between two ticks of these tests.
pub const STEP: u64 = 2;

/// CPU, memory and disk I/O of a pod that nothing is wrong with.
pub const LEVELS: [f64; 3] = [20.0, 40.0, 30.0];

/// What a pod shows: CPU, memory, disk I/O, and whether something is done to it.
type Pods = BTreeMap<String, ([f64; 3], bool)>;

/// Pods that are scraped. They end with the process.
pub struct Fleet {
    pods: Arc<Mutex<Pods>>,
    /// What others export, beside the pods.
    others: Arc<Mutex<String>>,
    pub port: u16,
}

impl Fleet {
    fn start(names: &[&str]) -> Self {
        let pods = names.iter().map(|name| ((*name).to_owned(), (LEVELS, false)));
        let pods = Arc::new(Mutex::new(pods.collect::<Pods>()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let others = Arc::new(Mutex::new(String::new()));
        let (shared, more) = (Arc::clone(&pods), Arc::clone(&others));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.read(&mut [0; 4096]);
                let body = page(&shared.lock().expect("pods"), now()) + more.lock().expect("a page").as_str();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { pods, others, port }
    }

    /// Changes what a pod shows.
    pub fn set(&self, pod: &str, values: [f64; 3]) {
        self.pods.lock().expect("pods").get_mut(pod).expect("a pod").0 = values;
    }

    pub fn fault(&self, pod: &str, fault: bool) {
        self.pods.lock().expect("pods").get_mut(pod).expect("a pod").1 = fault;
    }

    /// Changes what others export: lines of the text format.
    pub fn others(&self, page: &str) {
        *self.others.lock().expect("a page") = page.to_owned();
    }

    /// A pod without a past.
    pub fn add(&self, pod: &str) {
        self.pods.lock().expect("pods").insert(pod.to_owned(), (LEVELS, false));
    }

    pub fn remove(&self, pod: &str) {
        self.pods.lock().expect("pods").remove(pod);
    }
}

pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(now.as_secs()).expect("a time")
}

/// A number from -1 to 1 that each pod and second has for itself.
fn noise(pod: &str, time: i64) -> f64 {
    let seed = pod.bytes().fold(time.unsigned_abs(), |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mixed = (seed ^ (seed >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 40) as f64) / f64::from(1 << 23) - 1.0
}

fn labels(pod: &str) -> String {
    let (namespace, pod) = pod.split_once('/').expect("a namespace");
    // A label's value as Prometheus reads it: the names may hold anything.
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("namespace=\"{}\",pod=\"{}\"", quoted(namespace), quoted(pod))
}

fn page(pods: &Pods, time: i64) -> String {
    let mut out = String::new();
    for (pod, (values, fault)) in pods {
        let (labels, noise) = (labels(pod), noise(pod, time));
        for (name, value) in ["test_cpu", "test_memory", "test_disk_io"].iter().zip(values) {
            let _ = writeln!(out, "{name}{{{labels}}} {}", value + noise);
        }
        let _ = writeln!(out, "test_fault{{{labels}}} {}", u8::from(*fault));
    }
    out
}

/// Twenty minutes of the past as OpenMetrics, a sample every ten seconds, until now.
fn history(names: &[&str]) -> String {
    let mut out = String::new();
    let until = now();
    for (name, level) in ["test_cpu", "test_memory", "test_disk_io"].into_iter().zip(LEVELS) {
        let _ = writeln!(out, "# TYPE {name} gauge");
        for pod in names {
            for time in (0..120).rev().map(|ago| until - 10 * ago) {
                let _ = writeln!(out, "{name}{{{}}} {} {time}", labels(pod), level + noise(pod, time));
            }
        }
    }
    out + "# EOF\n"
}

/// A fleet, its Prometheus and a server.
pub struct World {
    pub folder: TempDir,
    pub fleet: Fleet,
    pub prometheus: Prometheus,
    pub onnxd: Onnxd,
}

impl World {
    /// None where Prometheus or onnxd is not there.
    pub fn start(pods: &[&str]) -> Option<Self> {
        let folder = folder();
        let onnxd = Onnxd::start(folder.path(), &[])?;
        let fleet = Fleet::start(pods);
        let prometheus = Prometheus::start(folder.path(), &history(pods), &[fleet.port])?;
        fs::write(folder.path().join("sources.toml"), SOURCES).expect("a file");
        Some(Self { folder, fleet, prometheus, onnxd })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A collector of this fleet, with further arguments.
    pub fn collector(&self, args: &[&str]) -> Collector {
        self.collector_by("sources.toml", args)
    }

    /// The same, by the sources in another file of the folder.
    pub fn collector_by(&self, sources: &str, args: &[&str]) -> Collector {
        let sources = self.path().join(sources).display().to_string();
        let (prometheus, server, step) = (self.prometheus.url(), self.onnxd.url(), format!("{STEP}s"));
        let mut all = vec!["run", "--prometheus", &prometheus, "--server", &server, "--sources", &sources];
        all.extend(["--step", &step, "--delay", "1s", "--timeout", "1500ms"]);
        all.extend(args);
        let collector = Collector::start(self.path(), &all);
        self.prometheus.scrape(collector.ops.port());
        collector
    }

    /// The same, with faults by the default's query.
    pub fn collector_with_default_faults(&self) -> Collector {
        let default = collector::sources::Sources::parse(collector::sources::DEFAULT).expect("the default");
        let sources = SOURCES.replace("max by (namespace, pod) (test_fault)", &default.sources[0].faults);
        fs::write(self.path().join("faults.toml"), sources).expect("a file");
        self.collector_by("faults.toml", &[])
    }

    /// The same, without the readback of alerts.
    pub fn forgetful(&self, args: &[&str]) -> Collector {
        let own =
            "[own]\ndetected = 'anomaly_detected > 2'\nlast_tick = 'max(collector_last_tick_timestamp_seconds)'\n";
        fs::write(self.path().join("forgetful.toml"), format!("{SOURCES}{own}")).expect("a file");
        self.collector_by("forgetful.toml", args)
    }
}

/// A server that answers every request with bytes without end.
pub fn endless() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
            });
        }
    });
    port
}
