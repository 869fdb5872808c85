//! One row a line in, one answer a line out, streamed: rows are answered while later ones still arrive.
//!
//! A line that is wrong is answered by a problem in its place and its neighbours by their answers. A client that does not
//! read its answers is not read from either.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::State;
use super::error::Problem;
use super::predict::{LARGE_BODY, elsewhere, too_large};
use crate::batch::{Call, Lane, PredictError};
use crate::codec::{Request, decode, encode};
use crate::model::tensor::{self, Tensor};
use crate::serving::ServingSet;

/// A stream of rows in progress.
struct Rows {
    state: Arc<State>,
    lane: Arc<Lane>,
    set: Arc<ServingSet>,
    body: BoxStream<'static, Result<Bytes, axum::Error>>,
    pending: BytesMut,
    /// Bytes of `pending` that are known to hold no end of a line.
    searched: usize,
    ended: bool,
    accepted: bool,
}

/// Answers a stream. The first rows are answered before the head is sent, so that a full queue is still a 503.
pub(super) async fn predict(
    state: Arc<State>,
    lane: Arc<Lane>,
    set: Arc<ServingSet>,
    body: Body,
) -> Result<Response, Problem> {
    let body = body.into_data_stream().boxed();
    let mut rows = Rows {
        state,
        lane,
        set: Arc::clone(&set),
        body,
        pending: BytesMut::new(),
        searched: 0,
        ended: false,
        accepted: false,
    };
    let Some(first) = rows.next().await? else {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "there are no rows: send one JSON object a line".into(),
        ));
    };
    rows.accepted = true;
    let rest = stream::unfold(Some(rows), |rows| async {
        let mut rows = rows?;
        match rows.next().await {
            Ok(Some(lines)) => Some((Ok(lines), Some(rows))),
            Ok(None) => None,
            // The head is sent: the problem is the last line.
            Err(problem) => Some((Ok(line(problem.json())), None)),
        }
    });
    let lines = stream::once(async { Ok::<_, std::convert::Infallible>(first) }).chain(rest);
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
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
                return self.answer(&lines).await.map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            if self.pending.len() > self.state.body_limit {
                return Err(too_large(self.state.body_limit));
            }
            let limit = self.state.engine.options().request_timeout;
            match tokio::time::timeout(limit, self.body.next()).await {
                Ok(Some(Ok(bytes))) => self.pending.extend_from_slice(&bytes),
                Ok(Some(Err(e))) => {
                    return Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {e}")));
                }
                Ok(None) => self.ended = true,
                Err(_) => {
                    return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "no further rows arrived in time".into()));
                }
            }
        }
    }

    /// Takes the complete lines, at most as many as one run holds.
    fn lines(&mut self) -> Vec<Bytes> {
        let most = self.set.champion.max_batch();
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
            if !line.trim_ascii().is_empty() {
                lines.push(line.freeze());
            }
        }
        lines
    }

    async fn answer(&mut self, lines: &[Bytes]) -> Result<Bytes, Problem> {
        let set = Arc::clone(&self.set);
        let signature = &set.champion.signature;
        let decode = |set: &ServingSet, lines: &[Bytes]| -> Vec<Result<Request, Problem>> {
            lines.iter().map(|line| decode::body(&set.champion.signature, line, 1).map_err(Problem::from)).collect()
        };
        let requests = if lines.iter().map(Bytes::len).sum::<usize>() > LARGE_BODY {
            let (set, lines) = (Arc::clone(&set), lines.to_vec());
            elsewhere(move || decode(&set, &lines)).await
        } else {
            decode(&set, lines)
        };
        let good: Vec<&Request> = requests.iter().flatten().collect();
        let call = Call { accepted: self.accepted, ..self.state.engine.call("ndjson") };
        let together = tensor::stack(good.iter().map(|request| request.inputs.as_slice()));
        let mut answers = match together {
            Some(inputs) => match self.lane.predict(&set, inputs, good.len(), call).await {
                Ok(parts) => parts
                    .into_iter()
                    .flat_map(|part| part.rows.clone().map(move |row| Ok((part.outputs.clone(), row))))
                    .collect(),
                Err(e @ (PredictError::Overloaded | PredictError::Draining)) => return Err(e.into()),
                // One of them is at fault: each is tried by itself.
                Err(_) => self.one_by_one(&good, call).await,
            },
            None => self.one_by_one(&good, call).await,
        }
        .into_iter();
        let mut text = Vec::with_capacity(lines.len() * 64);
        for request in &requests {
            match request {
                Err(problem) => text.extend_from_slice(&problem.json()),
                Ok(_) => match answers.next() {
                    Some(Ok((outputs, row))) => encode::row(&mut text, signature, &outputs, row),
                    Some(Err(e)) => text.extend_from_slice(&Problem::from(e).json()),
                    None => break,
                },
            }
            text.push(b'\n');
        }
        Ok(text.into())
    }

    async fn one_by_one(&mut self, good: &[&Request], call: Call) -> Vec<Result<(Arc<[Tensor]>, usize), PredictError>> {
        let mut answers = Vec::with_capacity(good.len());
        for request in good {
            let call = Call { accepted: true, ..call };
            let result = self.lane.predict(&self.set, request.inputs.clone(), request.rows, call).await;
            answers.push(result.and_then(|parts| {
                let part = parts.into_iter().next();
                part.map(|p| (p.outputs, p.rows.start)).ok_or_else(|| PredictError::Model("no answer".into()))
            }));
        }
        answers
    }
}
