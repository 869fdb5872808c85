//! One tick, the same for live and for recorded data: judge by what came before, ask, then learn, unless the series is in alert.

use std::sync::Arc;

use tokio::task::block_in_place;

use crate::baseline::{Parameters, Sample};
use crate::changes::Changes;
use crate::endpoint::Failure;
use crate::fleet::{Fleet, Point, Row};
use crate::labels::Labels;
use crate::metrics;
use crate::prometheus::Alerts;
use crate::rows::{Rows, Stored};
use crate::server::{Answer, Answers, Server};
use crate::shown::{Shown, States};

/// How far ahead the model forecasts, and within how much of that the server takes a value, seconds: what comes later than this
/// after the last answer judges no forecast.
const HORIZON: i64 = 300 + 30;

/// What goes through a tick.
pub struct Collector {
    fleet: Fleet,
    server: Server,
    labels: Labels,
    rows: Option<Arc<Rows>>,
    shown: Arc<Shown>,
    /// The last tick that was answered.
    answered: Option<i64>,
    changes: Changes,
}

impl Collector {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(fleet: Fleet, server: Server, labels: Labels, rows: Option<Arc<Rows>>, shown: Arc<Shown>) -> Self {
        Self { fleet, server, labels, rows, shown, answered: None, changes: Changes::default() }
    }

    /// The numbers of the definition.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        self.fleet.parameters()
    }

    /// Goes on where a process before this one ended.
    pub fn restore(&mut self, answered: Option<i64>) {
        self.answered = answered;
        if let Some(time) = answered {
            self.shown.restore(time);
        }
    }

    /// A point of which the server was asked before, by whomever: it is learned as it was then.
    pub fn learn(&mut self, point: &Point, alerts: &Alerts) {
        self.labels.faults(point);
        for (name, values) in &point.samples {
            let frozen = alerts.get(name).is_some_and(|times| times.binary_search(&point.time).is_ok());
            self.fleet.learn(name, &Sample { time: point.time, values: *values }, frozen);
        }
        self.end(point);
    }

    /// A point of which the server was not asked in time: forecasts that were made for it are judged, and it is learned.
    pub fn missed(&mut self, point: &Point) {
        self.labels.faults(point);
        let rows = block_in_place(|| self.fleet.judge(point));
        self.unanswered(point, &rows);
        self.end(point);
    }

    /// The newest point. Gives the answers by series; none for those in the warm-up.
    ///
    /// # Errors
    /// When the server does not answer: the point is learned as one that was missed.
    pub async fn ask(&mut self, point: &Point) -> Result<Vec<(Arc<str>, Option<Answer>)>, Failure> {
        self.labels.faults(point);
        let rows: Arc<[Row]> = block_in_place(|| self.fleet.judge(point)).into();
        self.shown.measured(Arc::clone(&rows));
        let warm: Vec<&Row> = rows.iter().filter(|row| row.is_warm()).collect();
        let answers = if warm.is_empty() { Ok(Answers::default()) } else { self.server.predict(&warm).await };
        let answers = match answers {
            Ok(answers) => answers,
            Err(failure) => {
                metrics::predictions("error", warm.len());
                self.changes.fault("server", &failure.to_string());
                self.unanswered(point, &rows);
                self.end(point);
                return Err(failure);
            }
        };
        metrics::predictions("ok", warm.len());
        self.changes.fine("server");
        let told = self.learn_answered(point, &rows, &answers);
        self.answered = Some(point.time);
        self.end(point);
        match self.labels.send(&self.server).await {
            Ok(()) => self.changes.fine("feedback"),
            Err(failure) => self.changes.fault("feedback", &failure.to_string()),
        }
        Ok(told)
    }

    fn learn_answered(&mut self, point: &Point, rows: &[Row], answers: &Answers) -> Vec<(Arc<str>, Option<Answer>)> {
        let mut states = States::default();
        let mut next = answers.answers.iter().copied();
        let mut told = Vec::with_capacity(rows.len());
        for row in rows {
            let answer = if row.is_warm() { next.next() } else { None };
            let frozen = answer.is_some_and(|answer| answer.anomaly);
            let learned = self.fleet.learn(&row.series, &row.sample, frozen);
            match answer {
                _ if frozen && !learned => states.frozen += 1,
                Some(_) => states.warm += 1,
                None => states.warming += 1,
            }
            told.push((Arc::clone(&row.series), answer));
        }
        let shown = told.iter().filter_map(|(series, answer)| answer.map(|answer| (Arc::clone(series), answer)));
        self.shown.answered(point.time, shown.collect(), states);
        let answers_of = told.iter().map(|(_, answer)| *answer);
        self.store(point, rows, answers_of, answers.version.as_ref());
        told
    }

    fn unanswered(&mut self, point: &Point, rows: &[Row]) {
        let judges = self.answered.is_some_and(|answered| point.time <= answered + HORIZON);
        for row in rows {
            if judges && row.is_warm() {
                self.labels.value(&row.series, point.time, row.sample.values[0]);
            }
            self.fleet.learn(&row.series, &row.sample, false);
        }
        self.store(point, rows, rows.iter().map(|_| None), None);
    }

    fn store(
        &self,
        point: &Point,
        rows: &[Row],
        answers: impl Iterator<Item = Option<Answer>>,
        version: Option<&Arc<str>>,
    ) {
        let Some(store) = &self.rows else { return };
        let stored = rows.iter().zip(answers).map(|(row, answer)| Stored {
            row: row.clone(),
            fault: point.faults.binary_search(&row.series).is_ok(),
            answer,
            version: answer.and(version.cloned()),
        });
        store.push(stored);
    }

    fn end(&mut self, point: &Point) {
        self.fleet.forget(point.time);
        metrics::refused(self.fleet.take_refused());
    }

    /// Sends what is known of faults that go on: no more will be seen of them.
    pub async fn finish(&mut self) {
        self.labels.end_faults();
        if let Err(failure) = self.labels.send(&self.server).await {
            self.changes.fault("feedback", &failure.to_string());
        }
    }
}
