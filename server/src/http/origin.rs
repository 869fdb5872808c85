//! Where the rows of a request come from, for what is counted of them: its id, the series that they are of, their time.

use axum::http::{HeaderMap, StatusCode};

use super::State;
use super::error::Problem;
use super::head::find;
use crate::batch::Lane;
use crate::codec::marks::{Mark, SERIES_BYTES, TIME};
use crate::serving::ServingSet;
use crate::shadow::origin::{Origin, now};

/// The series that all rows of a request are of, for dialects whose rows cannot say it.
const SERIES: &str = "x-series";
/// How long ago and how far ahead a row may have been measured, in seconds: labels are waited for as long, and clocks differ.
const PAST: u64 = 24 * 3600;
const FUTURE: u64 = 300;

/// The origin of decoded rows, if anything counts them. What they tell of forecasts before is told at once. `id` is the
/// request's: the body's own goes before the head's.
///
/// # Errors
/// The header or the row's time that cannot be.
pub(super) fn of(
    state: &State,
    lane: &Lane,
    set: &ServingSet,
    headers: &HeaderMap,
    id: &[u8],
    marks: Vec<Mark>,
) -> Result<Option<Origin>, Problem> {
    let series = find(headers, SERIES).map(|series| series.as_bytes());
    if series.is_some_and(|series| series.is_empty() || series.len() > SERIES_BYTES) {
        let detail =
            format!("{SERIES} is empty or longer than {SERIES_BYTES} bytes: send the name of what was measured");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    timely(state, &marks)?;
    if !set.is_shadowed() {
        return Ok(None);
    }
    let rows = marks.len();
    let origin = Origin::new(id, series, marks);
    // Here they are counted behind the rows that they came with.
    if rows > 0 && set.compared().next().is_some() {
        state.engine.pass_on(lane, &origin.labels(rows).collect::<Vec<_>>());
    }
    Ok(Some(origin))
}

/// Times that are not of about now would put evidence where none is looked for.
///
/// # Errors
/// The row's time.
pub(super) fn timely(state: &State, marks: &[Mark]) -> Result<(), Problem> {
    if marks.is_empty() || state.engine.options().event_time {
        return Ok(());
    }
    let now = now();
    let wrong = |(_, mark): &(usize, &Mark)| mark.at.is_some_and(|at| at + PAST < now || at > now + FUTURE);
    let Some((row, mark)) = marks.iter().enumerate().find(wrong) else { return Ok(()) };
    let at = mark.at.unwrap_or_default();
    let (field, place) = if marks.len() == 1 {
        (TIME.to_owned(), String::new())
    } else {
        (format!("[{row}].{TIME}"), format!("[{row}]: "))
    };
    let off = if at < now { format!("{} s ago", now - at) } else { format!("{} s ahead", at - now) };
    let message = format!(
        "{place}{TIME} is {off}: send the time of measuring, at most {} hours ago; --event-time takes recorded ones",
        PAST / 3600
    );
    Err(crate::codec::DecodeError::Features { field, message }.into())
}
