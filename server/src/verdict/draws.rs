//! One draw for each series and bucket of time: requests near in time resemble each other, so that more of them would
//! be no more evidence. Draws keep their identity, so that two servers that saw the same series in the same bucket
//! have, together, what one server would have.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::buckets::SECONDS;
use super::evidence::{Alarms, Discordant, Given};
use super::state::Source;

/// Draws of alarms that keep their identity, the latest; what is older is but counted.
pub const MOST_ALARMS: usize = 4096;
/// The same, of labels.
pub const MOST_LABELS: usize = 2048;
/// Sources of labels, each of which is tested for itself.
pub const SOURCES: usize = 4;

/// What was drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Draws {
    alarms: Latest<Raised, 2, MOST_ALARMS>,
    labels: Latest<Told, { 2 * SOURCES }, MOST_LABELS>,
}

/// Alarms of both, over all draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Raised {
    /// By whether each gave any in the bucket.
    pub any: Alarms,
    /// The champion's first of each bucket, by whether the challenger gave one on that very row: an answer that comes
    /// minutes late is none.
    pub first: Given,
}

/// Labelled rows on which exactly one is right, the first of each draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// By source, of anomalies.
    pub anomalies: [Discordant; SOURCES],
    /// By source, of normal rows.
    pub normals: [Discordant; SOURCES],
}

impl Draws {
    /// Counts a row's decisions.
    pub fn decided(&mut self, series: u64, at: u64, champion: bool, challenger: bool) {
        if champion || challenger {
            let first = if champion { cell(at, challenger) } else { 0 };
            self.alarms.draw((at / SECONDS, series), [first, u16::from(challenger)]);
        }
    }

    /// Counts a labelled row on which exactly one is right. Labels of [`Source::Metric`] are of values alone.
    pub fn labelled(&mut self, series: u64, at: u64, source: Source, anomaly: bool, challenger: bool) {
        if let Some(number) = source.number() {
            let mut cells = [0; 2 * SOURCES];
            cells[2 * number + usize::from(!anomaly)] = cell(at, challenger);
            self.labels.draw((at / SECONDS, series), cells);
        }
    }

    /// Adds what was drawn elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.alarms.merge(&other.alarms);
        self.labels.merge(&other.labels);
    }

    /// Alarms of both.
    #[must_use]
    pub fn alarms(&self) -> Raised {
        self.alarms.counts()
    }

    /// Labelled rows on which exactly one is right.
    #[must_use]
    pub fn labels(&self) -> Told {
        self.labels.counts()
    }
}

/// When in its bucket a row was, and whether the challenger was right. The lesser of two is the earlier; at the same
/// second it is the one that speaks against the challenger. 0 is for none.
fn cell(at: u64, right: bool) -> u16 {
    let second = u16::try_from(at % SECONDS).expect("a bucket has 600 seconds");
    1 + 2 * second + u16::from(right)
}

/// What a cell says of the challenger.
const fn right(cell: u16) -> bool {
    cell.is_multiple_of(2)
}

/// What draws of a kind are counted as.
trait Counts<const N: usize>: Copy + Default {
    fn count(&mut self, cells: &[u16; N]);
    fn merge(&mut self, other: &Self);
}

impl Counts<2> for Raised {
    fn count(&mut self, [first, challenger]: &[u16; 2]) {
        self.any.record(*first > 0, *challenger > 0);
        if *first > 0 {
            self.first.record(right(*first));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.any.merge(other.any);
        self.first.merge(other.first);
    }
}

impl Counts<{ 2 * SOURCES }> for Told {
    fn count(&mut self, cells: &[u16; 2 * SOURCES]) {
        for (source, [anomaly, normal]) in cells.as_chunks().0.iter().enumerate() {
            for (cell, counts) in [(*anomaly, &mut self.anomalies), (*normal, &mut self.normals)] {
                if cell > 0 {
                    counts[source].record(right(cell));
                }
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        for source in 0..SOURCES {
            self.anomalies[source].merge(other.anomalies[source]);
            self.normals[source].merge(other.normals[source]);
        }
    }
}

/// The latest draws by bucket and series, at most `MOST`, and the counts of those before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Latest<C, const N: usize, const MOST: usize> {
    draws: BTreeMap<(u64, u64), Cells<N>>,
    older: C,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cells<const N: usize>([u16; N]);

impl<const N: usize> Cells<N> {
    /// The first of either, cell by cell.
    fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            if theirs > 0 && (*mine == 0 || theirs < *mine) {
                *mine = theirs;
            }
        }
    }
}

impl<C: Counts<N>, const N: usize, const MOST: usize> Latest<C, N, MOST> {
    /// A row that comes after its draw may have been counted is left out, so that nothing is counted twice.
    fn draw(&mut self, key: (u64, u64), cells: [u16; N]) {
        let full = self.draws.len() >= MOST;
        if full && self.draws.first_key_value().is_some_and(|(first, _)| key < *first) {
            return;
        }
        self.add(key, Cells(cells));
        self.fold();
    }

    fn add(&mut self, key: (u64, u64), cells: Cells<N>) {
        self.draws.entry(key).and_modify(|mine| mine.merge(cells)).or_insert(cells);
    }

    fn fold(&mut self) {
        while self.draws.len() > MOST
            && let Some((_, cells)) = self.draws.pop_first()
        {
            self.older.count(&cells.0);
        }
    }

    fn merge(&mut self, other: &Self) {
        other.draws.iter().for_each(|(key, cells)| self.add(*key, *cells));
        self.older.merge(&other.older);
        self.fold();
    }

    fn counts(&self) -> C {
        let mut counts = self.older;
        self.draws.values().for_each(|cells| counts.count(&cells.0));
        counts
    }
}

/// As it is told: each draw is an array of its bucket, its series and its cells.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct Plain<C> {
    draws: Vec<Vec<u64>>,
    older: C,
}

impl<C: Default> Default for Plain<C> {
    fn default() -> Self {
        Self { draws: vec![], older: C::default() }
    }
}

impl<C: Counts<N> + Serialize, const N: usize, const MOST: usize> Serialize for Latest<C, N, MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plain = |((bucket, series), Cells(cells)): (&(u64, u64), &Cells<N>)| {
            [*bucket, *series].into_iter().chain(cells.iter().map(|cell| u64::from(*cell))).collect()
        };
        Plain { draws: self.draws.iter().map(plain).collect(), older: self.older }.serialize(serializer)
    }
}

impl<'de, C, const N: usize, const MOST: usize> Deserialize<'de> for Latest<C, N, MOST>
where
    C: Counts<N> + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let plain = Plain::<C>::deserialize(deserializer)?;
        let mut latest = Self { draws: BTreeMap::new(), older: plain.older };
        for draw in plain.draws {
            let [bucket, series, cells @ ..] = draw.as_slice() else {
                return Err(D::Error::custom("`draws` has one without a bucket and a series"));
            };
            let cells: Vec<u16> = cells.iter().filter_map(|cell| u16::try_from(*cell).ok()).collect();
            let cells = <[u16; N]>::try_from(cells)
                .map_err(|_| D::Error::custom(format!("`draws` has one without {N} cells of 16 bits")))?;
            latest.add((*bucket, *series), Cells(cells));
        }
        latest.fold();
        Ok(latest)
    }
}
