//! The threads that pull batches. Each has a session of its own in every model, so none waits for another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
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
            // A panic was reported by the panic hook, and those whose rows it had are told; the others have this worker still.
            let work = move || while catch_unwind(AssertUnwindSafe(|| work(&lane, worker))).is_err() {};
            thread::Builder::new().name(format!("worker-{worker}")).spawn(work)
        })
        .collect()
}

/// Runs batches until the lane is closed and its queue is empty.
fn work(lane: &Lane, worker: usize) {
    while let Some(Batch { jobs, running }) = next(lane) {
        if let Some(set) = jobs.first().map(|job| Arc::clone(&job.set)) {
            run::batch(lane, jobs, &mut **set.champion.session(worker));
        }
        drop(running);
    }
}

/// Waits for jobs and cuts a batch; `None` when the lane is closed and empty.
fn next(lane: &Lane) -> Option<Batch<'_>> {
    let me = thread::current();
    let mut state = lane.state();
    loop {
        let wait = match state.jobs.front() {
            // A leader takes what is queued within microseconds; a worker that is awake leaves it alone.
            Some(front) if !state.led && state.is_worth_a_run() => {
                let most = front.set.champion.max_batch();
                // The timer belongs to the oldest job: it is not moved by those that come later.
                let wait = (front.enqueued + lane.limits.batch_delay).saturating_duration_since(Instant::now());
                if state.rows >= most || wait.is_zero() || state.closed {
                    let jobs = lane.cut(&mut state, |first| first.set.champion.max_batch());
                    let rows = jobs.iter().map(|job| job.rows).sum();
                    state.running += rows;
                    // What is left may be worth another run.
                    Lane::call(state);
                    return Some(Batch { jobs, running: Running { lane, rows } });
                }
                Some(wait)
            }
            None if state.closed && state.unfinished == 0 => return None,
            _ => None,
        };
        state.idle.push(me.clone());
        drop(state);
        wait.map_or_else(thread::park, thread::park_timeout);
        state = lane.state();
        // Whoever called it has taken it out; a wait may end by itself.
        state.idle.retain(|thread| thread.id() != me.id());
    }
}

struct Batch<'a> {
    jobs: Vec<Job>,
    running: Running<'a>,
}

/// Rows that a worker runs. Dropped, they are counted no more, by a panic too: others would wait for their end.
struct Running<'a> {
    lane: &'a Lane,
    rows: usize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.lane.state().running -= self.rows;
    }
}
