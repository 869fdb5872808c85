//! JSON schemas of what a model takes and gives: what the decoders take, no more and no less.

use serde_json::{Map, Value, json};

use crate::codec::marks::{SERIES, SERIES_BYTES, TIME};
use crate::codec::oip::datatype;
use crate::model::manifest::{Feature, Missing};
use crate::model::signature::{Input, Output, Rows, Signature, Slot};
use crate::model::tensor::DType;
use crate::verdict::state::Source;

/// One value of a type. A float is bounded by what its type holds, since more is refused.
pub(super) fn scalar(dtype: DType) -> Value {
    let float = |most: f64| json!({"type": "number", "minimum": -most, "maximum": most});
    let whole = |least: i64, most: i64| json!({"type": "integer", "minimum": least, "maximum": most});
    match dtype {
        DType::F16 => float(65504.0),
        DType::BF16 => float(3.38e38),
        DType::F32 => float(3.4e38),
        DType::F64 => float(1.7e308),
        DType::I8 => whole(i8::MIN.into(), i8::MAX.into()),
        DType::I16 => whole(i16::MIN.into(), i16::MAX.into()),
        DType::I32 => whole(i32::MIN.into(), i32::MAX.into()),
        DType::I64 => whole(i64::MIN, i64::MAX),
        DType::U8 => whole(0, u8::MAX.into()),
        DType::U16 => whole(0, u16::MAX.into()),
        DType::U32 => whole(0, u32::MAX.into()),
        DType::U64 => json!({"type": "integer", "minimum": 0, "maximum": u64::MAX}),
        DType::Bool => json!({"type": "boolean"}),
        DType::Text => json!({"type": "string"}),
    }
}

/// The name under which [`tensor`] of a type stands among the components.
pub(super) fn tensor_ref(dtype: DType) -> Value {
    json!({"$ref": format!("#/components/schemas/{dtype}")})
}

/// A value of a type, or arrays of them of any depth. What is not finite is `null`, since JSON cannot say it.
pub(super) fn tensor(dtype: DType) -> Value {
    let mut one = scalar(dtype);
    if dtype.is_float() {
        one = json!({"type": ["number", "null"]});
    }
    let description = format!("A {dtype}, or arrays of them.");
    json!({"description": description, "anyOf": [one, {"type": "array", "items": tensor_ref(dtype)}]})
}

/// Arrays of fixed sizes where they are fixed.
fn nested(dtype: DType, dims: &[Option<usize>]) -> Value {
    let Some((size, inner)) = dims.split_first() else { return scalar(dtype) };
    let items = nested(dtype, inner);
    match size {
        Some(size) => json!({"type": "array", "items": items, "minItems": size, "maxItems": size}),
        None => json!({"type": "array", "items": items}),
    }
}

fn feature(dtype: DType, feature: &Feature) -> Value {
    let mut schema = scalar(dtype);
    let mut text: Vec<String> = feature.description.iter().cloned().collect();
    if let Some(unit) = &feature.unit {
        text.push(format!("Unit: {unit}."));
    }
    if let (Some(min), Some(max)) = (feature.min, feature.max) {
        text.push(format!("In training it was between {min} and {max}."));
    }
    if !is_required(feature) {
        schema["type"] = json!([schema["type"], "null"]);
        match (feature.missing, feature.default) {
            (Missing::Default, Some(default)) => {
                text.push(format!("Left out, it is {default}."));
                schema["default"] = if dtype == DType::Bool { json!(default != 0.0) } else { json!(default) };
            }
            _ => text.push("It may be left out; the model handles that.".into()),
        }
    }
    if !text.is_empty() {
        schema["description"] = text.join(" ").into();
    }
    schema
}

pub(super) fn is_required(feature: &Feature) -> bool {
    feature.required || feature.missing == Missing::Reject
}

/// A row's value under the name of an input without features.
fn value(input: &Input) -> Value {
    let one = scalar(input.dtype);
    if input.row_shape.iter().all(|d| *d == Some(1)) {
        // A row of one element may stand bare.
        let array = json!({"type": "array", "items": one, "minItems": 1, "maxItems": 1});
        return json!({"anyOf": [one, array]});
    }
    nested(input.dtype, &input.row_shape)
}

/// A row as an object of features and inputs.
pub(super) fn row(signature: &Signature) -> Value {
    let mut properties = Map::new();
    let mut required = vec![];
    for (key, slot) in signature.keys() {
        let input = &signature.inputs[slot.input()];
        let schema = match (slot, signature.feature(*slot)) {
            (Slot::Feature { .. }, Some(declared)) => feature(input.dtype, declared),
            _ => value(input),
        };
        if signature.feature(*slot).is_none_or(is_required) {
            required.push(key.to_string());
        }
        properties.insert(key.to_string(), schema);
    }
    for (key, schema) in marks(signature) {
        properties.entry(key).or_insert(schema);
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// What a row may say of itself beside its features.
fn marks(signature: &Signature) -> impl Iterator<Item = (String, Value)> {
    let series = json!({
        "type": ["string", "null"],
        "minLength": 1,
        "maxLength": SERIES_BYTES,
        "description": "What was measured, such as a pod: evidence for a challenger is counted by it. No model sees it.",
    });
    let time = json!({
        "type": ["number", "null"],
        "minimum": 0,
        "exclusiveMaximum": 1e11,
        "description": "When it was measured, in seconds of Unix time, within the last day; left out, it is now.",
    });
    let target = signature.target().map(|target| {
        let text = "What the forecast is of, as measured now: it shows how good the forecast was that was for now.";
        (target.to_owned(), json!({"type": ["number", "null"], "description": text}))
    });
    [(SERIES.to_owned(), series), (TIME.to_owned(), time)].into_iter().chain(target)
}

/// What was true of one row, or of some.
pub(super) fn label() -> Value {
    let time = json!({"type": "number", "minimum": 0, "exclusiveMaximum": 1e11});
    let series = json!({"type": "string", "minLength": 1, "maxLength": SERIES_BYTES});
    let sources: Vec<&str> = Source::ALL.iter().map(|source| source.name()).collect();
    let label = |properties: Value, required: &[&str]| {
        let mut all = json!({"anomaly": {"type": "boolean"}, "source": {"enum": sources}});
        for (key, schema) in properties.as_object().into_iter().flatten() {
            all[key] = schema.clone();
        }
        json!({"type": "object", "properties": all, "required": required, "additionalProperties": false})
    };
    let either = |mut label: Value| {
        label["properties"]["value"] = json!({"type": "number"});
        label["anyOf"] = json!([{"required": ["anomaly"]}, {"required": ["value"]}]);
        label
    };
    let row = json!({"request_id": {"type": "string"}, "row": {"type": "integer", "minimum": 0}});
    let at = json!({"series": series, "ts": time});
    let window = json!({"series": series, "from": time, "to": time});
    json!({"anyOf": [
        either(label(row, &["request_id", "source"])),
        either(label(at, &["series", "ts", "source"])),
        label(window, &["series", "from", "to", "anomaly", "source"]),
    ]})
}

/// A row as an array, for models with one input; `None` for others.
pub(super) fn positional(signature: &Signature) -> Option<Value> {
    let [input] = signature.inputs.as_slice() else { return None };
    if input.features.is_empty() {
        return Some(value(input));
    }
    let items: Vec<Value> = input.features.iter().map(|f| feature(input.dtype, f)).collect();
    let count = items.len();
    Some(json!({"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}))
}

/// A tensor of the Open Inference Protocol: an input by its name, or a feature as a column.
pub(super) fn tensors(signature: &Signature) -> Value {
    let one = |name: &str, datatypes: &[&str]| {
        json!({
            "type": "object",
            "properties": {
                "name": {"const": name},
                "datatype": {"enum": datatypes},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "parameters": {"type": "object"},
                "data": {"type": "array", "description": "Flat, or nested as the shape says."},
            },
            "required": ["name", "datatype", "shape"],
        })
    };
    let inputs = signature.inputs.iter().map(|input| one(&input.name, &[datatype(input.dtype)]));
    let features = signature.keys().iter().filter_map(|(key, slot)| {
        signature.feature(*slot)?;
        let dtype = signature.inputs[slot.input()].dtype;
        let any = ["FP32", "FP64", "INT32", "INT64"];
        Some(if dtype.is_float() { one(key, &any) } else { one(key, &[datatype(dtype)]) })
    });
    json!({"anyOf": inputs.chain(features).collect::<Vec<_>>()})
}

/// A row of named JSON as tensors of the Open Inference Protocol; `None` when a value is missing or too deep for an example.
pub(super) fn example_tensors(signature: &Signature, row: &Map<String, Value>) -> Option<Value> {
    let tensors = row.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| {
        let slot = signature.keys()[signature.find(key, 0)?].1;
        let input = &signature.inputs[slot.input()];
        let mut shape: Vec<usize> = if signature.rows == Rows::Whole { vec![] } else { vec![1] };
        if matches!(slot, Slot::Row { .. }) {
            let mut dims = vec![];
            let mut inner = value;
            while let Value::Array(values) = inner {
                dims.push(values.len());
                inner = values.first()?;
            }
            // A row of one element may stand bare.
            shape.extend(if dims.is_empty() { vec![1; input.row_shape.len()] } else { dims });
        }
        let data = if value.is_array() { value.clone() } else { json!([value]) };
        let data = if value.is_array() && signature.rows != Rows::Whole { json!([data]) } else { data };
        Some(json!({"name": key, "datatype": datatype(input.dtype), "shape": shape, "data": data}))
    });
    tensors.collect::<Option<Vec<_>>>().map(Value::from)
}

/// A row's answer as an object of named outputs.
pub(super) fn answer(signature: &Signature) -> Value {
    let value = |output: &Output| match &output.labels {
        None => tensor_ref(output.dtype),
        Some(labels) => {
            let properties: Map<String, Value> =
                labels.iter().map(|label| (label.clone(), tensor_ref(output.dtype))).collect();
            let map = json!({"type": "object", "properties": properties, "additionalProperties": false});
            let order = format!("In the order of {}; an object with x-classes: map.", labels.join(", "));
            json!({"description": order, "anyOf": [tensor_ref(output.dtype), map]})
        }
    };
    let properties: Map<String, Value> =
        signature.outputs.iter().map(|output| (output.name.clone(), value(output))).collect();
    let required: Vec<&str> = signature.outputs.iter().map(|output| output.name.as_str()).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// The error of named JSON.
pub(super) fn problem() -> Value {
    json!({
        "description": "RFC 9457 problem details.",
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "error": {"type": "string", "description": "The detail once more, where other servers have it."},
            "field": {"type": "string", "description": "Where in the body it is wrong, such as [3].cpu_zscore."},
        },
        "required": ["type", "title", "status", "detail", "error"],
    })
}
