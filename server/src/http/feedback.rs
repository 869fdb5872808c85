//! `POST /feedback`: what was true, for rows that were answered before.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::State;
use super::body::{self, Received};
use super::dialect::{LARGE_BODY, elsewhere};
use super::error::Problem;
use crate::batch::Lane;
use crate::codec::DecodeError;
use crate::codec::marks::{LATEST, SERIES_BYTES};
use crate::serving::ServingSet;
use crate::shadow::origin::{now, row_id};
use crate::shadow::state::{MOST_WINDOWS, Passed};
use crate::text::{listed, shown};
use crate::verdict::state::{Label, Source, Target, hash};

/// What the answer says.
#[derive(Serialize)]
struct Accepted {
    /// Labels that are being joined; the metric `onnxd_feedback_total` says what became of them.
    accepted: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// Labels of the default model.
pub(super) async fn of_default(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(None)?;
    take(&state, &lane, &headers, body).await
}

/// Labels of a model.
pub(super) async fn of_model(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(Some(&model))?;
    take(&state, &lane, &headers, body).await
}

async fn take(state: &State, lane: &Lane, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let Received { bytes, _room } = body::order(state, headers, body).await?;
    let (most, event_time) = (state.engine.options().max_rows, state.engine.options().event_time);
    let labels = if bytes.len() > LARGE_BODY {
        elsewhere(move || labels(&bytes, most, event_time)).await
    } else {
        labels(&bytes, most, event_time)
    }?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    few_windows(&labels)?;
    answer(state, lane, &set, labels)
}

/// Whether a window is one that may be remembered: until it ends, each is looked for among all rows that wait.
fn is_short(label: &Label, event_time: bool) -> Result<(), String> {
    let Target::Window { from, to, .. } = label.target else { return Ok(()) };
    let hours = LONGEST_WINDOW / 3600;
    if to.saturating_sub(from) > LONGEST_WINDOW {
        return Err(format!("to is more than {hours} h after from: send shorter windows"));
    }
    if !event_time && to > now() + LONGEST_WINDOW {
        return Err(format!("to is more than {hours} h ahead: send seconds of Unix time"));
    }
    Ok(())
}

fn answer(state: &State, lane: &Lane, set: &ServingSet, labels: Vec<Label>) -> Result<Response, Problem> {
    let accepted = labels.len();
    if set.compared().next().is_none() {
        let others = !state.engine.options().verdict.peers.is_empty();
        state.engine.pass_on(lane, &labels);
        let (accepted, detail) = if others {
            (accepted, "no challenger is compared here at present: the labels were passed on to the other servers")
        } else {
            (0, "no challenger is compared at present, so that nothing waits for labels")
        };
        return Ok((StatusCode::ACCEPTED, Json(Accepted { accepted, detail: Some(detail) })).into_response());
    }
    if !state.engine.tell(lane, set, labels) {
        let detail = "the shadow has no room for labels: send them again, each is counted once";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into()));
    }
    Ok((StatusCode::ACCEPTED, Json(Accepted { accepted, detail: None })).into_response())
}

/// Few windows are taken at a time.
fn few_windows(labels: &[Label]) -> Result<(), DecodeError> {
    if labels.iter().filter(|label| matches!(label.target, Target::Window { .. })).count() > MOST_WINDOWS {
        let message = format!("there are more than {MOST_WINDOWS} windows: send them in several requests");
        return Err(DecodeError::Features { field: String::new(), message });
    }
    Ok(())
}

/// How long a window may be and how far ahead it may end, in seconds.
const LONGEST_WINDOW: u64 = 24 * 3600;

/// One label, or an array of them.
fn labels(bytes: &[u8], most: usize, event_time: bool) -> Result<Vec<Label>, DecodeError> {
    let syntax = |e: serde_json::Error| DecodeError::Syntax(e.to_string());
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        let item: &RawValue = serde_json::from_slice(bytes).map_err(syntax)?;
        return Ok(vec![label(item, "", event_time)?]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(syntax)?;
    if items.len() > most {
        let message = format!("there are more than {most} labels: send them in several requests");
        return Err(DecodeError::Features { field: String::new(), message });
    }
    items.iter().enumerate().map(|(i, item)| label(item, &format!("[{i}]"), event_time)).collect()
}

/// The fields of a label.
const FIELDS: [&str; 8] = ["request_id", "row", "series", "ts", "from", "to", "anomaly", "value"];
/// The field that says who says so.
const SOURCE: &str = "source";

/// An object in which each key stands once.
struct Once(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Once;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut given = Map::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if given.contains_key(&key) {
                        return Err(A::Error::custom(format!("{} is given twice", shown(&key))));
                    }
                    given.insert(key, value);
                }
                Ok(Once(given))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The fields of one label, and where it stands among others.
struct Fields<'a> {
    given: Map<String, Value>,
    place: &'a str,
}

impl Fields<'_> {
    fn refuse(&self, field: &str, message: &str) -> DecodeError {
        let place = self.place;
        let dot = if place.is_empty() || field.is_empty() { "" } else { "." };
        let colon = if place.is_empty() { "" } else { ": " };
        DecodeError::Features { field: format!("{place}{dot}{field}"), message: format!("{place}{colon}{message}") }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.given.get(field)
    }

    fn is(&self, field: &str, value: &Value, takes: &str) -> DecodeError {
        let what = match value {
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
            Value::Null => "null",
        };
        self.refuse(field, &format!("{field} is {what}: {takes}"))
    }

    fn number(&self, field: &str, takes: &str) -> Result<Option<f64>, DecodeError> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| self.is(field, value, takes));
        self.get(field).map(number).transpose()
    }

    /// Seconds of Unix time.
    fn seconds(&self, field: &str) -> Result<Option<u64>, DecodeError> {
        let Some(value) = self.number(field, "a number is taken, the seconds of Unix time")? else { return Ok(None) };
        if value < 0.0 {
            return Err(self.refuse(field, &format!("{field} is before 1970: send seconds of Unix time")));
        }
        if value >= LATEST {
            let message = format!("{field} is far in the future (in milliseconds?): send seconds of Unix time");
            return Err(self.refuse(field, &message));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
        Ok(Some(value as u64))
    }

    fn text(&self, field: &str, takes: &str) -> Result<Option<&str>, DecodeError> {
        let text = |value| Value::as_str(value).ok_or_else(|| self.is(field, value, takes));
        self.get(field).map(text).transpose()
    }

    fn source(&self) -> Result<Source, DecodeError> {
        let names: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
        let takes = format!("who says so is taken: {}", listed(names));
        let Some(name) = self.text(SOURCE, &takes)? else {
            return Err(self.refuse(SOURCE, &format!("source is missing: {takes}")));
        };
        let source = Source::ALL.into_iter().find(|source| source.name() == name);
        source.ok_or_else(|| self.refuse(SOURCE, &format!("source is {:?}: {takes}", shown(name))))
    }

    fn target(&self) -> Result<Target, DecodeError> {
        let id = self.text("request_id", "a string is taken, the x-request-id of an answer")?;
        let row = match self.get("row") {
            None => 0,
            Some(row) => {
                let row = row.as_u64().and_then(|row| usize::try_from(row).ok());
                row.ok_or_else(|| self.refuse("row", "row must be a whole number, counted from 0"))?
            }
        };
        if id.is_none() && self.get("row").is_some() {
            return Err(self.refuse("row", "row is there without a request_id, of which it would be"));
        }
        let series = self.text("series", "a string is taken, the name of what was measured")?;
        if series.is_some_and(|series| series.is_empty() || series.len() > SERIES_BYTES) {
            let message =
                format!("series is empty or longer than {SERIES_BYTES} bytes: send the name of what was measured");
            return Err(self.refuse("series", &message));
        }
        let series = series.map(|series| hash(series.as_bytes()));
        let (at, from, to) = (self.seconds("ts")?, self.seconds("from")?, self.seconds("to")?);
        match (id, series, at, from, to) {
            (Some(id), None, None, None, None) => Ok(Target::Row(row_id(hash(id.as_bytes()), row))),
            (None, Some(series), Some(at), None, None) => Ok(Target::At { series, at }),
            (None, Some(_), None, Some(from), Some(to)) if from > to => Err(self.refuse("to", "to lies before from")),
            (None, Some(series), None, Some(from), Some(to)) => Ok(Target::Window { series, from, to }),
            (None, Some(_), None, Some(_), None) => Err(self.refuse("to", "from is there without to")),
            (None, Some(_), None, None, Some(_)) => Err(self.refuse("from", "to is there without from")),
            _ => {
                let message = "a label is of a request_id (with row, counted from 0), of a series at ts, or of a series from .. to ..";
                Err(self.refuse("", message))
            }
        }
    }
}

fn label(item: &RawValue, place: &str, event_time: bool) -> Result<Label, DecodeError> {
    let given = serde_json::from_str::<Once>(item.get());
    let (given, wrong) = given.map_or_else(|error| (Map::new(), Some(error)), |Once(given)| (given, None));
    let fields = Fields { given, place };
    if let Some(wrong) = wrong {
        let takes = "a label is an object, such as {\"series\": \"pod\", \"ts\": 1764200000, \"anomaly\": true, \"source\": \"human\"}";
        let is_object = item.get().starts_with('{');
        return Err(fields.refuse("", &if is_object { format!("{takes}: {wrong}") } else { takes.to_owned() }));
    }
    if let Some(unknown) = fields.given.keys().find(|key| !FIELDS.contains(&key.as_str()) && *key != SOURCE) {
        let known = listed(FIELDS.into_iter().chain([SOURCE]));
        let unknown = shown(unknown);
        return Err(fields.refuse(&unknown, &format!("{unknown:?} is no field of a label: {known} are")));
    }
    let (target, source) = (fields.target()?, fields.source()?);
    let anomaly = match fields.get("anomaly") {
        Some(Value::Bool(anomaly)) => Some(*anomaly),
        Some(other) => return Err(fields.is("anomaly", other, "true or false is taken")),
        None => None,
    };
    let value = fields.number("value", "a number is taken, what was measured of what the forecast is of")?;
    match (target, anomaly, value) {
        (_, None, None) => Err(fields.refuse("anomaly", "neither anomaly nor value is there: say what was true")),
        (_, Some(_), _) if source == Source::Metric => {
            Err(fields.refuse("anomaly", "anomaly is nothing that a metric tells: name another source"))
        }
        (Target::Window { .. }, _, Some(_)) => {
            Err(fields.refuse("value", "a value is of one time, not of a window: send ts"))
        }
        (target, anomaly, value) => {
            let label = Label { target, anomaly, value, source };
            is_short(&label, event_time).map_err(|reason| fields.refuse("to", &reason))?;
            Ok(label)
        }
    }
}

/// Labels that another server passes on, on the operations port.
pub(super) async fn passed_on(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(Some(&model))?;
    let Received { bytes, _room } = body::order(&state, &headers, body).await?;
    let event_time = state.engine.options().event_time;
    // One thread answers whoever asks on this port how the server is.
    let Passed { server, labels } = if bytes.len() > LARGE_BODY {
        elsewhere(move || passed(&bytes, event_time)).await
    } else {
        passed(&bytes, event_time)
    }?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    // A server may be among its own peers.
    if server != state.engine.id() && !set.tell(labels, true) {
        let detail = "the shadow has no room for labels";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into()));
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

fn passed(bytes: &[u8], event_time: bool) -> Result<Passed, Problem> {
    let passed = serde_json::from_slice::<Passed>(bytes);
    let mut passed = passed.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    few_windows(&passed.labels)?;
    passed.labels.retain(|label| is_short(label, event_time).is_ok());
    Ok(passed)
}
