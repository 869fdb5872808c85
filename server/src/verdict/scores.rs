//! How scores are distributed: of both models, and of the differences between them.

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Bins of each histogram.
pub const BINS: usize = 64;
/// Scores are told apart from minus this to this, in the space of their bins.
const REACH: f64 = 8.0;
/// Width of a bin in that space.
const WIDTH: f64 = 2.0 * REACH / 64.0;
/// The least difference that is told from none.
const LEAST_DIFFERENCE: f64 = 1e-6;
/// Bins of a decade of differences.
const IN_A_DECADE: f64 = 4.0;

/// Histograms of scores, none of which has bins before its first value.
///
/// Scores from 0 to 1 are in logit space, from -8 to 8: bin `i` is from `i/4 - 8` on. Those outside are in the space of the
/// inverse hyperbolic sine, with the same bins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// The champion's.
    pub champion: Histogram,
    /// The challenger's.
    pub challenger: Histogram,
    /// The champion's outside of 0 to 1.
    pub champion_outside: Histogram,
    /// The challenger's outside of 0 to 1.
    pub challenger_outside: Histogram,
    /// The challenger's score less the champion's, logarithms with a sign: 32 bins from 0 down and 32 from 0 up, the
    /// inner ones to 10^-5.75, each further one of a quarter of a decade.
    pub differences: Histogram,
}

impl Scores {
    /// Counts a pair of finite scores.
    pub fn record(&mut self, champion: f64, challenger: f64) {
        for (score, inside, outside) in [
            (champion, &mut self.champion, &mut self.champion_outside),
            (challenger, &mut self.challenger, &mut self.challenger_outside),
        ] {
            if (0.0..=1.0).contains(&score) {
                count(inside, bin((score / (1.0 - score)).ln()));
            } else {
                count(outside, bin(score.asinh()));
            }
        }
        count(&mut self.differences, difference(challenger - champion));
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.champion, &other.champion),
            (&mut self.challenger, &other.challenger),
            (&mut self.champion_outside, &other.champion_outside),
            (&mut self.challenger_outside, &other.challenger_outside),
            (&mut self.differences, &other.differences),
        ] {
            if theirs.counts.len() == BINS {
                mine.counts.resize(BINS, 0);
                mine.merge(theirs);
            }
        }
    }

    /// Pairs of scores.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.differences.total()
    }

    /// How far the challenger's scores are distributed from the champion's, see [`Histogram::psi`].
    #[must_use]
    pub fn psi(&self) -> f64 {
        both(&self.champion, &self.champion_outside).psi(&both(&self.challenger, &self.challenger_outside))
    }

    /// All distances; `None` without scores. That of distribution functions is of those from 0 to 1 where there are any, else of
    /// those outside: the two have different scales.
    #[must_use]
    pub fn distances(&self) -> Option<Distances> {
        let outside = self.champion.total() == 0;
        let (a, b) = match outside {
            true => (&self.champion_outside, &self.challenger_outside),
            false => (&self.champion, &self.challenger),
        };
        (self.pairs() > 0).then(|| Distances { psi: self.psi(), ks: a.ks(b), w1: a.w1(b, WIDTH) })
    }
}

/// The bins of both scales, one after the other.
fn both(inside: &Histogram, outside: &Histogram) -> Histogram {
    let mut counts = inside.counts.clone();
    counts.resize(BINS, 0);
    counts.extend_from_slice(&outside.counts);
    counts.resize(2 * BINS, 0);
    Histogram { counts, missing: 0 }
}

/// How far the challenger's scores are from the champion's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// Over all bins, see [`Histogram::psi`].
    pub psi: f64,
    /// The greatest difference of the distribution functions, 0 to 1, see [`Histogram::ks`].
    pub ks: f64,
    /// How far the one has to be moved to become the other, in logits, see [`Histogram::w1`]; scores outside of 0 to 1 in units of
    /// their inverse hyperbolic sine.
    pub w1: f64,
}

fn count(histogram: &mut Histogram, bin: usize) {
    // Also what came from elsewhere with other bins.
    if histogram.counts.len() != BINS {
        histogram.counts.resize(BINS, 0);
    }
    histogram.count(bin);
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 63")]
fn bin(at: f64) -> usize {
    ((at + REACH) / WIDTH).floor().clamp(0.0, 63.0) as usize
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 31")]
fn difference(by: f64) -> usize {
    let size = ((by.abs() / LEAST_DIFFERENCE).log10() * IN_A_DECADE).floor().clamp(0.0, 31.0) as usize;
    if by < 0.0 { 31 - size } else { 32 + size }
}
