//! The last tick as gauges, and whether the collector is ready: what the operations port shows.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::baseline::CHANNELS;
use crate::fleet::Row;
use crate::metrics::{BUILD_INFO, DETECTED, FORECAST, Gauge, LAST_TICK, SCORE, SERIES, VALUE, ZSCORE};
use crate::server::Answer;

/// Gauges are shown for this many steps. One tick that fails is a restart of somebody; after three nobody should act on what
/// was true before them.
const STEPS: u32 = 3;

/// How many series of the last tick are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// They were judged.
    pub warm: usize,
    /// They have too few samples, or no memory.
    pub warming: usize,
    /// They are in alert, and are not learned.
    pub frozen: usize,
}

/// What a tick measured, and when that was shown.
struct Measured {
    since: Instant,
    rows: Arc<[Row]>,
}

/// What the server said, and when that was shown.
struct Answered {
    since: Instant,
    answers: Vec<(Arc<str>, Answer)>,
    states: States,
}

struct State {
    ready: Result<(), String>,
    measured: Option<Measured>,
    answered: Option<Answered>,
    last_tick: Option<i64>,
}

/// The last tick, as everybody may see it.
pub struct Shown {
    state: Mutex<State>,
    fresh: Duration,
}

impl Shown {
    /// Nothing yet. `step` says how long gauges are worth showing.
    #[must_use]
    pub fn new(step: Duration) -> Self {
        let ready = Err("no tick yet: Prometheus was not asked".to_owned());
        let state = State { ready, measured: None, answered: None, last_tick: None };
        Self { state: Mutex::new(state), fresh: step * STEPS }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready from now on: the data came. It stays so, since who is not ready is easily not looked at, faults included.
    pub fn ready(&self) {
        self.lock().ready = Ok(());
    }

    /// Why it is not ready, if it never was.
    pub fn waits_for(&self, reason: &str) {
        let mut state = self.lock();
        if state.ready.is_err() {
            state.ready = Err(reason.to_owned());
        }
    }

    /// Whether the collector is ready, or why not.
    ///
    /// # Errors
    /// The reason, in words.
    pub fn is_ready(&self) -> Result<(), String> {
        self.lock().ready.clone()
    }

    /// What a tick measured.
    pub fn measured(&self, rows: Arc<[Row]>) {
        self.lock().measured = Some(Measured { since: Instant::now(), rows });
    }

    /// What the server said of the tick at `time`, Unix seconds.
    pub fn answered(&self, time: i64, answers: Vec<(Arc<str>, Answer)>, states: States) {
        let mut state = self.lock();
        state.last_tick = Some(time);
        state.answered = Some(Answered { since: Instant::now(), answers, states });
    }

    /// The last tick of the process before this one.
    pub fn restore(&self, time: i64) {
        self.lock().last_tick.get_or_insert(time);
    }

    /// The gauges in the text format of Prometheus, those that are stale left out.
    #[must_use]
    pub fn render(&self) -> String {
        let state = self.lock();
        let mut out = String::new();
        head(&mut out, BUILD_INFO);
        line(&mut out, BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        if let Some(measured) = state.measured.as_ref().filter(|measured| measured.since.elapsed() < self.fresh) {
            for (gauge, value) in [
                (ZSCORE, (|row, i| f64::from(row.features[i])) as fn(&Row, usize) -> f64),
                (VALUE, |row, i| row.sample.values[i]),
            ] {
                head(&mut out, gauge);
                for row in measured.rows.iter() {
                    for (i, channel) in CHANNELS.iter().enumerate() {
                        line(&mut out, gauge, &[("series", &row.series), ("channel", channel)], value(row, i));
                    }
                }
            }
        }
        if let Some(answered) = state.answered.as_ref().filter(|answered| answered.since.elapsed() < self.fresh) {
            for (gauge, value) in [
                (SCORE, (|answer| answer.score) as fn(&Answer) -> Option<f64>),
                (DETECTED, |answer| Some(f64::from(u8::from(answer.anomaly)))),
                (FORECAST, |answer| answer.forecast),
            ] {
                head(&mut out, gauge);
                for (series, answer) in &answered.answers {
                    line(&mut out, gauge, &[("series", series)], value(answer).unwrap_or(f64::NAN));
                }
            }
            let States { warm, warming, frozen } = answered.states;
            head(&mut out, SERIES);
            for (name, count) in [("warm", warm), ("warming", warming), ("frozen", frozen)] {
                line(&mut out, SERIES, &[("state", name)], count as f64);
            }
        }
        if let Some(time) = state.last_tick {
            head(&mut out, LAST_TICK);
            line(&mut out, LAST_TICK, &[], time as f64);
        }
        out
    }
}

fn head(out: &mut String, (name, help): Gauge) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
}

/// One sample; none where there is no number.
fn line(out: &mut String, (name, _): Gauge, labels: &[(&str, &str)], value: f64) {
    if !value.is_finite() {
        return;
    }
    out.push_str(name);
    for (i, (label, text)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"", if i == 0 { '{' } else { ',' });
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}
