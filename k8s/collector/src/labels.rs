//! What the server does not learn from the rows themselves: CPU of ticks that it was not asked about, which judges forecasts
//! that were made before, and windows in which something was done to a series. Bounded; what finds no room is counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::endpoint::Failure;
use crate::fleet::Point;
use crate::metrics;
use crate::server::Server;

/// Labels that wait for a server that is away. Five minutes of 10,000 series, a tick a minute, are half of it.
const MOST: usize = 100_000;
/// The server takes no more windows in one request.
const MOST_WINDOWS: usize = 256;
/// The server takes no longer window, seconds. A longer one is told of in pieces.
const LONGEST_WINDOW: i64 = 24 * 3600;

/// What was true of a series, as `POST /feedback` takes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Label {
    #[serde(serialize_with = "text")]
    series: Arc<str>,
    #[serde(flatten)]
    truth: Truth,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Truth {
    Value { ts: i64, value: f64 },
    Window { from: i64, to: i64, anomaly: bool },
}

fn text<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// Labels that wait, and faults that go on.
pub struct Labels {
    waiting: VecDeque<Label>,
    /// First and last time of the faults that have not ended.
    faults: HashMap<Arc<str>, (i64, i64)>,
    /// Faults end when they are not seen for more than two of these, seconds.
    step: i64,
    most_series: usize,
}

impl Labels {
    /// Nothing waits.
    #[must_use]
    pub fn new(step: i64, most_series: usize) -> Self {
        Self { waiting: VecDeque::new(), faults: HashMap::new(), step, most_series }
    }

    /// CPU of a tick that the server was not asked about.
    pub fn value(&mut self, series: &Arc<str>, ts: i64, value: f64) {
        self.wait(Label { series: Arc::clone(series), truth: Truth::Value { ts, value }, source: "metric" });
    }

    /// The faults at a point: those that have ended become labels.
    pub fn faults(&mut self, point: &Point) {
        for series in &point.faults {
            let room = self.faults.len() < self.most_series;
            match self.faults.get_mut(series) {
                Some((from, last)) if point.time - *last <= 2 * self.step && point.time - *from < LONGEST_WINDOW => {
                    *last = point.time;
                }
                Some(window) => {
                    let ended = std::mem::replace(window, (point.time, point.time));
                    self.window(Arc::clone(series), ended);
                }
                None if room => {
                    self.faults.insert(Arc::clone(series), (point.time, point.time));
                }
                None => metrics::feedback("lost", 1),
            }
        }
        let end = point.time - 2 * self.step;
        let mut ended: Vec<_> = self.faults.extract_if(|_, (_, last)| *last < end).collect();
        ended.sort_unstable();
        for (series, window) in ended {
            self.window(series, window);
        }
    }

    /// Ends all faults: nothing will be seen of them.
    pub fn end_faults(&mut self) {
        let mut ended: Vec<_> = self.faults.drain().collect();
        ended.sort_unstable();
        for (series, window) in ended {
            self.window(series, window);
        }
    }

    fn window(&mut self, series: Arc<str>, (from, to): (i64, i64)) {
        self.wait(Label { series, truth: Truth::Window { from, to, anomaly: true }, source: "chaos" });
    }

    fn wait(&mut self, label: Label) {
        if self.waiting.len() == MOST {
            self.waiting.pop_front();
            metrics::feedback("lost", 1);
        }
        self.waiting.push_back(label);
    }

    /// Sends what waits. What the server refuses is given up; while it is away, all waits.
    ///
    /// # Errors
    /// When not all were taken.
    pub async fn send(&mut self, server: &Server) -> Result<(), Failure> {
        let mut result = Ok(());
        while let Some(first) = self.waiting.front() {
            let windows = matches!(first.truth, Truth::Window { .. });
            let most = if windows { MOST_WINDOWS.min(server.max_rows()) } else { server.max_rows() };
            let alike = |label: &&Label| matches!(label.truth, Truth::Window { .. }) == windows;
            let labels: Vec<&Label> = self.waiting.iter().take_while(alike).take(most).collect();
            let count = labels.len();
            match server.feedback(&labels).await {
                Ok(()) => metrics::feedback("ok", count),
                Err(away @ (Failure::Away(_) | Failure::Closed(_))) => return Err(away),
                Err(refused) => {
                    metrics::feedback("refused", count);
                    result = Err(refused);
                }
            }
            self.waiting.drain(..count);
        }
        result
    }
}
