//! How long the server's parts take by themselves: decoding, encoding, the queue and the verdict, each beside its floor.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool: results and progress")]

mod decode;
mod encode;
mod queue;
mod ratios;
mod rows;
mod verdict;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use benches::prepared;
use criterion::Criterion;
use onnxd::{Engine, batch::Lane, serving::ServingSet};

/// The same as the server's, and as its floors have.
#[used]
static ALLOCATOR: unsafe extern "C" fn(usize) -> *mut std::ffi::c_void = libmimalloc_sys::mi_malloc;

/// What a request meets: the champion of `models/`, alone.
struct Served {
    engine: Arc<Engine>,
    lane: Arc<Lane>,
    /// Of the champion alone, seen by nobody: what is measured ends with its answer.
    set: Arc<ServingSet>,
}

fn main() -> Result<()> {
    let started = SystemTime::now();
    let folder = folder()?;
    let mut criterion = Criterion::default()
        .output_directory(&folder)
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(40)
        .nresamples(10_000)
        .configure_from_args();
    let version = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/anomaly/1");
    let (_repository, engine) = prepared::open(&version)?;
    let lane = engine.lane(prepared::MODEL).context("the model does not serve")?;
    let set = prepared::unobserved(&lane)?;
    let served = Served { engine: Arc::new(engine), lane, set };
    decode::measure(&mut criterion, &served.set.champion.signature)?;
    encode::measure(&mut criterion, &served)?;
    queue::measure(&mut criterion, &served)?;
    verdict::measure(&mut criterion)?;
    criterion.final_summary();
    ratios::print(&folder, started)
}

/// Where figures are kept, for comparisons with later ones: `criterion/` in the target folder, which this runs from.
fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CRITERION_HOME") {
        return Ok(folder.into());
    }
    // target/release/deps/micro-..
    let executable = std::env::current_exe()?;
    let target = executable.ancestors().nth(3).context("the executable lies in no target folder")?;
    Ok(target.join("criterion"))
}
