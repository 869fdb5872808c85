//! The search for the knee: which rate is tried next.

use serde::Serialize;

/// Shares of the closed loop's rate that are tried one after the other until one is too much.
const LADDER: [f64; 6] = [0.25, 0.5, 0.7, 0.85, 0.95, 1.05];
/// What is tried after the last of them is so much more.
const BEYOND: f64 = 1.15;
/// Rates this close together are not told apart.
const FINE: f64 = 1.06;
/// Where even the least share is too much, so much less is tried.
const BELOW: f64 = 3.0;
/// The least share that is tried.
const LEAST: f64 = 0.005;

/// Why a rate was too much, or that it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The latency was kept.
    Kept,
    /// The p99 was above the latency.
    Slow,
    /// The p99 was above the latency, that of the server alone was not: requests left late though connections were free.
    Late,
    /// Requests were not answered well.
    Errors,
    /// Fewer were answered than came.
    NotReached,
}

/// A rate that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tried {
    /// Requests a second.
    pub rate: f64,
    /// Whether it was too much.
    pub verdict: Verdict,
}

/// The next rate to try, after what was tried and with a closed loop's rate; `None` when the knee is known.
///
/// A rate that is too much is tried once more: a machine that others use too has moments that say nothing of a server.
#[must_use]
pub fn next(tried: &[Tried], closed: f64) -> Option<f64> {
    let times = |rate: f64| tried.iter().filter(|one| one.rate.total_cmp(&rate).is_eq()).count();
    let kept = greatest_kept(tried);
    if let Some(last) = tried.last()
        && last.verdict != Verdict::Kept
        && times(last.rate) < 2
    {
        return Some(last.rate);
    }
    let is_above = |rate: f64| kept.is_none_or(|kept| rate > kept);
    let too_much = tried.iter().filter(|one| one.verdict != Verdict::Kept && is_above(one.rate)).map(|one| one.rate);
    match (kept, too_much.min_by(f64::total_cmp)) {
        (None, None) => Some(round(closed * LADDER[0])),
        (Some(kept), None) => {
            let rung = LADDER.iter().map(|share| round(closed * share)).find(|rate| *rate > kept);
            Some(rung.unwrap_or_else(|| round(kept * BEYOND)))
        }
        (None, Some(much)) => Some(round(much / BELOW)).filter(|rate| *rate > closed * LEAST && *rate < much),
        (Some(kept), Some(much)) if much > kept * FINE => {
            Some(round(f64::midpoint(kept, much))).filter(|rate| *rate > kept && *rate < much)
        }
        (Some(_), Some(_)) => None,
    }
}

/// The greatest rate that was kept.
#[must_use]
pub fn greatest_kept(tried: &[Tried]) -> Option<f64> {
    let kept = tried.iter().filter(|one| one.verdict == Verdict::Kept).map(|one| one.rate);
    kept.max_by(f64::total_cmp)
}

/// To three digits: nobody asks for 13,441.7 requests a second.
fn round(rate: f64) -> f64 {
    let unit = 10_f64.powf(rate.log10().floor() - 2.0);
    (rate / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for the knee of a server that keeps rates up to `capacity`.
    fn search(capacity: f64, closed: f64, first_fails: bool) -> Vec<Tried> {
        let mut tried: Vec<Tried> = vec![];
        while let Some(rate) = next(&tried, closed) {
            let stumbles = first_fails && tried.len() == 1;
            let verdict = if rate > capacity || stumbles { Verdict::Slow } else { Verdict::Kept };
            tried.push(Tried { rate, verdict });
            assert!(tried.len() < 40, "{tried:?}");
        }
        tried
    }

    #[test]
    fn the_knee_is_found_within_a_few_percent() {
        for share in [0.02, 0.06, 0.3, 0.6, 0.8, 0.99, 1.3] {
            for stumbles in [false, true] {
                let capacity = 12_345.0 * share;
                let tried = search(capacity, 12_345.0, stumbles);
                let knee = greatest_kept(&tried).expect("a rate that was kept");
                assert!(knee <= capacity && knee > capacity / 1.08, "{share}: {knee} of {capacity}: {tried:?}");
                assert!(tried.len() <= 18, "{share}: {} steps", tried.len());
            }
        }
    }

    #[test]
    fn what_is_never_kept_ends() {
        assert_eq!(greatest_kept(&search(0.0, 1000.0, false)), None);
    }
}
