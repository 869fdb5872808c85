//! What speaks against a challenger, each beyond doubt.

use super::{Case, Rule, hours};
use crate::verdict::buckets::Improvement;
use crate::verdict::draws::Told;
use crate::verdict::evidence::{Discordant, above, averaged, float};
use crate::verdict::state::{Events, Evidence};

/// Buckets of ten minutes with failures, before which nobody is rejected for them.
const LEAST_FAILURES: u64 = 2;
/// Buckets before which nobody is rejected for what is counted by rows or runs: an hour.
const LEAST_BUCKETS: usize = 6;
const PERCENT: f64 = 100.0;
/// Beyond this many percent, nobody wants to know how many.
const MOST_PERCENT: f64 = 1000.0;

impl Rule {
    /// What speaks against a challenger, each beyond doubt.
    pub(super) fn against(&self, case: &Case<'_>, found: Option<Improvement>, beta: f64) -> Vec<String> {
        let enough = -beta.ln();
        let mut reasons = self.fails(case, enough);
        // Whoever gives fewer false alarms gives fewer of the champion's, and whoever catches more gives more.
        if !case.quieter {
            reasons.extend(misses(case, self.missed, enough));
        }
        let alarms = case.raised.any;
        let (least, most) = self.alarms;
        let high = alarms.ratio_above(most) >= enough && !case.catches_more;
        let low = alarms.ratio_below(least) >= enough && !case.quieter;
        if high || low {
            let ratio = alarms.ratio().map_or("countless".to_owned(), |ratio| format!("{ratio:.2}"));
            reasons.push(format!("it gives {ratio} alarms for each of the champion's, outside of {least} to {most}"));
        }
        let Told { anomalies, normals } = case.told;
        for (labelled, what) in [(anomalies, "catches less"), (normals, "gives more false alarms")] {
            if averaged(labelled.map(|labelled| labelled.pairs.champion_is_better())) >= enough {
                let mut all = Discordant::default();
                labelled.into_iter().for_each(|labelled| all.merge(labelled.pairs));
                let Discordant { challenger, champion } = all;
                reasons.push(format!(
                    "it {what}: where labels decide, it is right in {challenger} half hours and wrong in {champion}"
                ));
            }
        }
        if let Some(found) = found.filter(|found| found.upper < -self.margin) {
            let worse = -PERCENT * found.upper;
            let by = if worse > MOST_PERCENT { "more than 10 times".into() } else { format!("at least {worse:.1} %") };
            reasons.push(format!("its forecast is worse by {by}"));
        }
        reasons.extend(self.expired(case));
        reasons
    }

    /// What speaks against one being equivalent, each beyond doubt.
    pub(super) fn against_equivalence(&self, case: &Case<'_>, beta: f64) -> Vec<String> {
        let enough = -beta.ln();
        let mut reasons = self.fails(case, enough);
        let Evidence { units, far, off, missed, .. } = *case.evidence;
        if is_early(case) {
            return reasons;
        }
        for (events, limit, what, of) in [
            (missed, self.equivalent_missed, "gives no alarm", "champion's alarms"),
            (units, self.differs, "decides otherwise", "rows"),
            (far, self.differs, "scores otherwise by more than a thousandth", "rows"),
            (off, self.differs, "forecasts otherwise by more than a thousandth", "rows"),
        ] {
            if beyond(events, limit, enough) {
                let limit = PERCENT * limit;
                reasons.push(format!("it {what} on {:.2} % of the {of}, beyond {limit:.2} %", rate(events)));
            }
        }
        reasons.extend(self.expired(case));
        reasons
    }

    /// Guards of both kinds.
    fn fails(&self, case: &Case<'_>, enough: f64) -> Vec<String> {
        let Evidence { active, slow, .. } = case.evidence;
        let mut reasons = vec![];
        // What goes wrong within ten minutes may have one reason, that is not the challenger's.
        let failures = active.failures();
        if failures.events >= LEAST_FAILURES && beyond(failures, self.errors, enough) {
            let (rate, limit) = (rate(active.failed()), PERCENT * self.errors);
            reasons.push(format!("it fails on {rate:.2} % of the rows, beyond {limit:.2} %"));
        }
        if !is_early(case) && beyond(*slow, self.slow, enough) {
            let limit = PERCENT * self.slow;
            reasons.push(format!("{:.2} % of its runs take too long, beyond {limit:.2} %", rate(*slow)));
        }
        reasons
    }

    fn expired(&self, case: &Case<'_>) -> Option<String> {
        let days = hours(self.most_time) / 24.0;
        (case.age >= self.most_time).then(|| format!("it was not promoted within {days:.0} days"))
    }
}

/// Whether all that was seen is of less than an hour: it may have one reason, that is not the challenger's.
fn is_early(case: &Case<'_>) -> bool {
    case.evidence.active.buckets() < LEAST_BUCKETS
}

fn misses(case: &Case<'_>, missed: f64, enough: f64) -> Option<String> {
    let first = case.raised.first;
    (first.misses_beyond(missed) >= enough).then(|| {
        let misses = PERCENT * (1.0 - first.share().unwrap_or_default());
        let limit = PERCENT * missed;
        format!("it misses {misses:.0} % of the champion's alarms, beyond {limit:.0} %")
    })
}

fn rate(events: Events) -> f64 {
    PERCENT * float(events.events) / float(events.trials.max(1))
}

fn beyond(events: Events, limit: f64, enough: f64) -> bool {
    above(events.events, events.trials, limit) >= enough
}
