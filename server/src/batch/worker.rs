//! The threads that pull batches. Each has a session of its own in every model, so none waits for another.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Job, Lane, run};

/// Starts a lane's workers. They end when the lane is closed and its queue is empty.
///
/// # Errors
/// When the system refuses a thread.
pub(crate) fn start(lane: &Arc<Lane>, count: usize) -> std::io::Result<Vec<JoinHandle<()>>> {
    (0..count)
        .map(|worker| {
            let lane = Arc::clone(lane);
            std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
                while let Some(jobs) = next(&lane) {
                    if let Some(set) = jobs.first().map(|job| Arc::clone(&job.set)) {
                        run::batch(&lane, jobs, &mut **set.champion.session(worker));
                    }
                }
            })
        })
        .collect()
}

/// Waits for jobs and cuts a batch; `None` when the lane is closed and empty.
fn next(lane: &Lane) -> Option<Vec<Job>> {
    let mut state = lane.state();
    loop {
        let now = Instant::now();
        // A leader takes what is queued within microseconds; a worker that is awake leaves it alone.
        match state.jobs.front() {
            Some(front) if !state.led => {
                let most = front.set.champion.max_batch();
                let due = front.enqueued + lane.limits.batch_delay;
                if state.rows >= most || due <= now || state.closed {
                    return Some(lane.cut(&mut state, |first| first.set.champion.max_batch()));
                }
                // The timer belongs to the oldest job: it is not moved by those that come later.
                state.idle += 1;
                state = lane.ready.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
                state.idle -= 1;
            }
            None if state.closed && state.unfinished == 0 => return None,
            _ => {
                state.idle += 1;
                state = lane.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}
