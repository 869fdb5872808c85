//! Where rows come from: by this they are counted, and found again when their labels come.

use std::sync::Arc;
use std::time::SystemTime;

use crate::codec::marks::Mark;
use crate::verdict::state::{Label, Source, Target, hash};

/// The rows of a request, or of a part of one.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// [`hash`] of the request's id.
    request: u64,
    /// [`hash`] of the series that all its rows are of, when they do not say themselves; 0 for none.
    series: u64,
    /// When it came, in seconds of Unix time.
    arrived: u64,
    /// What its rows say of themselves; empty when none does.
    marks: Option<Arc<[Mark]>>,
    /// The place of the part's first row among those that `marks` are of.
    first: usize,
    /// Rows of the request that came before these.
    before: usize,
}

/// One row of an origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) id: u64,
    pub(crate) series: u64,
    pub(crate) at: u64,
    /// What the forecast is of, as measured then.
    pub(crate) actual: Option<f64>,
}

impl Origin {
    /// The rows of a request that comes now. `id` is its `x-request-id`, `series` its `x-series`.
    #[must_use]
    pub fn new(id: &[u8], series: Option<&[u8]>, marks: Vec<Mark>) -> Self {
        Self {
            request: if id.is_empty() { 0 } else { hash(id) },
            series: series.map_or(0, hash),
            arrived: now(),
            marks: (!marks.is_empty()).then(|| marks.into()),
            first: 0,
            before: 0,
        }
    }

    /// Rows that nobody knows more of than that they come now.
    #[must_use]
    pub fn unnamed() -> Self {
        Self { arrived: now(), ..Self::default() }
    }

    /// The part of it that begins at this row.
    #[must_use]
    pub fn part(&self, first: usize) -> Self {
        Self { first: self.first + first, ..self.clone() }
    }

    /// The same rows, when so many of the request came before them.
    #[must_use]
    pub const fn after(mut self, rows: usize) -> Self {
        self.before = rows;
        self
    }

    /// The row of this number, counted from the part's first.
    pub(crate) fn place(&self, row: usize) -> Place {
        let row = self.first + row;
        let mark = self.marks.as_ref().and_then(|marks| marks.get(row)).copied().unwrap_or_default();
        let id = if self.request == 0 { 0 } else { row_id(self.request, self.before + row) };
        let series = if mark.series == 0 { self.series } else { mark.series };
        Place { id, series, at: mark.at.unwrap_or(self.arrived), actual: mark.actual }
    }

    /// What so many of its rows say became of the forecasts that were for their times.
    pub(crate) fn labels(&self, rows: usize) -> impl Iterator<Item = Label> {
        let marked = if self.marks.is_some() { rows } else { 0 };
        (0..marked).filter_map(|row| self.place(row).label())
    }
}

impl Place {
    /// What the row says became of the forecast that was for its time.
    pub(crate) fn label(self) -> Option<Label> {
        let Self { series, at, actual, .. } = self;
        let target = Target::At { series, at };
        let label = Label { target, anomaly: None, value: Some(actual?), source: Source::Metric };
        (series != 0).then_some(label)
    }
}

/// The id of a row, counted from 0, of a request whose id has this [`hash`].
#[must_use]
pub fn row_id(request: u64, row: usize) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&request.to_le_bytes());
    bytes[8..].copy_from_slice(&(row as u64).to_le_bytes());
    hash(&bytes)
}

/// Seconds of Unix time.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
