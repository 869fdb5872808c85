//! A line of the report: a figure, its goal, and whether it is met; and the report as text and as a picture.

use std::fmt::{self, Write as _};

use serde::{Serialize, Serializer};

use super::{
    Group, Report,
    rounds::{Figure, Series, Unit},
};
use crate::{
    report::{median, micros, range},
    svg::{self, Bar},
};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One line.
#[derive(Serialize)]
pub(super) struct Line {
    pub(super) group: Group,
    pub(super) what: String,
    /// Median of the rounds: a ratio to the floor, or a figure by itself.
    pub(super) value: f64,
    pub(super) per_round: Vec<f64>,
    /// The figure by itself has one; a ratio has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<&'static str>,
    pub(super) goal: Option<Goal>,
    pub(super) is_met: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<Sides>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
}

/// What a ratio is of: medians, as they are shown.
#[derive(Serialize)]
pub(super) struct Sides {
    higher_is_better: bool,
    ours: String,
    floor: String,
    floor_is: String,
}

/// What a ratio is taken of.
pub(super) struct Over<'a> {
    /// The name of the party that is measured.
    pub(super) ours: &'a str,
    /// Those it is measured against: the best of them.
    pub(super) floors: &'a [&'a str],
    /// Rows of a request: rates are shown as rows a second.
    pub(super) rows: usize,
}

impl Line {
    /// A ratio to the best of the floors, round by round; nothing where the figure is not known of both.
    pub(super) fn ratio(
        group: Group,
        what: &str,
        series: &Series,
        figure: Figure,
        over: &Over<'_>,
        goal: Option<Goal>,
    ) -> Option<Self> {
        let floor_is = series.best(over.floors, figure)?;
        let (ours, floor) = (series.of(over.ours, figure), series.of(floor_is, figure));
        if ours.is_empty() || ours.len() != floor.len() {
            return None;
        }
        let per_round: Vec<_> = ours.iter().zip(&floor).map(|(ours, floor)| ours / floor).collect();
        let shown = |values: &[f64]| match figure.unit {
            Unit::Rate if over.rows > 1 => format!("{:.0} rows/s", median(values) * over.rows as f64),
            Unit::Rate => format!("{:.0}/s", median(values)),
            Unit::Micros => micros(Some(median(values))),
        };
        let sides = Sides {
            higher_is_better: figure.unit == Unit::Rate,
            ours: shown(&ours),
            floor: shown(&floor),
            floor_is: floor_is.to_owned(),
        };
        let what = format!("{what}: {}", figure.name);
        Some(Self { ratio: Some(sides), ..Self::number(group, &what, None, per_round, goal) })
    }

    /// A figure by itself.
    pub(super) fn number(
        group: Group,
        what: &str,
        unit: Option<&'static str>,
        per_round: Vec<f64>,
        goal: Option<Goal>,
    ) -> Self {
        let value = median(&per_round);
        let is_met = goal.map(|goal| goal.is_met(value));
        Self { group, what: what.to_owned(), value, per_round, unit, goal, is_met, ratio: None, note: String::new() }
    }

    fn shown(&self, value: f64) -> String {
        self.unit.map_or_else(|| format!("{value:.2}"), |unit| format!("{value:.1} {unit}"))
    }

    fn verdict(&self) -> &'static str {
        match self.is_met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        }
    }
}

impl Report {
    pub(super) fn markdown(&self, errors: u64) -> String {
        let mut text = format!(
            "# How near onnxd is to its floors\n\n{}{}\nMedians of {} rounds of {} s in which all take turns, and the range of \
             the rounds. A ratio is taken within a round, to the floor that is best at the figure. p99 and p99.9 at half the \
             maximum rate are of an open loop, the rest of closed ones; {errors} errors. Absolute figures drift with the \
             machine: read the ratios.\n\n\
             | | goal | measured | range | met | onnxd | floor | floor is |\n|---|---|---|---|---|---|---|---|\n",
            self.provenance.markdown(),
            if self.quick { "\n**A quick try: no figures to keep.**\n" } else { "" },
            self.rounds,
            self.seconds,
        );
        for line in &self.lines {
            let (low, high) = range(&line.per_round);
            let goal = line.goal.map(|goal| goal.to_string()).unwrap_or_default();
            let sides = match &line.ratio {
                Some(sides) => format!("{} | {} | {}", sides.ours, sides.floor, sides.floor_is),
                None => " | | ".to_owned(),
            };
            let (value, low, high) = (line.shown(line.value), line.shown(low), line.shown(high));
            // Writing to a String cannot fail.
            let _written = writeln!(
                text,
                "| {} | {goal} | **{value}** | {low} to {high} | {} | {sides} |",
                line.what,
                line.verdict()
            );
        }
        let notes = self.lines.iter().filter(|line| !line.note.is_empty());
        for line in notes {
            let _written = write!(text, "\n{}: {}\n", line.what, line.note);
        }
        text
    }

    /// The ratios.
    pub(super) fn chart(&self) -> String {
        let bars = self.lines.iter().filter_map(|line| {
            let (sides, goal) = (line.ratio.as_ref()?, line.goal?);
            let (low, high) = range(&line.per_round);
            let met = if line.is_met == Some(true) { "met" } else { "not met" };
            let note = format!("goal {goal}: {met}; {} over {}", sides.ours, sides.floor);
            Some(Bar { label: line.what.clone(), note, value: line.value, low, high })
        });
        svg::chart(
            "onnxd over its floors",
            &format!(
                "median of the rounds and their range; {}, load generator on the same cores; {}",
                self.provenance.machine, self.provenance.date
            ),
            "the floor",
            &bars.collect::<Vec<_>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        reach::rounds::{P50, THROUGHPUT, tests::series},
        report::Provenance,
    };

    fn line(goal: Goal) -> Line {
        let series = series(&[("echo-1", &[100, 40]), ("echo-2", &[90, 30]), ("onnxd", &[80, 20])]);
        let over = Over { ours: "onnxd", floors: &["echo-1", "echo-2"], rows: 1 };
        Line::ratio(Group::Rows, "64 connections", &series, THROUGHPUT, &over, Some(goal)).expect("both are known")
    }

    #[test]
    fn rounds_are_compared_with_themselves_and_with_the_best_floor() {
        let line = line(Goal::AtLeast(0.6));
        assert_eq!((line.per_round.as_slice(), line.is_met), (&[0.8, 0.5][..], Some(true)));
        assert!((line.value - 0.65).abs() < 1e-9);
        assert_eq!(line.ratio.map(|sides| sides.floor_is).as_deref(), Some("echo-1"));
    }

    #[test]
    fn a_figure_that_is_not_known_of_both_has_no_line() {
        let series = series(&[("echo-1", &[100]), ("onnxd", &[80])]);
        let over = |ours| Over { ours, floors: &["echo-1"], rows: 1 };
        assert!(Line::ratio(Group::Rows, "", &series, P50, &over("nobody"), None).is_none());
        let latency = Line::ratio(Group::Rows, "", &series, P50, &over("onnxd"), Some(Goal::AtMost(1.2)));
        let latency = latency.expect("both are known");
        assert_eq!(latency.is_met, Some(false), "125 us over 100 us");
    }

    #[test]
    fn a_report_has_the_goal_beside_the_figure() {
        let mut number = Line::number(Group::Start, "first answer", Some("ms"), vec![90.0, 95.0, 120.0], None);
        number.note = "three starts".to_owned();
        let lines = vec![line(Goal::AtLeast(0.9)), number];
        let provenance = Provenance::now(None);
        let report = Report { provenance, rounds: 2, seconds: 1.0, quick: false, lines, measurements: Vec::new() };
        let text = report.markdown(0);
        let row =
            "| 64 connections: throughput | at least 0.9 | **0.65** | 0.50 to 0.80 | **no** | 50/s | 70/s | echo-1 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| first answer |  | **95.0 ms** | 90.0 ms to 120.0 ms |  |  | |  |"), "{text}");
        assert!(text.ends_with("\nfirst answer: three starts\n"), "{text}");
        let json = serde_json::to_value(&report).expect("it is written");
        assert_eq!((&json["lines"][0]["goal"], &json["lines"][0]["is_met"]), (&"at least 0.9".into(), &false.into()));
        let chart = report.chart();
        assert!(chart.contains("goal at least 0.9: not met") && !chart.contains("first answer"), "{chart}");
    }
}
