//! One row a line in, one answer a line out, streamed: rows are answered while later ones still arrive.
//!
//! A line that is wrong is answered by a problem in its place and its neighbours by their answers. A client that does not
//! read its answers is not read from either.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::body::{Incoming, make_room, too_large, unreadable};
use super::dialect::{LARGE_ANSWER, LARGE_BODY, elsewhere, tell_version};
use super::error::{Problem, Shape};
use super::observe::RequestId;
use super::{BODY_UNIT, State, compress, origin, wishes};
use crate::batch::{Call, Lane, PredictError, Priority};
use crate::codec::encode::{self, Classes, weight};
use crate::codec::marks::Mark;
use crate::codec::{Request, decode};
use crate::model::{Answer, tensor};
use crate::serving::ServingSet;
use crate::shadow::origin::Origin;

/// A stream of rows in progress.
struct Rows {
    room: Room,
    state: Arc<State>,
    lane: Arc<Lane>,
    set: Arc<ServingSet>,
    body: BoxStream<'static, Result<Bytes, axum::Error>>,
    pending: BytesMut,
    /// Bytes of `pending` that are known to hold no end of a line.
    searched: usize,
    ended: bool,
    accepted: bool,
    priority: Priority,
    /// How problems are told.
    shape: Shape,
    classes: Classes,
    /// How long each run's answers are of use.
    timeout: Duration,
    /// Since when the line is awaited that comes next.
    since: Instant,
    /// What the stream's head says of all rows.
    headers: HeaderMap,
    id: RequestId,
    /// Rows that were taken.
    taken: usize,
}

/// What a stream takes of the room for all bodies.
struct Room {
    state: Arc<State>,
    units: usize,
}

impl Room {
    /// Makes it what `size` bytes need.
    fn fit(&mut self, size: usize) -> Result<(), Problem> {
        let units = size / BODY_UNIT;
        if units > self.units {
            let mut more = None;
            make_room(&mut more, (units - self.units) * BODY_UNIT, &self.state.bodies)?;
            // Given back by hand: a permit cannot live beside the semaphore that it borrows.
            more.into_iter().for_each(SemaphorePermit::forget);
        } else {
            self.state.bodies.add_permits(self.units - units);
        }
        self.units = units;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.state.bodies.add_permits(self.units);
    }
}

/// Answers a stream. The first rows are answered before the head is sent, so that a full queue is still a 503.
pub(super) async fn predict(
    state: Arc<State>,
    lane: Arc<Lane>,
    shape: Shape,
    content_type: &'static str,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    // A deadline belongs to each run of the stream's rows.
    let asked = wishes::narrow(state.engine.call("ndjson"), headers)?;
    let id = body.id.clone();
    let rows = Rows {
        room: Room { state: Arc::clone(&state), units: 0 },
        state,
        lane,
        set: Arc::clone(&set),
        body: compress::decompressed(headers, body)?.into_data_stream().boxed(),
        pending: BytesMut::new(),
        searched: 0,
        ended: false,
        accepted: false,
        priority: asked.priority,
        classes: wishes::classes(headers)?,
        headers: headers.clone(),
        id,
        taken: 0,
        shape,
        timeout: asked.deadline - asked.start,
        since: Instant::now(),
    };
    let answer = answer(rows, content_type).await;
    let mut response = answer.unwrap_or_else(|problem| problem.told(shape).into_response());
    tell_version(&mut response, &set);
    Ok(response)
}

async fn answer(mut rows: Rows, content_type: &'static str) -> Result<Response, Problem> {
    let Some(first) = rows.next().await? else {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "there are no rows: send one JSON object a line".into(),
        ));
    };
    rows.accepted = true;
    let rest = stream::unfold(Some(rows), |rows| async {
        let mut rows = rows?;
        let shape = rows.shape;
        match rows.next().await {
            Ok(Some(lines)) => Some((Ok(lines), Some(rows))),
            Ok(None) => None,
            // The head is sent: the problem is the last line.
            Err(problem) => Some((Ok(line(problem.told(shape).json())), None)),
        }
    });
    let lines = stream::once(async { Ok::<_, std::convert::Infallible>(first) }).chain(rest);
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

fn line(mut json: Vec<u8>) -> Bytes {
    json.push(b'\n');
    json.into()
}

impl Rows {
    /// The answers to the lines that have arrived, waiting for one at least; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let lines = self.lines();
            if !lines.is_empty() {
                let answers = self.answer(&lines).await?;
                self.room.fit(self.pending.len())?;
                // Its client may have waited for these.
                self.since = Instant::now();
                return Ok(Some(answers));
            }
            if self.ended {
                return Ok(None);
            }
            // Empty lines are gone.
            self.room.fit(self.pending.len())?;
            if self.pending.len() > self.state.body_limit {
                return Err(too_large(self.state.body_limit));
            }
            // A whole line has to come, not a piece of one.
            let until = self.since + self.state.engine.options().request_timeout;
            match tokio::time::timeout_at(until, self.body.next()).await {
                Ok(Some(Ok(bytes))) => {
                    self.pending.extend_from_slice(&bytes);
                    self.room.fit(self.pending.len())?;
                }
                Ok(Some(Err(e))) => return Err(unreadable(e.into())),
                Ok(None) => self.ended = true,
                Err(_) => {
                    return Err(Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        "no further row arrived whole in time".into(),
                    ));
                }
            }
        }
    }

    /// Takes the complete lines, at most as many as may share a run.
    fn lines(&mut self) -> Vec<Bytes> {
        let champion = &self.set.champion;
        let most = if champion.batches() { champion.max_batch() } else { 1 };
        let mut lines = vec![];
        while lines.len() < most {
            let end = self.pending[self.searched..].iter().position(|b| *b == b'\n');
            let line = match end {
                Some(end) => self.pending.split_to(self.searched + end + 1),
                None if self.ended && !self.pending.is_empty() => self.pending.split(),
                None => {
                    self.searched = self.pending.len();
                    break;
                }
            };
            self.searched = 0;
            self.since = Instant::now();
            if !line.trim_ascii().is_empty() {
                lines.push(line.freeze());
            }
        }
        lines
    }

    async fn answer(&mut self, lines: &[Bytes]) -> Result<Bytes, Problem> {
        let set = Arc::clone(&self.set);
        let shape = self.shape;
        let state = Arc::clone(&self.state);
        let decode = move |set: &ServingSet, lines: &[Bytes]| -> Vec<Result<Request, Problem>> {
            let decode = |line: &Bytes| {
                let request = decode::body(&set.champion.signature, line, 1)?;
                origin::timely(&state, &request.marks).map(|()| request)
            };
            lines.iter().map(|line| decode(line).map_err(|problem| problem.told(shape))).collect()
        };
        let requests = if lines.iter().map(Bytes::len).sum::<usize>() > LARGE_BODY {
            let (set, lines) = (Arc::clone(&set), lines.to_vec());
            elsewhere(move || decode(&set, &lines)).await
        } else {
            decode(&set, lines)
        };
        let good: Vec<&Request> = requests.iter().flatten().collect();
        let call = self.state.engine.call("ndjson");
        let deadline = call.deadline.min(call.start + self.timeout);
        let call = Call { deadline, accepted: self.accepted, priority: self.priority, ..call };
        let mut marks: Vec<Mark> =
            good.iter().map(|request| request.marks.first().copied().unwrap_or_default()).collect();
        if good.iter().all(|request| request.marks.is_empty()) {
            marks.clear();
        }
        // A row's number, for labels that come later, is its place among those that were taken.
        let before = self.taken;
        self.taken += good.len();
        let origin = origin::of(&self.state, &self.lane, &set, &self.headers, self.id.as_bytes(), marks)?;
        let origin = origin.map(|origin| origin.after(before));
        let again = origin.clone();
        let together = tensor::stack(good.iter().map(|request| request.inputs.as_slice()));
        let answers: Vec<Result<Answer, PredictError>> = match together {
            Some(inputs) => match self.lane.predict(&set, inputs, good.len(), call, origin).await {
                Ok(parts) => parts.into_iter().flat_map(one_each).map(Ok).collect(),
                Err(e @ (PredictError::Overloaded | PredictError::Draining)) => return Err(e.into()),
                // One of them is at fault: each is tried by itself.
                Err(_) => self.one_by_one(&good, call, again).await,
            },
            None => self.one_by_one(&good, call, origin).await,
        };
        let heavy = answers.iter().flatten().map(weight).sum::<usize>() > LARGE_ANSWER;
        let mut answers = answers.into_iter();
        let of = |request: Result<Request, Problem>| match request {
            Ok(_) => answers.next().map(|answer| answer.map_err(|e| Problem::from(e).told(shape))),
            Err(problem) => Some(Err(problem)),
        };
        let answers: Vec<Result<Answer, Problem>> = requests.into_iter().map_while(of).collect();
        let classes = self.classes;
        let encode = move || written(&set, &answers, classes);
        Ok(if heavy { elsewhere(encode).await } else { encode() })
    }

    async fn one_by_one(
        &mut self,
        good: &[&Request],
        call: Call,
        origin: Option<Origin>,
    ) -> Vec<Result<Answer, PredictError>> {
        let mut answers = Vec::with_capacity(good.len());
        for (row, request) in good.iter().enumerate() {
            let call = Call { accepted: true, ..call };
            let origin = origin.as_ref().map(|origin| origin.part(row));
            let result = self.lane.predict(&self.set, request.inputs.clone(), request.rows, call, origin).await;
            answers.push(result.and_then(|parts| {
                let part = parts.into_iter().next();
                part.ok_or_else(|| PredictError::Model("no answer".into()))
            }));
        }
        answers
    }
}

/// The answers to the rows of a part, one by one.
fn one_each(part: Answer) -> impl Iterator<Item = Answer> {
    part.rows.map(move |row| Answer { outputs: Arc::clone(&part.outputs), rows: row..row + 1 })
}

/// A line for each answer.
fn written(set: &ServingSet, answers: &[Result<Answer, Problem>], classes: Classes) -> Bytes {
    let mut text = Vec::with_capacity(answers.len() * 64);
    for answer in answers {
        match answer {
            Ok(Answer { outputs, rows }) => {
                encode::row(&mut text, &set.champion.signature, outputs, rows.start, classes);
            }
            Err(problem) => text.extend_from_slice(&problem.json()),
        }
        text.push(b'\n');
    }
    text.into()
}
