//! The queue before a thread that must never be waited for.
//!
//! The thread may be off the CPU for long while it holds a lock. Whoever serves requests therefore only tries the queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long the thread lets things gather, when there was something just now: to wake it for each would cost whoever serves
/// requests more than all else.
const GATHER: Duration = Duration::from_millis(2);

/// Rows below which what was there is little, and more is let gather: each time that the thread wakes, it drives others from
/// a CPU and its caches, which costs them more than what it does there.
const LITTLE: usize = 32;

/// How often it looks again before it sleeps until it is woken.
const LOOKS: u32 = 10;

/// Memory that may wait in one queue, in bytes: rows may be large, and the limit on bodies ends with their answers.
const MOST_BYTES: usize = 64 << 20;

/// How much something is.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// In rows, by which the user limits it.
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// What waits, and how much of it there may be.
pub(super) struct Queue<T> {
    waiting: Mutex<VecDeque<(T, Size)>>,
    rows: AtomicUsize,
    bytes: AtomicUsize,
    most: usize,
    /// Rows that were taken since the thread rested.
    taken: AtomicUsize,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
    /// Whether the thread sleeps until it is woken.
    asleep: AtomicBool,
}

impl<T> Queue<T> {
    /// A queue of this many rows.
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most,
            taken: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            thread: OnceLock::new(),
            asleep: AtomicBool::new(false),
        }
    }

    /// Puts something of a size at the end; gives it back when there is no room, when another thread is at the queue right
    /// now, or when the queue has ended.
    pub(super) fn push(&self, item: T, size: Size) -> Result<(), T> {
        let Ok(mut waiting) = self.waiting.try_lock() else { return Err(item) };
        let (rows, bytes) = (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        // One that is larger than all there may be waits alone.
        let heavy = bytes > 0 && bytes + size.bytes > MOST_BYTES;
        if rows + size.rows > self.most || heavy || self.has_ended() {
            return Err(item);
        }
        self.rows.fetch_add(size.rows, Ordering::Relaxed);
        self.bytes.fetch_add(size.bytes, Ordering::Relaxed);
        waiting.push_back((item, size));
        drop(waiting);
        // The thread says that it sleeps before it looks for the last time, with the lock: it saw this, or is seen here.
        if self.asleep.swap(false, Ordering::Relaxed) {
            self.wake();
        }
        Ok(())
    }

    /// Takes the first if `fits` says so.
    pub(super) fn pop_if(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (item, size) = waiting.pop_front_if(|(item, _)| fits(item))?;
        self.rows.fetch_sub(size.rows, Ordering::Relaxed);
        self.taken.fetch_add(size.rows, Ordering::Relaxed);
        self.bytes.fetch_sub(size.bytes, Ordering::Relaxed);
        Some(item)
    }

    /// Waits for the first; `None` when the queue has ended. The thread that calls this is the one that is woken.
    pub(super) fn pop(&self) -> Option<T> {
        self.thread.get_or_init(std::thread::current);
        let mut looks = 0;
        loop {
            if self.has_ended() {
                return None;
            }
            let found = self.pop_if(|_| true);
            if found.is_some() {
                self.asleep.store(false, Ordering::Relaxed);
                return found;
            }
            looks += 1;
            if looks < LOOKS {
                std::thread::park_timeout(GATHER);
            } else if looks == LOOKS {
                self.asleep.store(true, Ordering::Relaxed);
            } else {
                std::thread::park();
            }
        }
    }

    /// Lets the thread rest, unless the queue ends; longer, where it has done all there was and that was little.
    pub(super) fn rest(&self, pause: Duration) {
        let was_little = self.taken.swap(0, Ordering::Relaxed) < LITTLE;
        let has_all = self.rows.load(Ordering::Relaxed) == 0;
        let pause = if was_little && has_all { pause.max(GATHER) } else { pause };
        let until = Instant::now() + pause;
        while !self.has_ended() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }

    /// Ends it: nothing more is taken or given, and what waits is dropped, unless another thread is at it right now, which
    /// drops it then.
    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let waiting = self.waiting.try_lock().map(|mut waiting| std::mem::take(&mut *waiting));
        drop(waiting);
        self.wake();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_woken_and_one_that_gathers_looks_by_itself() {
        let queue = Arc::new(Queue::new(1000));
        let (sender, received) = channel();
        let taking = Arc::clone(&queue);
        let thread = std::thread::spawn(move || {
            while let Some(item) = taking.pop() {
                sender.send(item).expect("somebody listens");
            }
        });
        let size = Size { rows: 1, bytes: 8 };
        let minute = Duration::from_secs(60);
        for turn in 0..5 {
            // The first finds it asleep, the second on its way back to sleep.
            while !queue.asleep.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            for item in [2 * turn, 2 * turn + 1] {
                // It may be at the queue right now; whoever serves would not try again.
                while queue.push(item, size).is_err() {}
                assert_eq!(received.recv_timeout(minute), Ok(item));
            }
        }
        queue.end();
        thread.join().expect("it ends");
    }
}
