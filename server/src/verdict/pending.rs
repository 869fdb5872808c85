//! Rows that wait for their labels: the latest 65,536, found by their id or by their series and time. Only hashes and
//! numbers are kept of them.

use std::hash::{BuildHasher as _, RandomState};

use super::packed::{Bytes, Record};
use super::state::{Answer, Row, Source};

/// Rows that are kept.
pub const MOST: usize = 65_536;
/// Seconds of the rows' own time after which one is too old for a label.
pub const KEPT_SECONDS: u64 = 24 * 3600;
/// Seconds by which a label's time may differ from that of its row.
pub const NEAR_SECONDS: u64 = 30;

/// A row that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) series: u64,
    pub(super) at: u64,
    /// Scores and forecasts of the champion and of the challenger; what there is not is NaN.
    numbers: [f32; 4],
    /// Two bits for each decision, and [`SCORED`].
    decisions: u8,
    /// Sources that said whether it was an anomaly.
    labelled: u8,
    /// Sources that said what the value was.
    valued: u8,
}

/// The forecast was compared with a value.
const SCORED: u8 = 16;

impl Waiting {
    pub(super) fn new(id: u64, row: &Row) -> Self {
        let Row { series, at, champion, challenger } = *row;
        #[expect(clippy::cast_possible_truncation, reason = "models give 32 bits")]
        let number = |number: Option<f64>| number.map_or(f32::NAN, |number| number as f32);
        let decision = |answer: Answer| match answer.alarm {
            None => 0,
            Some(false) => 1,
            Some(true) => 3,
        };
        Self {
            id,
            series,
            at,
            numbers: [champion.score, challenger.score, champion.forecast, challenger.forecast].map(number),
            decisions: decision(champion) | decision(challenger) << 2,
            labelled: 0,
            valued: 0,
        }
    }

    /// Decisions of the champion and of the challenger.
    pub(super) fn alarms(&self) -> Option<(bool, bool)> {
        let decision = |shift: u8| match self.decisions >> shift & 3 {
            1 => Some(false),
            3 => Some(true),
            _ => None,
        };
        Some((decision(0)?, decision(2)?))
    }

    pub(super) fn scores(&self) -> Option<(f64, f64)> {
        self.pair(0)
    }

    pub(super) fn forecasts(&self) -> Option<(f64, f64)> {
        self.pair(2)
    }

    fn pair(&self, from: usize) -> Option<(f64, f64)> {
        let (champion, challenger) = (self.numbers[from], self.numbers[from + 1]);
        (champion.is_finite() && challenger.is_finite()).then(|| (champion.into(), challenger.into()))
    }

    /// Whether this source says for the first time whether it was an anomaly.
    pub(super) const fn first_label(&mut self, source: Source) -> bool {
        let bit = 1 << source as u8;
        let first = self.labelled & bit == 0;
        self.labelled |= bit;
        first
    }

    /// Whether this source says for the first time what the value was.
    pub(super) const fn first_value(&mut self, source: Source) -> bool {
        let bit = 1 << source as u8;
        let first = self.valued & bit == 0;
        self.valued |= bit;
        first
    }

    /// Whether its forecast is compared for the first time.
    pub(super) const fn first_score(&mut self) -> bool {
        let first = self.decisions & SCORED == 0;
        self.decisions |= SCORED;
        first
    }
}

impl Record for Waiting {
    const SIZE: usize = 3 * 8 + 4 * 4 + 3;

    fn write(&self, bytes: &mut Vec<u8>) {
        [self.id, self.series, self.at].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        self.numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(&[self.decisions, self.labelled, self.valued]);
    }

    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let (id, series, at) = (bytes.number()?, bytes.number()?, bytes.number()?);
        let mut numbers = [0.0; 4];
        for number in &mut numbers {
            *number = f32::from_le_bytes(bytes.take()?);
        }
        let [decisions, labelled, valued] = bytes.take()?;
        Some(Self { id, series, at, numbers, decisions, labelled, valued })
    }
}

/// Where a row is found by its id.
const BY_ID: usize = 0;
/// Where it is found by its series and second, if it has a series. Of several rows of one second, it is the latest.
const BY_TIME: usize = 1;

/// The latest rows, in a ring.
///
/// They are numbered, from one on, and found by two tables of the latest number of each hash; each row has the number of the one
/// before it with the same hash. Numbers that are too old end such a chain, so that a row that goes has to be taken out of
/// nothing: keeping a row writes to both tables and to the ring, and to nothing else.
#[derive(Debug, Default)]
pub(super) struct Pending {
    rows: Vec<Waiting>,
    before: Vec<[u32; 2]>,
    latest: [Vec<u32>; 2],
    /// The number of the latest row. It may begin again: what is found is compared with what was looked for.
    last: u32,
    /// Nobody outside can choose names that are all in one chain.
    keys: RandomState,
}

impl Pending {
    /// Keeps a row, in the place of the oldest if there are too many; tells its place.
    pub(super) fn push(&mut self, row: Waiting) -> usize {
        self.last = self.last.wrapping_add(1);
        let place = place(self.last);
        let mut before = [0; 2];
        for (index, named, hash) in [
            (BY_ID, row.id != 0, self.keys.hash_one(row.id)),
            (BY_TIME, row.series != 0, self.keys.hash_one((row.series, row.at))),
        ] {
            self.latest[index].resize(MOST, 0);
            if named {
                before[index] = std::mem::replace(&mut self.latest[index][slot(hash)], self.last);
            }
        }
        if place < self.rows.len() {
            (self.rows[place], self.before[place]) = (row, before);
        } else {
            self.rows.push(row);
            self.before.push(before);
        }
        place
    }

    /// The place of the latest row in an index, of those that are not too old.
    fn find(&self, index: usize, hash: u64, newest: u64, is: impl Fn(&Waiting) -> bool) -> Option<usize> {
        let mut number = *self.latest[index].get(slot(hash))?;
        let mut nearest = 0;
        loop {
            // One row back from the latest, two, and so on; whatever is not further back than what was seen is of long ago.
            let back = self.last.wrapping_sub(number) as usize + 1;
            if back > self.rows.len() || back <= nearest {
                return None;
            }
            let place = place(number);
            if is(&self.rows[place]) {
                return Some(place).filter(|place| !old(&self.rows[*place], newest));
            }
            nearest = back;
            number = self.before[place][index];
        }
    }

    pub(super) fn row(&mut self, place: usize) -> &mut Waiting {
        &mut self.rows[place]
    }

    /// The place of the row with this id.
    pub(super) fn named(&self, id: u64, newest: u64) -> Option<usize> {
        self.find(BY_ID, self.keys.hash_one(id), newest, |row| row.id == id && id != 0)
    }

    /// The place of the row of a series that is nearest to a second; of two, the earlier one.
    pub(super) fn nearest(&self, series: u64, at: u64, newest: u64) -> Option<usize> {
        let found = |at: Option<u64>| {
            let at = at?;
            let is = |row: &Waiting| row.series == series && row.at == at && series != 0;
            self.find(BY_TIME, self.keys.hash_one((series, at)), newest, is)
        };
        (0..=NEAR_SECONDS).find_map(|by| found(at.checked_sub(by)).or_else(|| found(at.checked_add(by))))
    }

    /// Places of the rows of a series from and to these seconds.
    pub(super) fn within(&self, series: u64, from: u64, to: u64, newest: u64) -> Vec<usize> {
        let inside = |row: &Waiting| row.series == series && (from..=to).contains(&row.at) && !old(row, newest);
        self.rows.iter().enumerate().filter(|(_, row)| inside(row)).map(|(place, _)| place).collect()
    }

    /// What is to be kept over a restart: all rows that are not too old, the oldest first.
    pub(super) fn save(&self, newest: u64) -> Vec<Waiting> {
        let (later, earlier) =
            self.rows.split_at(if self.rows.len() < MOST { 0 } else { place(self.last.wrapping_add(1)) });
        earlier.iter().chain(later).filter(|row| !old(row, newest)).copied().collect()
    }

    /// Goes on where another one was saved.
    pub(super) fn restore(rows: Vec<Waiting>) -> Self {
        let mut pending = Self::default();
        rows.into_iter().for_each(|row| {
            pending.push(row);
        });
        pending
    }
}

/// The place of the row with this number.
const fn place(number: u32) -> usize {
    number.wrapping_sub(1) as usize % MOST
}

#[expect(clippy::cast_possible_truncation, reason = "the rest is less than MOST")]
const fn slot(hash: u64) -> usize {
    (hash % MOST as u64) as usize
}

const fn old(row: &Waiting, newest: u64) -> bool {
    newest.saturating_sub(row.at) > KEPT_SECONDS
}
