//! A REST answer: JSON, and behind it the raw bytes of the outputs that are wanted so.

use super::Form;
use super::reply::replies;
use crate::model::signature::Signature;
use crate::model::{Answer, ModelId};

/// An answer's body, and how many bytes of it are JSON when others follow.
#[must_use]
pub fn answer(id: &ModelId, signature: &Signature, answers: &[Answer], form: &Form) -> (Vec<u8>, Option<usize>) {
    let replies = replies(signature, answers, form);
    let bytes: usize = replies.iter().filter(|reply| reply.binary).map(|reply| reply.raw_len()).sum();
    let mut body = Vec::with_capacity(128 + id.name.len() + form.id.len() + replies.len() * 128 + bytes);
    body.extend_from_slice(b"{\"model_name\":");
    text(&mut body, &id.name);
    body.extend_from_slice(b",\"model_version\":");
    text(&mut body, &id.version);
    if !form.id.is_empty() {
        body.extend_from_slice(b",\"id\":");
        text(&mut body, &form.id);
    }
    body.extend_from_slice(b",\"outputs\":[");
    for (i, reply) in replies.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"name\":");
        // The name as a JSON key, without its colon.
        body.extend_from_slice(reply.output.key.strip_suffix(':').unwrap_or_default().as_bytes());
        body.extend_from_slice(b",\"datatype\":\"");
        body.extend_from_slice(reply.datatype.as_bytes());
        body.extend_from_slice(b"\",\"shape\":[");
        for (axis, size) in reply.shape.iter().enumerate() {
            if axis > 0 {
                body.push(b',');
            }
            number(&mut body, *size);
        }
        if reply.binary {
            body.extend_from_slice(b"],\"parameters\":{\"binary_data_size\":");
            number(&mut body, reply.raw_len());
            body.extend_from_slice(b"}}");
        } else {
            body.extend_from_slice(b"],\"data\":");
            reply.write_json(&mut body);
            body.push(b'}');
        }
    }
    body.extend_from_slice(b"]}");
    let json = body.len();
    replies.iter().filter(|reply| reply.binary).for_each(|reply| reply.write_raw(&mut body));
    (body, replies.iter().any(|reply| reply.binary).then_some(json))
}

fn number(body: &mut Vec<u8>, number: usize) {
    body.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn text(body: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(body, text).expect("a string can always be written to memory");
}
