//! Range queries to Prometheus, in parts that are never too large, and what their answers say of series.

use std::collections::HashMap;
use std::sync::Arc;

use reqwest::Url;
use serde::{Deserialize, Deserializer};

use crate::changes::Changes;
use crate::endpoint::{Endpoint, Failure};
use crate::fleet::Point;
use crate::metrics;
use crate::sources::{Source, Sources};

const FORM: &str = "application/x-www-form-urlencoded";
/// One answer is to have about as many bytes, where every series has every point.
const PART_BYTES: usize = 16 << 20;
/// Of one sample in an answer: a time and a number with its quotes.
const SAMPLE_BYTES: usize = 40;
/// Prometheus gives no more points of a series at once.
const MOST_POINTS: usize = 11_000;
/// Scrapes of this collector's own metrics show a tick up to this many steps after it.
const SHOWN_LATER: i64 = 3;

/// How often it is asked within a step what this collector's own metrics were: each of its ticks must be seen, whenever in its
/// step it was shown and scraped.
const LOOKS: i64 = 4;
/// Seconds for which Prometheus repeats what it scraped last.
const REPEATED: i64 = 300;

/// One series of an answer.
#[derive(Debug)]
struct Found {
    name: Arc<str>,
    /// Unix seconds and value, in the order of time.
    samples: Vec<(i64, f64)>,
}

/// The times at which each series was in alert, as the server said then.
pub type Alerts = HashMap<Arc<str>, Vec<i64>>;

/// A Prometheus server and what it is asked.
pub struct Prometheus {
    endpoint: Endpoint,
    sources: Sources,
    step: i64,
    /// Points of a part; fewer after an answer that was too large.
    points: usize,
    changes: Changes,
}

impl Prometheus {
    /// Asks `endpoint` every `step` seconds about at most `most` series.
    #[must_use]
    pub fn new(endpoint: Endpoint, sources: Sources, step: i64, most: usize) -> Self {
        let points = (PART_BYTES / (most.max(1) * SAMPLE_BYTES)).clamp(1, MOST_POINTS);
        Self { endpoint, sources, step, points, changes: Changes::default() }
    }

    /// The end of the part that begins at `from`: `until` or sooner.
    #[must_use]
    pub fn part(&self, from: i64, until: i64) -> i64 {
        let points = i64::try_from(self.points).unwrap_or(i64::MAX);
        until.min(from + (points - 1) * self.step)
    }

    /// Halves the parts after an answer that was too large. False when they cannot be smaller.
    pub fn shorten(&mut self) -> bool {
        let shorter = self.points > 1;
        self.points = (self.points / 2).max(1);
        shorter
    }

    /// All points from `from` to `until`, both whole steps, in the order of time. A point without CPU is none. `newest` says that
    /// these are the last ones there are: a query that gives nothing is told of then.
    ///
    /// # Errors
    /// When one of the queries fails: none is taken then. The message names the query.
    pub async fn points(&mut self, from: i64, until: i64, newest: bool) -> Result<Vec<Point>, Failure> {
        let mut points: HashMap<i64, Point> = HashMap::new();
        let mut owners: HashMap<Arc<str>, String> = HashMap::new();
        for source in self.sources.sources.clone() {
            let cpu = self.ask(&source, "cpu", &source.cpu, from, until).await?;
            let memory = self.ask(&source, "memory", &source.memory, from, until).await?;
            let disk = self.ask(&source, "disk_io", &source.disk_io, from, until).await?;
            if newest {
                for (found, channel) in [(&cpu, "cpu"), (&memory, "memory"), (&disk, "disk_io")] {
                    self.tell_of_nothing(&source.name, channel, found.is_empty());
                }
            }
            let (memory, disk) = (by_name(memory), by_name(disk));
            for Found { name, samples } in cpu {
                if let Some(other) = owners.insert(Arc::clone(&name), source.name.clone()) {
                    let both = format!("sources {other} and {} both have a series {name}", source.name);
                    return Err(Failure::Refused(format!("{both}: give them other labels")));
                }
                for (time, cpu) in samples {
                    let values = [cpu, at(memory.get(&name), time), at(disk.get(&name), time)];
                    points.entry(time).or_default().samples.push((Arc::clone(&name), values));
                }
            }
            if !source.faults.is_empty() {
                for Found { name, samples } in self.ask(&source, "faults", &source.faults, from, until).await? {
                    for (time, _) in samples.into_iter().filter(|(_, value)| *value > 0.0) {
                        points.entry(time).or_default().faults.push(Arc::clone(&name));
                    }
                }
            }
        }
        let mut points: Vec<Point> = points.into_iter().map(|(time, point)| Point { time, ..point }).collect();
        points.sort_unstable_by_key(|point| point.time);
        for point in &mut points {
            point.samples.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            point.faults.sort_unstable();
            point.faults.dedup();
        }
        Ok(points)
    }

    /// When a tick of this collector was last answered, as its own metrics say in `[from, until]`; none if they say nothing.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn last_tick(&mut self, from: i64, until: i64) -> Result<Option<i64>, Failure> {
        let query = self.sources.own.last_tick.clone();
        let from = until - (until - from) / REPEATED * REPEATED;
        let found = self.range("own", &query, &[], from, until, REPEATED).await;
        let found = self.counted("own", found)?;
        let times = found.iter().flat_map(|found| &found.samples).map(|(_, value)| whole(*value));
        Ok(times.max())
    }

    /// At which of the ticks in `[from, until]` each series was in alert. `newest` is the last time that may be asked about.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn alerts(&mut self, from: i64, until: i64, newest: i64) -> Result<Alerts, Failure> {
        let query = self.sources.own.detected.clone();
        let until = newest.min(until + SHOWN_LATER * self.step);
        let step = (self.step / LOOKS).max(1);
        let found = self.range("own", &query, &["series".to_owned()], from, until, step).await;
        let found = self.counted("own", found)?;
        let times = |found: Found| {
            // The value is the tick of which the scrape told.
            let mut times: Vec<i64> = found.samples.iter().map(|(_, value)| whole(*value)).collect();
            times.sort_unstable();
            times.dedup();
            (found.name, times)
        };
        Ok(found.into_iter().map(times).collect())
    }

    /// One query of a source.
    async fn ask(
        &mut self,
        source: &Source,
        channel: &'static str,
        query: &str,
        from: i64,
        until: i64,
    ) -> Result<Vec<Found>, Failure> {
        let what = format!("{}: {channel}", source.name);
        let found = self.range(&what, query, &source.labels, from, until, self.step).await;
        self.counted(channel, found)
    }

    /// A fleet may have no such series yet, or for good: that is told once.
    fn tell_of_nothing(&mut self, source: &str, channel: &str, nothing: bool) {
        let what = format!("{source}: {channel}");
        if nothing {
            self.changes.fault(&what, "the query gives no series: if there should be some, change it in --sources");
        } else {
            self.changes.fine(&what);
        }
    }

    fn counted(&self, channel: &'static str, found: Result<Vec<Found>, Failure>) -> Result<Vec<Found>, Failure> {
        let outcome = match &found {
            Ok(found) if found.is_empty() => "empty",
            Ok(_) => "ok",
            Err(_) => "error",
        };
        metrics::query(channel, outcome);
        found
    }

    async fn range(
        &mut self,
        what: &str,
        query: &str,
        labels: &[String],
        from: i64,
        until: i64,
        step: i64,
    ) -> Result<Vec<Found>, Failure> {
        let mut form = Url::parse("http://form/").expect("it is an address");
        form.query_pairs_mut()
            .append_pair("query", query)
            .append_pair("start", &from.to_string())
            .append_pair("end", &until.to_string())
            .append_pair("step", &step.to_string());
        let body = form.query().unwrap_or_default().as_bytes().to_vec();
        let named = |failure| match failure {
            Failure::Away(_) | Failure::Closed(_) => failure,
            Failure::Refused(message) => Failure::Refused(format!("{what}: {message}")),
            Failure::TooMuch(message) => Failure::TooMuch(format!("{what}: {message}")),
        };
        let reply = self.endpoint.post("/api/v1/query_range", FORM, body).await.map_err(named)?;
        let parsed = serde_json::from_slice::<Answer>(&reply.body);
        let Ok(answer) = parsed else {
            let text = String::from_utf8_lossy(&reply.body);
            let said = if reply.status.is_success() { "something that is no answer of Prometheus" } else { &text };
            return Err(named(self.endpoint.failure(reply.status, said)));
        };
        let Some(data) = answer.data.filter(|_| reply.status.is_success() && answer.status == "success") else {
            let text = answer.error;
            let too_much =
                answer.kind == "timeout" || text.contains("too many samples") || text.contains("maximum resolution");
            if too_much {
                return Err(named(Failure::TooMuch(format!("{} answers: {text}", self.endpoint.name()))));
            }
            let said = if text.is_empty() { text } else { format!("{text}: change the query: {query}") };
            return Err(named(self.endpoint.failure(reply.status, &said)));
        };
        let place = format!("{what} (warning)");
        match answer.warnings.first() {
            Some(warning) => self.changes.fault(&place, warning),
            None => self.changes.fine(&place),
        }
        series(data.result, labels).map_err(|message| named(Failure::Refused(format!("{message}: {query}"))))
    }
}

/// Names the series of an answer. Values that are not finite (a limit of 0, most likely) are left out.
fn series(results: Vec<Matrix>, labels: &[String]) -> Result<Vec<Found>, String> {
    let mut found = Vec::with_capacity(results.len());
    for one in results {
        let mut parts = Vec::with_capacity(labels.len());
        for label in labels {
            match one.metric.get(label.as_str()) {
                Some(value) if !value.is_empty() => parts.push(value.as_str()),
                _ => return Err(format!("a result has no label {label}: aggregate by ({})", labels.join(", "))),
            }
        }
        let samples = one.values.into_iter().filter(|pair| pair.1.is_finite());
        let samples: Vec<(i64, f64)> = samples.map(|pair| (whole(pair.0), pair.1)).collect();
        if !samples.is_empty() {
            found.push(Found { name: parts.join("/").into(), samples });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match found.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(format!("two results are of {:?}: aggregate by ({})", pair[0].name, labels.join(", "))),
        None => Ok(found),
    }
}

fn by_name(found: Vec<Found>) -> HashMap<Arc<str>, Vec<(i64, f64)>> {
    found.into_iter().map(|found| (found.name, found.samples)).collect()
}

/// The value of a channel at a time; NaN where it has none.
fn at(samples: Option<&Vec<(i64, f64)>>, time: i64) -> f64 {
    let found =
        |samples: &Vec<(i64, f64)>| samples.binary_search_by_key(&time, |(time, _)| *time).map(|i| samples[i].1);
    samples.and_then(|samples| found(samples).ok()).unwrap_or(f64::NAN)
}

/// Seconds as a whole number: those of Prometheus are, but for their notation.
#[expect(clippy::cast_possible_truncation, reason = "a time; what lies beyond becomes the last one there is")]
fn whole(seconds: f64) -> i64 {
    seconds.round() as i64
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
    #[serde(default)]
    error: String,
    #[serde(default, rename = "errorType")]
    kind: String,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Matrix>,
}

#[derive(Deserialize)]
struct Matrix {
    metric: HashMap<String, String>,
    #[serde(default)]
    values: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair(f64, #[serde(deserialize_with = "number")] f64);

/// A number that is written as text, such as "NaN" or "+Inf".
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    text.parse().map_err(|_| serde::de::Error::custom("a sample is no number"))
}
