//! The settings of the verdict.

use std::time::Duration;

use super::{Raw, Reader};
use crate::judge;
use crate::peers::Peers;
use crate::verdict::state::MOST_SERIES;

/// The settings of the rule, which commands take that judge.
pub(crate) const RULE: &[&str] = &[
    "verdict-rule",
    "verdict-alpha",
    "verdict-least-time",
    "verdict-most-time",
    "verdict-least-rows",
    "verdict-least-series",
];
/// Losses are kept for this long, see [`crate::verdict::buckets::MOST`].
const LONGEST_TEST: Duration = Duration::from_secs(14 * 24 * 3600);

impl Raw {
    /// How challengers are judged.
    ///
    /// # Errors
    /// One sentence for each value that cannot be used.
    pub fn verdict(&self) -> Result<judge::Settings, Vec<String>> {
        let mut reader = Reader { raw: self, mistakes: vec![] };
        let settings = reader.verdict();
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(reader.mistakes) }
    }
}

impl Reader<'_> {
    pub(super) fn verdict(&mut self) -> judge::Settings {
        let days = "a duration such as 30m, 24h or 14d, at most 14d";
        let long = |text: &str| humantime::parse_duration(text).ok().filter(|d| *d <= LONGEST_TEST).ok_or(());
        let settings = judge::Settings {
            mode: self.parse("verdict", "manual or auto", str::parse),
            kind: self.parse("verdict-rule", "better or equivalent", str::parse),
            alpha: self.parse("verdict-alpha", "a number above 0 and at most 0.2", |v| {
                v.parse().ok().filter(|alpha| *alpha > 0.0 && *alpha <= judge::MOST_ALPHA).ok_or(())
            }),
            least_time: self.parse("verdict-least-time", days, long),
            most_time: self.parse("verdict-most-time", days, long),
            least_rows: self.count("verdict-least-rows") as u64,
            least_series: self.parse("verdict-least-series", "a whole number up to 16", |v| {
                v.parse().ok().filter(|series| *series <= MOST_SERIES).ok_or(())
            }),
            interval: self.duration("verdict-interval", Duration::from_millis(100)),
            peers: self.text("peers").parse().unwrap_or_else(|reason| {
                self.mistakes.push(format!("peers: {reason}"));
                Peers::default()
            }),
        };
        if self.mistakes.is_empty() && settings.least_time >= settings.most_time {
            self.mistakes
                .push("verdict-least-time must be shorter than verdict-most-time: nobody could be promoted".into());
        }
        settings
    }
}
