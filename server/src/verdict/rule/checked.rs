//! Conditions, and what is said of those that do not hold.

use serde::Serialize;

/// A condition of the rule.
#[derive(Clone, Debug, Serialize)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was measured; of evidence, its logarithm.
    pub value: Option<f64>,
    /// What is needed.
    pub needs: f64,
    /// Which way to a promotion it is part of; `None` where it is needed whatever the way.
    pub route: Option<Route>,
}

/// The ways to a promotion of one that is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Its forecast is better, and its decisions are no worse.
    Forecast,
    /// Its decisions are better, and its forecast is no worse.
    Decisions,
    /// Either.
    Both,
}

/// Values nearer to zero than this are zero, but for rounding.
const ROUNDING: f64 = 1e-9;

#[derive(Default)]
pub(super) struct Checked {
    pub(super) conditions: Vec<Condition>,
    pub(super) unmet: Vec<&'static str>,
    pub(super) reasons: Vec<String>,
    route: Option<Route>,
}

impl Checked {
    /// The conditions that follow are of this way.
    pub(super) const fn of(&mut self, route: Route) -> &mut Self {
        self.route = Some(route);
        self
    }

    /// Looks at a condition, of which this is said if it does not hold; without words, it is not shown yet.
    pub(super) fn check(
        &mut self,
        name: &'static str,
        (value, needs): (Option<f64>, f64),
        holds: bool,
        words: &str,
    ) -> bool {
        let value = value.map(|value| if value.abs() < ROUNDING { 0.0 } else { value });
        self.conditions.push(Condition { name, holds, value, needs, route: self.route });
        if !holds {
            self.unmet.push(name);
            let not_shown = || format!("not shown yet: {name}");
            self.reasons.push(if words.is_empty() { not_shown() } else { words.to_owned() });
        }
        holds
    }

    /// Evidence, as its logarithm, that has to reach this.
    pub(super) fn evidence(&mut self, name: &'static str, e: f64, needs: f64) -> bool {
        self.check(name, (Some(e), needs), e >= needs, "")
    }

    /// Whether a condition was looked at and holds.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.conditions.iter().any(|condition| condition.name == name && condition.holds)
    }
}
