//! Whether a challenger has earned the champion's place: statistics of pairs whose error guarantee holds whenever and however
//! often one looks.
//!
//! Nothing here knows of models, HTTP or time: what is counted comes in, numbers and a decision come out. Whatever is kept is a
//! count or a whole number, so that the states of several servers merge by addition, exactly and in any order. The formulas
//! are told in `docs/verdict-statistics.md`.

pub mod active;
pub mod buckets;
pub mod draws;
pub mod drift;
pub mod estimate;
pub mod evidence;
pub mod histogram;
pub mod interval;
mod latest;
mod packed;
pub mod pending;
pub mod recorder;
pub mod rule;
pub mod scores;
mod seen;
pub mod sketch;
mod special;
pub mod state;
