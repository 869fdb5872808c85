//! `GET /models/{model}/verdict`: what all servers of a model saw, judged.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::error::Problem;
use super::{State, ops};
use crate::judge;
use crate::shadow::origin::now;

/// Verdicts at a time: each asks all other servers.
static VERDICTS: Semaphore = Semaphore::const_new(4);

/// What is to be done with a model's challengers, by what this server and its peers saw.
pub(super) async fn verdict(Shared(state): Shared<Arc<State>>, Path(model): Path<String>) -> Result<Response, Problem> {
    let Ok(_permit) = VERDICTS.try_acquire() else {
        let detail = "others wait for verdicts already: try again when they have theirs";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into()));
    };
    let own = ops::shadow_state(&state, &model).await?;
    let gathered = state.engine.options().verdict.peers.gather(&format!("/models/{}/shadow", own.model)).await;
    let shared = Arc::clone(&state);
    // To judge takes milliseconds, in which this port's one thread answers others.
    let judged = tokio::task::spawn_blocking(move || {
        let states = [vec![own], gathered.answers].concat();
        judge::judge(&states, &gathered.missing, &shared.engine.options().verdict, now())
    });
    let judgement = judged.await.map_err(|_| Problem::internal())?;
    let judgement = judgement.map_err(|reason| Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason))?;
    Ok(Json(judgement).into_response())
}
