//! What is measured and by which queries: a small TOML file, with a default in the program.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

/// The default, as `collector run --print-config` shows it.
pub const DEFAULT: &str = include_str!("sources.toml");

/// All sources.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// In the order of the file.
    pub sources: Vec<Source>,
    /// The collector's own metrics; left out, those of the default.
    #[serde(default)]
    pub own: Own,
}

/// Series of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// For messages.
    pub name: String,
    /// They name a series: their values with `/` between.
    pub labels: Vec<String>,
    /// CPU, percent of the limit.
    pub cpu: String,
    /// Memory, percent of the limit.
    pub memory: String,
    /// Disk operations a second.
    pub disk_io: String,
    /// A series is faulty while its sample is above 0. Empty: nobody knows of faults.
    #[serde(default)]
    pub faults: String,
}

/// Queries of the collector's own metrics.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Own {
    /// For each series in alert, by the label `series`: the time of the tick that said so.
    pub detected: String,
    /// The time of the last tick that was answered.
    pub last_tick: String,
}

impl Default for Own {
    fn default() -> Self {
        #[derive(Deserialize)]
        struct Only {
            own: Own,
        }
        toml::from_str::<Only>(DEFAULT).expect("the tests read it").own
    }
}

impl Sources {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// In words, with the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let sources: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if sources.sources.is_empty() {
            return Err("there is no source: add [[sources]], as `collector run --print-config` shows".into());
        }
        let mut names = HashSet::new();
        for source in &sources.sources {
            let name = &source.name;
            if !names.insert(name) {
                return Err(format!("two sources have the name {name:?}: give each its own"));
            }
            if source.labels.is_empty() || source.labels.iter().any(String::is_empty) {
                return Err(format!("source {name:?}: labels is empty: name those that tell series apart"));
            }
            let queries = [("cpu", &source.cpu), ("memory", &source.memory), ("disk_io", &source.disk_io)];
            if let Some((key, _)) = queries.iter().find(|(_, query)| query.trim().is_empty()) {
                return Err(format!("source {name:?}: {key} is empty: write a query"));
            }
        }
        Ok(sources)
    }

    /// The text of `file`, or the default, and what it says.
    ///
    /// # Errors
    /// In words, with the file's name.
    pub fn load(file: Option<&Path>) -> Result<(String, Self), String> {
        let Some(file) = file else { return Ok((DEFAULT.to_owned(), Self::parse(DEFAULT)?)) };
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let sources = Self::parse(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok((text, sources))
    }
}
