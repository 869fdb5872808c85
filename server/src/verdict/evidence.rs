//! Evidence from counts: e-values, kept as their natural logarithms. By Ville's inequality an e-value reaches `1/alpha` with
//! probability at most `alpha` if its hypothesis is true, whenever one looks.

use std::iter::zip;

use serde::{Deserialize, Serialize};

use super::special::{ln_beta, ln_beta_below_half, ln_sum_exp};

/// Points of the mixtures of [`above`] and [`below`].
const POINTS: u32 = 64;
/// The greatest of them.
const GREATEST: f64 = 0.999;
/// The least of them.
const LEAST: f64 = 1e-6;

/// Discordant pairs: where one model is right and the other is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discordant {
    /// The challenger is right and the champion is wrong.
    pub challenger: u64,
    /// The champion is right and the challenger is wrong.
    pub champion: u64,
}

impl Discordant {
    /// Counts a pair, by whether it is the challenger that is right.
    pub const fn record(&mut self, challenger: bool) {
        let count = if challenger { &mut self.challenger } else { &mut self.champion };
        *count = count.saturating_add(1);
    }

    /// Adds what was counted elsewhere.
    pub const fn merge(&mut self, other: Self) {
        self.challenger = self.challenger.saturating_add(other.challenger);
        self.champion = self.champion.saturating_add(other.champion);
    }

    /// All of them.
    #[must_use]
    pub const fn pairs(self) -> u64 {
        self.challenger.saturating_add(self.champion)
    }

    /// ln E against "the challenger is right in at most half of them": a sequential test of `McNemar`, whose mixture is
    /// the half of a Beta(1/2, 1/2) above one half.
    #[must_use]
    pub fn challenger_is_better(self) -> f64 {
        better(self.challenger, self.champion)
    }

    /// ln E against "the champion is right in at most half of them".
    #[must_use]
    pub fn champion_is_better(self) -> f64 {
        better(self.champion, self.challenger)
    }

    /// ln E against "the challenger is right in at most this share of them".
    #[must_use]
    pub fn challenger_is_right_beyond(self, share: f64) -> f64 {
        above(self.challenger, self.pairs(), share)
    }
}

fn better(right: u64, wrong: u64) -> f64 {
    let (c, b) = (float(right) + 0.5, float(wrong) + 0.5);
    let upper_half = ln_beta(c, b) + ln_beta_below_half(b, c);
    upper_half - ln_beta(0.5, 0.5) + std::f64::consts::LN_2 + (float(right) + float(wrong)) * std::f64::consts::LN_2
}

/// ln E against "an event happens with a probability of at most `limit`", when it happened `events` times in `trials`: a
/// mixture of likelihood ratios over points above the limit, evenly spaced in their logits, of equal weight.
#[must_use]
pub fn above(events: u64, trials: u64, limit: f64) -> f64 {
    mixture(events, trials, limit, GREATEST)
}

/// ln E against "an event happens with a probability of at least `limit`": the mirror of [`above`], over points below.
#[must_use]
pub fn below(events: u64, trials: u64, limit: f64) -> f64 {
    mixture(events, trials, limit, LEAST)
}

fn mixture(events: u64, trials: u64, limit: f64, end: f64) -> f64 {
    let (x, rest) = (float(events), float(trials.saturating_sub(events)));
    let ratio = |p: f64| x * (p / limit).ln() + rest * ((1.0 - p) / (1.0 - limit)).ln();
    ln_sum_exp(points(limit, end).map(ratio)) - f64::from(POINTS).ln()
}

/// Points from a limit, which is not among them, to an end, which is.
fn points(limit: f64, end: f64) -> impl Iterator<Item = f64> + Clone {
    let logit = |p: f64| (p / (1.0 - p)).ln();
    let (first, last) = (logit(limit), logit(end));
    (1..=POINTS).map(move |i| {
        let at = (last - first).mul_add(f64::from(i) / f64::from(POINTS), first);
        1.0 / (1.0 + (-at).exp())
    })
}

/// Events of two kinds on the same trials: alarms of the champion and of the challenger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarms {
    /// Both.
    pub both: u64,
    /// The champion's alone.
    pub champion: u64,
    /// The challenger's alone.
    pub challenger: u64,
    /// Trials without any.
    pub neither: u64,
}

impl Alarms {
    /// Counts a trial.
    pub const fn record(&mut self, champion: bool, challenger: bool) {
        let count = match (champion, challenger) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.champion,
            (false, true) => &mut self.challenger,
            (false, false) => &mut self.neither,
        };
        *count = count.saturating_add(1);
    }

    /// The challenger's alarms over the champion's; `None` without any of the latter.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        let champion = self.both.saturating_add(self.champion);
        (champion > 0).then(|| float(self.both.saturating_add(self.challenger)) / float(champion))
    }

    /// ln E against "the challenger gives at most `ratio` times as many alarms": bets on each trial, `1 + l (y - ratio
    /// x)`, are fair then at best, and counts say what they came to; a mixture over stakes `l` up to the greatest that
    /// cannot lose all.
    #[must_use]
    pub fn ratio_above(self, ratio: f64) -> f64 {
        staked(ratio.max(1.0), |l| [(self.challenger, l), (self.champion, -ratio * l), (self.both, (1.0 - ratio) * l)])
    }

    /// ln E against "the challenger gives at least `ratio` times as many alarms".
    #[must_use]
    pub fn ratio_below(self, ratio: f64) -> f64 {
        staked(ratio.max(1.0), |l| [(self.champion, ratio * l), (self.challenger, -l), (self.both, (ratio - 1.0) * l)])
    }
}

/// The champion's alarms, by whether the challenger gave one on the same row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// It did.
    pub given: u64,
    /// It did not.
    pub missed: u64,
}

impl Given {
    /// Counts an alarm of the champion's.
    pub const fn record(&mut self, given: bool) {
        let count = if given { &mut self.given } else { &mut self.missed };
        *count = count.saturating_add(1);
    }

    /// The champion's alarms.
    #[must_use]
    pub const fn alarms(self) -> u64 {
        self.given.saturating_add(self.missed)
    }

    /// Share of the champion's alarms that the challenger gives as well ("positive agreement").
    #[must_use]
    pub fn share(self) -> Option<f64> {
        (self.alarms() > 0).then(|| float(self.given) / float(self.alarms()))
    }

    /// ln E against "the challenger misses at most this share of the champion's alarms".
    #[must_use]
    pub fn misses_beyond(self, share: f64) -> f64 {
        above(self.missed, self.alarms(), share)
    }

    /// ln E against "the challenger gives at most this share of the champion's alarms".
    #[must_use]
    pub fn gives_beyond(self, share: f64) -> f64 {
        above(self.given, self.alarms(), share)
    }
}

/// ln of the mean of e-values, which is an e-value itself, whatever each has to do with the others: so is what labels
/// of several sources say weighed together, without any of them in one test with another.
#[must_use]
pub fn averaged<const N: usize>(logarithms: [f64; N]) -> f64 {
    ln_sum_exp(logarithms.into_iter()) - float(N as u64).ln()
}

fn staked(most: f64, gains: impl Fn(f64) -> [(u64, f64); 3]) -> f64 {
    let wealth = (0..POINTS).map(|i| {
        let stake = (f64::from(i) + 0.5) / f64::from(POINTS) / most;
        gains(stake).iter().map(|(count, gain)| float(*count) * gain.ln_1p()).sum::<f64>()
    });
    ln_sum_exp(wealth) - f64::from(POINTS).ln()
}

/// ln E against "counts are drawn with these probabilities": the Dirichlet-multinomial around them, of weight `kappa`,
/// over the multinomial. Bins that the reference never saw count as nearly impossible.
#[must_use]
pub fn differs(counts: &[u64], probabilities: &[f64], kappa: f64) -> f64 {
    let n: f64 = counts.iter().map(|count| float(*count)).sum();
    let mut e = libm::lgamma(kappa) - libm::lgamma(kappa + n);
    for (count, p) in zip(counts, probabilities) {
        let (count, p) = (float(*count), p.max(f64::MIN_POSITIVE));
        if count > 0.0 {
            e += libm::lgamma(kappa * p + count) - libm::lgamma(kappa * p) - count * p.ln();
        }
    }
    e
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
pub(super) const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least(mut reached: impl FnMut(u64) -> bool) -> u64 {
        (1..10_000).find(|n| reached(*n)).expect("a number of pairs")
    }

    /// How many pairs of one kind it takes, as the tables of `docs/verdict-statistics.md` say.
    #[test]
    fn one_sided_evidence_takes_as_many_pairs_as_is_told() {
        // A silent challenger misses every alarm of the champion.
        assert_eq!(least(|n| above(n, n, 0.2) >= 100_f64.ln()), 4);
        // One that misses none has to show it on this many.
        assert_eq!(least(|n| above(n, n, 0.8) >= 20_f64.ln()), 16);
        let wins = |challenger| Discordant { challenger, champion: 0 };
        assert_eq!(least(|n| wins(n).challenger_is_better() >= 100_f64.ln()), 8);
        assert_eq!(least(|n| wins(n).challenger_is_right_beyond(1.0 / 3.0) >= 20_f64.ln()), 4);
    }

    /// Under its hypothesis, an e-value is one on average: exactly, summed over every outcome.
    #[test]
    fn evidence_is_fair_at_the_limit() {
        let n = 25;
        let choose =
            |k: u64| libm::lgamma(float(n) + 1.0) - libm::lgamma(float(k) + 1.0) - libm::lgamma(float(n - k) + 1.0);
        for limit in [0.001, 0.2, 1.0 / 3.0, 0.8] {
            let chance = |k: u64| choose(k) + float(k) * f64::ln(limit) + float(n - k) * f64::ln(1.0 - limit);
            for e in [above, below] {
                let mean: f64 = (0..=n).map(|k| (chance(k) + e(k, n, limit)).exp()).sum();
                assert!((mean - 1.0).abs() < 1e-9, "{limit}: {mean}");
            }
        }
        let even = |k: u64| choose(k) - float(n) * std::f64::consts::LN_2;
        let mean: f64 = (0..=n).map(|k| (even(k) + better(k, n - k)).exp()).sum();
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        // Alarms: p of the champion alone, q of the challenger alone, r of both, with q + r = ratio (p + r).
        for (p, q, r, ratio) in [(0.2, 0.35, 0.1, 1.5), (0.3, 0.2 / 3.0, 0.4, 2.0 / 3.0), (0.25, 0.25, 0.0, 1.0)] {
            let (mut high, mut low) = (0.0, 0.0);
            for champion in 0..=n {
                for challenger in 0..=n - champion {
                    for both in 0..=n - champion - challenger {
                        let neither = n - champion - challenger - both;
                        let power = |count: u64, p: f64| if count == 0 { 0.0 } else { float(count) * p.ln() };
                        let ways = choose(champion)
                            + [challenger, both, neither].iter().map(|c| -libm::lgamma(float(*c) + 1.0)).sum::<f64>()
                            + libm::lgamma(float(n - champion) + 1.0);
                        let chance = ways
                            + power(champion, p)
                            + power(challenger, q)
                            + power(both, r)
                            + power(neither, 1.0 - p - q - r);
                        let alarms = Alarms { both, champion, challenger, neither };
                        high += (chance + alarms.ratio_above(ratio)).exp();
                        low += (chance + alarms.ratio_below(ratio)).exp();
                    }
                }
            }
            assert!((high - 1.0).abs() < 1e-9 && (low - 1.0).abs() < 1e-9, "{ratio}: {high} {low}");
        }
        let p = [0.3, 0.7];
        let chance = |k: u64| choose(k) + float(k) * f64::ln(p[0]) + float(n - k) * f64::ln(p[1]);
        let mean: f64 = (0..=n).map(|k| (chance(k) + differs(&[k, n - k], &p, 100.0)).exp()).sum();
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
    }

    #[test]
    fn no_pairs_are_no_evidence() {
        assert!(Discordant::default().challenger_is_better().abs() < 1e-12);
        assert!(above(0, 0, 0.2).abs() < 1e-12);
        assert!(differs(&[0, 0], &[0.5, 0.5], 100.0).abs() < 1e-12);
    }

    /// A challenger that is wrong for once more is never more convincing.
    #[test]
    fn evidence_goes_with_the_counts() {
        for n in 1..200 {
            for k in 0..n {
                let now = Discordant { challenger: k, champion: n - k };
                let next = Discordant { challenger: k + 1, champion: n - k - 1 };
                assert!(next.challenger_is_better() > now.challenger_is_better(), "{now:?}");
                assert!(next.challenger_is_right_beyond(0.3) > now.challenger_is_right_beyond(0.3), "{now:?}");
            }
        }
    }
}
