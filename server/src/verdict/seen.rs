//! Which series were already drawn in a bucket, in bounded memory.

use std::collections::HashMap;
use std::mem::swap;

/// Series that are remembered, in each of two generations.
const HALF: usize = 32_768;

/// The latest bucket of each series. When there are too many series, those that were not seen for longest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Seen {
    recent: HashMap<u64, u64>,
    before: HashMap<u64, u64>,
}

impl Seen {
    /// Whether nothing of the series was seen in this bucket or a later one; from now on something was.
    pub(super) fn first(&mut self, series: u64, bucket: u64) -> bool {
        if let Some(last) = self.recent.get_mut(&series) {
            let first = bucket > *last;
            *last = bucket.max(*last);
            return first;
        }
        let last = self.before.get(&series).copied();
        if self.recent.len() >= HALF {
            swap(&mut self.recent, &mut self.before);
            self.recent.clear();
        }
        self.recent.insert(series, last.map_or(bucket, |last| bucket.max(last)));
        last.is_none_or(|last| bucket > last)
    }

    /// What is to be kept over a restart: both generations.
    pub(super) fn save(&self) -> [Vec<[u64; 2]>; 2] {
        [&self.recent, &self.before].map(|seen| seen.iter().map(|(series, bucket)| [*series, *bucket]).collect())
    }

    /// Goes on where another one was saved.
    pub(super) fn restore([recent, before]: [Vec<[u64; 2]>; 2]) -> Self {
        let map = |seen: Vec<[u64; 2]>| seen.into_iter().take(HALF).map(|[series, bucket]| (series, bucket)).collect();
        Self { recent: map(recent), before: map(before) }
    }
}
