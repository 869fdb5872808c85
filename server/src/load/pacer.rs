//! A tick at a constant rate for an async runtime.
//!
//! tokio's own timers are a millisecond coarse, which is longer than most answers measured here take; a thread that
//! sleeps is some tens of microseconds late instead. How late requests really left is measured and reported.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Ticks at `start` and at each `interval` after it, for as long as the receiver is kept. A tick is a reason to look at
/// the clock, no more: those missed while the machine was busy come at once.
pub(super) fn every(start: Instant, interval: Duration) -> UnboundedReceiver<()> {
    let (tell, ticks) = unbounded_channel();
    thread::spawn(move || {
        exact();
        let mut next = start;
        while tell.send(()).is_ok() {
            next += interval;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    ticks
}

/// Linux lets a sleeping thread oversleep by 50 microseconds to save power, unless told.
#[cfg(target_os = "linux")]
fn exact() {
    // A coarser tick is still a tick.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).ok();
}

#[cfg(not(target_os = "linux"))]
fn exact() {}
