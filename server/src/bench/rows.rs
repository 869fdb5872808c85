//! The rows that a model is measured with: the user's, or what its manifest shows, or values that were made up.
//!
//! Each row is kept as the JSON that a request would send and as the tensors that this becomes.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::several;
use crate::codec::decode;
use crate::model::check::Profile;
use crate::model::manifest::Manifest;
use crate::model::signature::Signature;
use crate::model::tensor::{self, Tensor};
use crate::model::{Infer, RunError, example};
use crate::replay::input::{Format, Input};
use crate::replay::rows::{Batch, Names, Plan};
use crate::text::{SENTENCE, cut, listed};
use crate::verdict::state;

/// Rows of a file that are used; further ones would tell nothing new.
const MOST: usize = 4096;
/// Their JSON together.
const MOST_BYTES: usize = 256 << 20;
/// Rows into which few of them are mixed.
const MIXED: usize = 1024;
/// Values of all mixed rows together: an image has thousands.
const MIXED_VALUES: usize = 1 << 18;
/// Rows that are tried in one run.
const TRIED: usize = 64;
/// How long one run of them may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// Rows of one shape.
#[derive(Debug)]
pub struct Rows {
    /// Where they come from, for people.
    pub from: String,
    /// As a request would send each of them.
    pub json: Vec<String>,
    /// What may not be as it was meant.
    pub warnings: Vec<String>,
    tensors: Vec<Vec<Tensor>>,
    /// What each is called in a message.
    places: Vec<String>,
}

impl Rows {
    /// The first rows of a file.
    ///
    /// # Errors
    /// One sentence that names the file, the row and what is wrong with it.
    pub fn of_file(path: &Path, format: Option<Format>, signature: &Signature) -> Result<Self, String> {
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let named = if is_json && format.is_none() { read_json(path)? } else { None };
        let (name, mut warnings) = (path.display().to_string(), vec![]);
        let rows = match named {
            Some(rows) => rows,
            None => read_table(path, format, signature, &mut warnings)?,
        };
        if rows.is_empty() {
            return Err(format!("{name}: there are no rows: the file must hold one at least"));
        }
        let mut read = Self { from: name.clone(), json: vec![], warnings, tensors: vec![], places: vec![] };
        let mut other = 0;
        for (place, json) in rows {
            let place = format!("{name} {place}");
            let inputs = decoded(signature, &json).map_err(|e| format!("{place}: {e}"))?;
            other += usize::from(!read.add(place, json, inputs));
        }
        if other > 0 {
            let (first, name) = (&read.places[0], &read.from);
            let warning = format!("{other} rows of {name} were left out: they have another shape than {first}");
            read.warnings.push(warning);
        }
        Ok(read)
    }

    /// The golden samples of the manifest, or values like those with which the model was tried out. Few of them are mixed to
    /// many: a model of trees takes twice as long for rows that differ. `run` says whether a mixed row runs.
    ///
    /// # Errors
    /// When there are none.
    pub fn known(
        signature: &Signature,
        manifest: Option<&Manifest>,
        profile: &Profile,
        session: &mut dyn Infer,
    ) -> Result<Self, String> {
        let samples = example::rows(signature, manifest, profile.trial);
        let (one, more) = if manifest.is_some() { ("golden sample", " of the manifest") } else { ("made-up row", "") };
        let mut plain = Self { from: String::new(), json: vec![], warnings: vec![], tensors: vec![], places: vec![] };
        for (i, sample) in samples.iter().enumerate() {
            plain.take(signature, format!("{one} {}", i + 1), sample)?;
        }
        let count = plain.json.len();
        if count == 0 {
            return Err("no made-up values satisfy this model: give it rows of yours with --rows FILE".into());
        }
        plain.from = several(count, one) + more;
        let values = samples.iter().map(|sample| sample.values().map(size).sum::<usize>()).max().unwrap_or(1).max(1);
        let wanted = (MIXED_VALUES / values).min(MIXED);
        if count == 1 || wanted <= count {
            return Ok(plain);
        }
        let from = format!("{}, their values mixed to {wanted} rows", plain.from);
        let mut mixed = Self { from, json: vec![], warnings: vec![], tensors: vec![], places: vec![] };
        for row in 0..wanted {
            let sample = mix(&samples, row);
            if mixed.take(signature, format!("mixed row {}", row + 1), &sample).is_err() {
                return Ok(plain);
            }
        }
        // What is mixed need not be what the model takes, such as a mask that does not fit the length.
        let budget = Duration::from_secs(1);
        Ok(if mixed.prove(session, profile.max_batch, budget).is_ok() { mixed } else { plain })
    }

    fn take(&mut self, signature: &Signature, place: String, sample: &Map<String, Value>) -> Result<(), String> {
        let json = serde_json::to_string(sample).map_err(|e| e.to_string())?;
        let inputs = decoded(signature, &json).map_err(|e| format!("{place}: {e}"))?;
        self.add(place, json, inputs);
        Ok(())
    }

    /// Takes a row; `false` when it has another shape than the first one.
    fn add(&mut self, place: String, json: String, inputs: Vec<Tensor>) -> bool {
        let fits = self.tensors.first().is_none_or(|first| tensor::same_rows(first, &inputs));
        if fits {
            self.json.push(json);
            self.tensors.push(inputs);
            self.places.push(place);
        }
        fits
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.json.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Values of a row.
    #[must_use]
    pub fn values(&self) -> usize {
        let row =
            self.tensors.first().map(|row| row.iter().map(|tensor| tensor.shape().iter().product::<usize>()).sum());
        row.unwrap_or(1)
    }

    /// Runs all rows once, so that one that fails is told before anything is measured. What is not run within `budget` is
    /// dropped.
    ///
    /// # Errors
    /// One sentence that names the row and says what the model says of it.
    pub fn prove(&mut self, session: &mut dyn Infer, max_batch: usize, budget: Duration) -> Result<(), String> {
        let begin = Instant::now();
        let mut proved = 0;
        while proved < self.len() && (proved == 0 || begin.elapsed() < budget) {
            // The first one alone: it tells how long they take.
            let most = if proved == 0 { 1 } else { max_batch.clamp(1, TRIED) };
            let rows = proved..self.len().min(proved + most);
            if session.run(&self.stacked(rows.clone()), Instant::now() + RUN_LIMIT).is_err() {
                for row in rows.clone() {
                    let failed = session.run(&self.tensors[row], Instant::now() + RUN_LIMIT).err();
                    if let Some(e) = failed {
                        return Err(self.bad(row, &e));
                    }
                }
                return Err(format!(
                    "rows {} to {} of {} run alone and fail together: \"limits\": {{\"max_batch\": 1}} in a manifest.json \
                     keeps them apart",
                    rows.start + 1,
                    rows.end,
                    self.from
                ));
            }
            proved = rows.end;
        }
        if proved < self.len() {
            self.warnings.push(format!("{proved} of {} rows were used: the model is slow", self.len()));
            self.json.truncate(proved);
            self.tensors.truncate(proved);
            self.places.truncate(proved);
        }
        Ok(())
    }

    fn bad(&self, row: usize, error: &RunError) -> String {
        let reason = cut(error.to_string(), SENTENCE);
        format!("{}: the model fails on it: {reason}: mend the row or leave it out", self.places[row])
    }

    /// So many rows as one batch, beginning at one of them and going on at the first after the last.
    #[must_use]
    pub fn batch(&self, begin: usize, count: usize) -> Vec<Tensor> {
        let rows = (begin..begin + count).map(|row| self.tensors[row % self.tensors.len()].as_slice());
        tensor::stack(rows).unwrap_or_default()
    }

    fn stacked(&self, rows: std::ops::Range<usize>) -> Vec<Tensor> {
        self.batch(rows.start, rows.len())
    }

    /// The body of a request of so many rows, beginning at one of them.
    #[must_use]
    pub fn body(&self, begin: usize, count: usize) -> String {
        let row = |row: usize| self.json[row % self.json.len()].as_str();
        if count == 1 && row(begin).starts_with('{') {
            return row(begin).to_owned();
        }
        let rows: Vec<&str> = (begin..begin + count).map(row).collect();
        format!("[{}]", rows.join(","))
    }
}

fn decoded(signature: &Signature, json: &str) -> Result<Vec<Tensor>, String> {
    let is_object = json.starts_with('{');
    let body = if is_object { json.to_owned() } else { format!("[{json}]") };
    decode::body(signature, body.as_bytes(), 1).map(|request| request.inputs).map_err(|e| e.to_string())
}

/// Rows of a file as `onnxd replay` reads it, with their places.
fn read_table(
    path: &Path,
    format: Option<Format>,
    signature: &Signature,
    warnings: &mut Vec<String>,
) -> Result<Vec<(String, String)>, String> {
    let plan = Plan::new(signature, Names::default());
    let mut input = Input::open(path, format, &plan)?;
    let (mut batch, mut bytes, mut rows) = (Batch::new(), 0, vec![]);
    while rows.len() < MOST && bytes < MOST_BYTES && input.next(&plan, &mut batch)? {
        let place = format!("{} {}", input.format.place(), batch.marks[0].place);
        let body = batch.body(0..1);
        let json = String::from_utf8_lossy(&body[1..body.len() - 1]).into_owned();
        bytes += json.len();
        rows.push((place, json));
        batch.keep_from(1);
    }
    let unknown = input.unknown();
    if !unknown.is_empty() {
        warnings.push(format!("columns that are no features were not used: {}", listed(unknown)));
    }
    Ok(rows)
}

/// Rows of a file that is one JSON document, as a request's body is; nothing where it is not.
fn read_json(path: &Path) -> Result<Option<Vec<(String, String)>>, String> {
    let name = path.display();
    let text = std::fs::read(path).map_err(|e| format!("{name}: {e}: name a file of rows"))?;
    let Ok(mut document) = serde_json::from_slice::<Value>(&text) else { return Ok(None) };
    if let Some(instances) = document.get_mut("instances").filter(|instances| instances.is_array()) {
        document = instances.take();
    }
    let rows = if let Value::Array(rows) = document { rows } else { vec![document] };
    let rows = rows.iter().take(MOST).enumerate();
    Ok(Some(rows.map(|(i, row)| (format!("row {}", i + 1), row.to_string())).collect()))
}

/// Numbers of a value, and texts.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(size).sum(),
        _ => 1,
    }
}

/// A row whose values each come from one of the samples.
fn mix(samples: &[Map<String, Value>], row: usize) -> Map<String, Value> {
    let mut place = (row as u64).wrapping_mul(0x9e37_79b9);
    let keys = samples.first().into_iter().flat_map(|sample| sample.keys());
    let values = keys.map(|key| {
        let values: Vec<&Value> = samples.iter().filter_map(|sample| sample.get(key)).collect();
        (key.clone(), mixed(&values, &mut place))
    });
    values.collect()
}

fn mixed(values: &[&Value], place: &mut u64) -> Value {
    let arrays: Option<Vec<&Vec<Value>>> = values.iter().map(|value| value.as_array()).collect();
    match arrays {
        Some(arrays) if arrays.iter().all(|array| array.len() == arrays[0].len()) && !arrays.is_empty() => {
            let at = |i: usize| arrays.iter().map(|array| &array[i]).collect::<Vec<_>>();
            (0..arrays[0].len()).map(|i| mixed(&at(i), place)).collect()
        }
        _ => {
            // So that neighbouring rows and places have nothing to do with one another.
            let chosen = usize::try_from(state::mix(*place) % values.len().max(1) as u64).unwrap_or(0);
            *place = place.wrapping_add(0x9e37_79b9_7f4a_7c15);
            values.get(chosen).map(|value| (*value).clone()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn mixed_rows_hold_values_of_the_samples_at_their_places() {
        let sample = |i: usize| match json!({"a": i, "b": [10 * i, 100 * i], "c": format!("{i}")}) {
            Value::Object(sample) => sample,
            _ => Map::new(),
        };
        let samples = [sample(1), sample(2), sample(3)];
        let rows: Vec<Map<String, Value>> = (0..200).map(|row| mix(&samples, row)).collect();
        for row in &rows {
            assert!([1, 2, 3].contains(&row["a"].as_i64().expect("a number")), "{row:?}");
            assert!([10, 20, 30].contains(&row["b"][0].as_i64().expect("a number")), "{row:?}");
            assert!([100, 200, 300].contains(&row["b"][1].as_i64().expect("a number")), "{row:?}");
        }
        let differ: BTreeSet<String> = rows.iter().map(|row| Value::from(row.clone()).to_string()).collect();
        // 3 values at 4 places make 81 rows.
        assert!(differ.len() > 60, "{}", differ.len());
    }
}
