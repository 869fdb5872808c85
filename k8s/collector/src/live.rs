//! `collector run`: a tick is a range query from where the last one ended until now. One point is the normal case, several come
//! after an outage, and all of the last hours at the start: no state is kept but in Prometheus.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::block_in_place;

use crate::changes::Changes;
use crate::endpoint::Failure;
use crate::fleet::Point;
use crate::metrics;
use crate::prometheus::{Alerts, Prometheus};
use crate::shown::Shown;
use crate::tick::Collector;

/// The loop and where it stands.
pub struct Live {
    prometheus: Prometheus,
    collector: Collector,
    shown: Arc<Shown>,
    step: i64,
    delay: Duration,
    /// The last point that went through.
    done: Option<i64>,
    start: Option<Start>,
    changes: Changes,
}

/// What Prometheus said of the process before this one.
#[derive(Clone, Copy)]
struct Start {
    /// Points until then are learned only.
    known: i64,
    /// Whether somebody asked the server about them.
    asked: bool,
}

impl Live {
    /// Asks every `step` seconds, `delay` after the time that is asked about.
    #[must_use]
    pub fn new(prometheus: Prometheus, collector: Collector, shown: Arc<Shown>, step: i64, delay: Duration) -> Self {
        Self { prometheus, collector, shown, step, delay, done: None, start: None, changes: Changes::default() }
    }

    /// Ticks for ever.
    pub async fn run(&mut self) {
        loop {
            let newest = self.newest();
            let begin = Instant::now();
            let outcome = match self.tick(newest).await {
                Ok(true) => "ok",
                Ok(false) => "server",
                Err(failure) => {
                    self.changes.fault("prometheus", &failure.to_string());
                    self.shown.waits_for(&failure.to_string());
                    "prometheus"
                }
            };
            metrics::tick(outcome, 1);
            metrics::tick_took(begin.elapsed());
            let skipped = (self.newest() - newest) / self.step - 1;
            metrics::tick("skipped", u64::try_from(skipped).unwrap_or(0));
            while self.newest() <= newest {
                tokio::time::sleep(self.until_next()).await;
            }
        }
    }

    /// The newest time that may be asked about, Unix seconds.
    fn newest(&self) -> i64 {
        let now = self.now().as_secs();
        i64::try_from(now).unwrap_or(i64::MAX).div_euclid(self.step) * self.step
    }

    /// Now, less the delay, since 1970.
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(self.delay)
    }

    /// Until the next whole step; never longer than one, whatever the clock does.
    fn until_next(&self) -> Duration {
        let step = Duration::from_secs(self.step.unsigned_abs());
        let into = self.now().as_nanos() % step.as_nanos();
        step.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
    }

    /// Everything from the last tick until `newest`. True when the server answered too.
    async fn tick(&mut self, newest: i64) -> Result<bool, Failure> {
        let history = newest - self.collector.parameters().history_seconds();
        let oldest = history.div_euclid(self.step) * self.step;
        let start = self.start(oldest, newest).await?;
        let mut from = self.done.map_or(oldest, |done| oldest.max(done + self.step));
        let mut answered = true;
        while from <= newest {
            let until = self.prometheus.part(from, newest);
            let points = match self.prometheus.points(from, until, until == newest).await {
                Err(Failure::TooMuch(_)) if self.prometheus.shorten() => continue,
                points => points?,
            };
            let alerts = if start.asked && from <= start.known {
                match self.prometheus.alerts(from, until.min(start.known), newest).await {
                    Err(Failure::TooMuch(_)) if self.prometheus.shorten() => continue,
                    alerts => alerts?,
                }
            } else {
                Alerts::new()
            };
            self.changes.fine("prometheus");
            self.shown.ready();
            let last = points.last().map(|point| point.time);
            for point in points {
                if point.time <= start.known {
                    block_in_place(|| self.collector.learn(&point, &alerts));
                } else if point.time < newest {
                    self.collector.missed(&point);
                } else {
                    answered = self.collector.ask(&point).await.is_ok();
                }
            }
            if until == newest && last != Some(newest) {
                // Nothing is measured any more: that is shown as well.
                answered = self.collector.ask(&Point { time: newest, ..Point::default() }).await.is_ok();
            }
            self.done = Some(until);
            from = until + self.step;
        }
        Ok(answered)
    }

    async fn start(&mut self, oldest: i64, newest: i64) -> Result<Start, Failure> {
        if let Some(start) = self.start {
            return Ok(start);
        }
        let last = self.prometheus.last_tick(oldest, newest).await?.filter(|last| *last <= newest);
        self.collector.restore(last);
        // The newest point is asked about in any case.
        let before = newest - self.step;
        let start = Start { known: last.map_or(before, |last| last.min(before)), asked: last.is_some() };
        self.start = Some(start);
        let from = last.map_or_else(|| "the first one here".to_owned(), |last| format!("after that at {last}"));
        tracing::info!("first tick, {from}: the last hours are read from Prometheus");
        Ok(start)
    }
}
