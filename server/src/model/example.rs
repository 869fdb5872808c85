//! A row that shows how to ask a model, and its answer: the first golden sample, or else a row of small numbers.

use serde_json::{Map, Value};

use super::check;
use super::manifest::Manifest;
use super::signature::Signature;
use super::trial::Trial;
use crate::codec::encode;

/// Rows of more values than this show nobody anything.
const MOST: usize = 256;
/// Values are made up for so many rows, until they repeat.
const INVENTED: usize = 13;

/// A request and its answer.
#[derive(Clone, Debug, Default)]
pub struct Example {
    /// One row of named features; empty when the model's rows are too large to be shown.
    pub input: Map<String, Value>,
    /// The named outputs; empty when nobody wrote them down.
    pub output: Map<String, Value>,
}

impl Example {
    /// What the manifest shows, or the values that the model was tried out with.
    #[must_use]
    pub fn of(signature: &Signature, manifest: Option<&Manifest>, trial: Trial) -> Self {
        let sample = manifest.and_then(|manifest| manifest.golden.samples.first());
        match (sample, trial) {
            (Some(sample), _) => Self { input: sample.input.clone(), output: sample.expected.clone() },
            (None, Trial::Golden | Trial::Nothing) => Self::default(),
            (None, Trial::Invented(invented)) => {
                let row = check::single(&invented.rows(signature, 1), 0);
                let small = row.iter().map(|tensor| tensor.shape().iter().product::<usize>()).sum::<usize>() <= MOST;
                let input = if small { encode::request(signature, &row) } else { Map::new() };
                Self { input, output: Map::new() }
            }
        }
    }
}

/// Rows that a model runs on, as requests would send them: its golden samples, or the values that it was tried out with.
/// None of a model that no values satisfied.
#[must_use]
pub fn rows(signature: &Signature, manifest: Option<&Manifest>, trial: Trial) -> Vec<Map<String, Value>> {
    match (manifest, trial) {
        (Some(manifest), _) => manifest.golden.samples.iter().map(|sample| sample.input.clone()).collect(),
        (None, Trial::Golden | Trial::Nothing) => vec![],
        (None, Trial::Invented(invented)) => {
            let rows = invented.rows(signature, INVENTED);
            // A run of a fixed number of rows may have thousands.
            let count = check::count(&rows).min(INVENTED);
            (0..count).map(|row| encode::request(signature, &check::single(&rows, row))).collect()
        }
    }
}
