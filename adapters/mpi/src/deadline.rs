//! The deadline of each call.

use std::cell::Cell;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use margin_softmax::Error;

/// The time that a call may take, on the thread that makes the calls.
pub struct Deadline {
    timeout: Duration,
    call: Cell<(&'static str, Instant)>,
    missed: Sender<Result<(), Error>>,
}

impl Deadline {
    /// A missed deadline is sent to `missed`.
    pub fn new(timeout: Duration, missed: Sender<Result<(), Error>>) -> Self {
        Deadline { timeout, call: Cell::new(("", Instant::now())), missed }
    }

    /// Starts the time of a call.
    pub fn begin(&self, call: &'static str) {
        self.call.set((call, Instant::now()));
    }

    /// Returns before the deadline. After it, sends the error and **never returns**: MPI cannot
    /// cancel a collective call and may still write to its buffers, which this thread's stack owns
    /// or borrows. A thread that never unwinds keeps them for the rest of the process.
    pub fn check(&self, rank: usize) {
        let (call, start) = self.call.get();
        if start.elapsed() <= self.timeout {
            return;
        }
        let timeout = self.timeout;
        let reason = format!("{call} waited for the other ranks beyond its timeout of {timeout:?}");
        self.missed.send(Err(Error::Collective { rank, reason })).ok();
        loop {
            thread::park();
        }
    }
}
