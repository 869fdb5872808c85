//! When rows came, and when the challenger failed on some: by ten minutes, so that one old row is no day of data, and a
//! batch that fails as a whole, or an hour's outage, is not many failures.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::buckets::SECONDS;
use super::latest;
use super::state::Events;

/// Buckets that are kept, up to the newest: 15 days, a day more than a challenger has.
pub const MOST: u64 = 15 * 24 * 6;

/// Buckets of ten minutes in which rows came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Active {
    buckets: BTreeMap<u64, Rows>,
}

/// The rows of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    all: u64,
    failed: u64,
}

impl Active {
    /// Counts rows, all of which failed or none.
    pub fn record(&mut self, at: u64, rows: u64, failed: bool) {
        self.add(at / SECONDS, Rows { all: rows, failed: if failed { rows } else { 0 } });
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(number, rows)| self.add(*number, *rows));
    }

    fn add(&mut self, number: u64, more: Rows) {
        if let Some(rows) = latest::entry(&mut self.buckets, number, MOST) {
            rows.merge(more);
        }
    }

    /// How many.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// When the oldest began, in seconds of Unix time.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        self.buckets.first_key_value().map(|(number, _)| number.saturating_mul(SECONDS))
    }

    /// Rows that failed, of all.
    #[must_use]
    pub fn failed(&self) -> Events {
        self.buckets.values().fold(Events::default(), |mut sum, rows| {
            sum.merge(Events { events: rows.failed, trials: rows.all });
            sum
        })
    }

    /// The same where each bucket has at most one event, and then as many rows as there are for each failure in it.
    #[must_use]
    pub fn failures(&self) -> Events {
        self.buckets.values().fold(Events::default(), |mut sum, rows| {
            sum.merge(match rows.failed {
                0 => Events { events: 0, trials: rows.all },
                failed => Events { events: 1, trials: (rows.all / failed).max(1) },
            });
            sum
        })
    }
}

impl Rows {
    const fn merge(&mut self, other: Self) {
        self.all = self.all.saturating_add(other.all);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// Each bucket is an array of its number, its rows and those that failed.
impl Serialize for Active {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets.iter().map(|(number, rows)| [*number, rows.all, rows.failed]))
    }
}

impl<'de> Deserialize<'de> for Active {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut active = Self::default();
        for [number, all, failed] in Vec::<[u64; 3]>::deserialize(deserializer)? {
            active.add(number, Rows { all, failed });
        }
        Ok(active)
    }
}
