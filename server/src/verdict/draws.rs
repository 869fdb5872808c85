//! One draw a half hour, over all series: rows near in time resemble each other, and so do the things that are measured, since
//! what happens to one of them mostly happens to many. More of them would be no more evidence.
//!
//! Of all series that such a slot could be drawn from, it is the one whose hash with the slot is the least: a fair sample, and
//! one that servers agree on, so that they have, together, what one server would have. Nothing is rounded or folded.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::evidence::{Alarms, Discordant, Given};
use super::latest;
use super::state::{Source, mix};

/// Seconds of which one draw is made.
pub const SECONDS: u64 = 1800;
/// Slots that are kept, up to the newest: 15 days, a day more than a challenger has.
pub const MOST: u64 = 15 * 48;
/// Sources of labels, each of which is tested for itself.
pub const SOURCES: usize = 4;
/// Each source with anomalies and with normal rows.
const KINDS: usize = 2 * SOURCES;
/// What a cell of alarms says.
const CHAMPION: u16 = 1;
const CHALLENGER: u16 = 2;

/// What was drawn, by half hours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draws {
    slots: BTreeMap<u64, Slot>,
}

/// Alarms of both, over all draws.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// By which of both gave the alarm, on one row of a series that has alarms: who alarms on each row is not taken for one
    /// that alarms at times.
    pub any: Alarms,
    /// The champion's first of the slot, of a series of which it gave some, by whether the challenger gave one on that very
    /// row: an answer that comes minutes late is none.
    pub first: Given,
}

/// Labelled rows, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Anomalies.
    pub anomalies: [Labelled; SOURCES],
    /// Normal rows.
    pub normals: [Labelled; SOURCES],
}

/// Labelled rows of one source and kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// Those on which exactly one is right, the first of the slot of a series that has such.
    pub pairs: Discordant,
    /// Slots in which both were right on some.
    pub right: u64,
}

impl Draws {
    /// Counts a row's decisions.
    pub fn decided(&mut self, series: u64, at: u64, champion: bool, challenger: bool) {
        if champion || challenger {
            let key = key(series, at);
            let who = (CHAMPION * u16::from(champion)) | (CHALLENGER * u16::from(challenger));
            let mut slot = Slot { any: Some(Drawn { key, cell: chance(key, at) | who }), ..Slot::default() };
            slot.first = champion.then(|| Drawn { key, cell: cell(at, challenger) });
            self.add(at / SECONDS, &slot);
        }
    }

    /// Counts the decisions on a labelled row. Labels of [`Source::Metric`] are of values alone.
    pub fn labelled(
        &mut self,
        series: u64,
        at: u64,
        (source, anomaly): (Source, bool),
        champion: bool,
        challenger: bool,
    ) {
        let Some(number) = source.number() else { return };
        let kind = 2 * number + usize::from(!anomaly);
        let mut slot = Slot::default();
        if champion != challenger {
            slot.labels[kind] = Some(Drawn { key: key(series, at), cell: cell(at, challenger == anomaly) });
        } else if champion == anomaly {
            slot.right = 1 << kind;
        } else {
            return;
        }
        self.add(at / SECONDS, &slot);
    }

    /// Adds what was drawn elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.slots.iter().for_each(|(number, slot)| self.add(*number, slot));
    }

    fn add(&mut self, number: u64, more: &Slot) {
        if let Some(slot) = latest::entry(&mut self.slots, number, MOST) {
            slot.merge(more);
        }
    }

    /// Alarms of both.
    #[must_use]
    pub fn alarms(&self) -> Raised {
        let mut raised = Raised::default();
        for slot in self.slots.values() {
            if let Some(Drawn { cell, .. }) = slot.any {
                raised.any.record(cell & CHAMPION > 0, cell & CHALLENGER > 0);
            }
            if let Some(Drawn { cell, .. }) = slot.first {
                raised.first.record(right(cell));
            }
        }
        raised
    }

    /// Labelled rows.
    #[must_use]
    pub fn labels(&self) -> Told {
        let mut told = Told::default();
        for slot in self.slots.values() {
            for (kind, drawn) in slot.labels.iter().enumerate() {
                let counts = if kind % 2 == 0 { &mut told.anomalies } else { &mut told.normals };
                let counts = &mut counts[kind / 2];
                if let Some(Drawn { cell, .. }) = drawn {
                    counts.pairs.record(right(*cell));
                }
                counts.right += u64::from(slot.right >> kind & 1);
            }
        }
        told
    }
}

/// What was drawn in one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Slot {
    /// Of the series of which either gave an alarm: who did, on the row of the least hash.
    any: Option<Drawn>,
    /// Of those of which the champion gave some: its first.
    first: Option<Drawn>,
    /// By source and kind, of those with a label on which exactly one is right: the first.
    labels: [Option<Drawn>; KINDS],
    /// A bit for each source and kind: both were right on some.
    right: u8,
}

/// A series that was drawn, by its hash with the slot, and what was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drawn {
    key: u64,
    cell: u16,
}

impl Slot {
    fn merge(&mut self, other: &Self) {
        // All that is known of the least series is known wherever it was seen: nothing of it was left out before.
        draw(&mut self.any, other.any);
        draw(&mut self.first, other.first);
        self.labels.iter_mut().zip(other.labels).for_each(|(mine, theirs)| draw(mine, theirs));
        self.right |= other.right;
    }
}

/// Takes the lesser of two; of the same series, the lesser cell.
fn draw(mine: &mut Option<Drawn>, theirs: Option<Drawn>) {
    let Some(theirs) = theirs else { return };
    match mine {
        Some(mine) if mine.key < theirs.key => {}
        Some(mine) if mine.key == theirs.key => mine.cell = mine.cell.min(theirs.cell),
        _ => *mine = Some(theirs),
    }
}

/// The hash of a series with its slot (the finalizer of `SplitMix64`, twice): 53 bits, which every reader of JSON has.
fn key(series: u64, at: u64) -> u64 {
    mix(mix(at / SECONDS) ^ series) >> 11
}

/// The hash of a row's time in its slot, above the bits of who gave the alarm.
fn chance(key: u64, at: u64) -> u16 {
    u16::try_from(mix(key ^ at) >> 50 << 2).expect("16 bits")
}

/// When in its slot a row was, and whether the challenger was right. The lesser of two is the earlier; at the same second
/// it is the one that speaks against the challenger.
fn cell(at: u64, right: bool) -> u16 {
    let second = u16::try_from(at % SECONDS).expect("a slot has 1800 seconds");
    2 * second + u16::from(right)
}

/// What a cell says of the challenger.
const fn right(cell: u16) -> bool {
    cell % 2 == 1
}

impl Serialize for Drawn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.key, self.cell).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Drawn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (key, cell) = Deserialize::deserialize(deserializer)?;
        Ok(Self { key, cell })
    }
}

impl Serialize for Draws {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.slots)
    }
}

impl<'de> Deserialize<'de> for Draws {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let slots = BTreeMap::<u64, Slot>::deserialize(deserializer)?;
        let mut draws = Self::default();
        slots.iter().for_each(|(number, slot)| draws.add(*number, slot));
        Ok(draws)
    }
}
