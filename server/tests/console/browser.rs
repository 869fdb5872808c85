//! Chromium without a window, driven over `WebDriver`: what a person sees and presses.

#![allow(clippy::print_stderr, dead_code, unreachable_pub, reason = "a part of the tests of the console")]

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{PATIENCE, Server, wait_for};

/// Says that the tests may do without.
const WITHOUT: &str = "ONNXD_TEST_WITHOUT_BROWSER";
const PROGRAMS: [&str; 2] = ["chromium", "chromedriver"];

pub const TAB: char = '\u{E004}';
pub const ENTER: char = '\u{E007}';
pub const ESCAPE: char = '\u{E00C}';

/// A browser with one page.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; `None` where there is none and the tests may do without.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let missing = PROGRAMS.iter().find(|program| !is_installed(program));
        if let Some(program) = missing {
            assert!(
                std::env::var_os(WITHOUT).is_some_and(|value| value == "1"),
                "{program} is missing: apt-get install chromium chromium-driver, or set {WITHOUT}=1 to leave these tests out"
            );
            eprintln!("left out, since {WITHOUT}=1 and {program} is missing");
            return None;
        }
        let profile = TempDir::new().expect("a temporary folder");
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("chromedriver starts");
        let told = BufReader::new(driver.stdout.take().expect("its output is piped"));
        let port = told.lines().map_while(std::result::Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port")));
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let opened = browser.ask("POST", "", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = format!("/{}", opened["sessionId"].as_str().expect("a session"));
        Some(browser)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session{}{path}", self.session);
        let (head, told) = send(self.address, method, &path, body).expect("chromedriver answers");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {told}");
        serde_json::from_str::<Value>(&told).expect("JSON")["value"].take()
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({"url": url}));
    }

    /// What a script returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The text of the first element that fits, as it is seen; empty without one.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("return document.querySelector({})?.innerText ?? ''", json!(selector)));
        text.as_str().expect("a text").to_owned()
    }

    /// Presses keys, one after the other, wherever the focus is.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let down = |key: char| json!({"type": "keyDown", "value": key.to_string()});
        let up = |key: char| json!({"type": "keyUp", "value": key.to_string()});
        let strokes: Vec<Value> = keys.chars().flat_map(|key| [down(key), up(key)]).collect();
        self.ask("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]}));
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub fn tell(&self, command: &str, with: &Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": with}))
    }

    /// Makes it as wide as this many pixels, in the light or in the dark.
    #[track_caller]
    pub fn look(&self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.tell("Emulation.setDeviceMetricsOverride", &size);
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.tell("Emulation.setEmulatedMedia", &features);
    }

    /// The whole page as PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        use base64ct::{Base64, Encoding};
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight]");
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let how = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let told = self.tell("Page.captureScreenshot", &how);
        Base64::decode_vec(told["data"].as_str().expect("base64")).expect("base64")
    }

    /// What was logged since the last call: `browser` is the console, `performance` has each request.
    #[track_caller]
    pub fn log(&self, kind: &str) -> Vec<Value> {
        self.ask("POST", "/se/log", &json!({"type": kind})).as_array().cloned().expect("a list")
    }

    /// Errors of the console since the last call.
    #[track_caller]
    pub fn errors(&self) -> Vec<String> {
        let log = self.log("browser");
        let severe = log.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Where pages sent requests since the last call, but for the browser's own.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let log = self.log("performance");
        let told = log.iter().filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
        let sent = told.filter(|told| told["message"]["method"] == "Network.requestWillBeSent");
        let of_pages = sent.filter(|told| {
            let page = told["message"]["params"]["documentURL"].as_str().unwrap_or_default();
            !page.starts_with("chrome://")
        });
        of_pages.filter_map(|told| Some(told["message"]["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Ends the browser; if it ended by itself, nobody answers.
            let _ = send(self.address, "DELETE", &format!("/session{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Asks on a connection of its own, with the name of this machine, on which `chromedriver` insists.
fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<(String, String)> {
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let length = body.len();
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    stream.get_ref().set_read_timeout(Some(PATIENCE))?;
    let message = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.get_mut().write_all(message.as_bytes())?;
    let (mut head, mut length) = (String::new(), 0);
    while stream.read_line(&mut head)? > 2 {
        let line = head.lines().next_back().unwrap_or_default().to_ascii_lowercase();
        if let Some(told) = line.strip_prefix("content-length:") {
            length = told.trim().parse().unwrap_or(0);
        }
    }
    let mut told = vec![0; length];
    stream.read_exact(&mut told)?;
    Ok((head, String::from_utf8_lossy(&told).into_owned()))
}

/// The console's address.
pub fn console(server: &Server) -> String {
    format!("http://{}/", server.ops)
}

/// Opens the console and waits until it shows the model.
#[track_caller]
pub fn opened(browser: &Browser, server: &Server) {
    browser.open(&console(server));
    shows(browser, "#main", "anomaly");
    shows(browser, "#main", "Ledger");
}

/// Waits until an element shows this; gives its text.
#[track_caller]
pub fn shows(browser: &Browser, selector: &str, text: &str) -> String {
    let last = std::cell::RefCell::new(String::new());
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for(text, || {
            let seen = browser.text(selector);
            let found = seen.contains(text).then(|| seen.clone());
            *last.borrow_mut() = seen;
            found
        })
    }));
    waited.unwrap_or_else(|_| panic!("{selector} never showed {text:?}, but:\n{}", last.borrow()))
}
