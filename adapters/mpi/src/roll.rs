//! The check before each collective call: that every rank is present and makes the same call.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;
use std::time::{Duration, Instant};

use margin_softmax::Error;
use mpi::request::{self, LocalScope, Request};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::deadline::Deadline;
use crate::report::report;

/// How long a failed rank waits for the others: longer than the time between ranks that return the
/// same error, but short enough for an interactive user.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The call that a rank is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Leave,
    Max,
    Sum,
    Gather,
}

impl Call {
    /// Decodes the call from a number sent by another rank.
    fn name(call: u64) -> &'static str {
        match call {
            call if call == Call::Max as u64 => "all_reduce_max",
            call if call == Call::Sum as u64 => "all_reduce_sum",
            _ => "all_gather",
        }
    }
}

/// The message of a rank to the others: its call, the bytes per number and the count of numbers. A
/// rank that leaves sends the hash of its error.
type Message = [u64; 3];

/// The ranks of a communicator, with the check before each call.
pub struct Roll {
    pub communicator: SimpleCommunicator,
    deadline: Option<Deadline>,
    left: Cell<bool>,
}

impl Roll {
    pub fn new(communicator: SimpleCommunicator, deadline: Option<Deadline>) -> Self {
        Roll { communicator, deadline, left: Cell::new(false) }
    }

    pub fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    pub fn size(&self) -> usize {
        self.communicator.size() as usize
    }

    /// The count of numbers of each rank in this call. All ranks get the same result.
    pub fn call(&self, call: Call, width: usize, count: usize) -> Result<Vec<usize>, Error> {
        let message = [call as u64, width as u64, count as u64];
        self.begin(Call::name(call as u64));
        let messages = self.exchange(message, || self.wait());
        if let Some(rank) = messages.iter().position(|&[call, ..]| call == Call::Leave as u64) {
            return Err(Error::Collective { rank, reason: "is gone".into() });
        }
        let [first_call, first_width, first_count] = messages[0];
        for (rank, &[other, width, count]) in messages.iter().enumerate() {
            let (name, first_name) = (Call::name(other), Call::name(first_call));
            let reason = if other != first_call {
                format!("calls {name} where rank 0 calls {first_name}")
            } else if width != first_width {
                format!("{name} of numbers of {width} bytes, rank 0's of {first_width}")
            } else if count != first_count && call != Call::Gather {
                format!("{name} of {count} values, rank 0's {first_count}")
            } else {
                continue;
            };
            return Err(Error::Collective { rank, reason });
        }
        Ok(messages.iter().map(|&[.., count]| count as usize).collect())
    }

    /// Reports this rank as gone in every call of the others, until all have left. Returns the
    /// hashes of their errors, 0 for a rank without an error.
    ///
    /// A rank that leaves with an error aborts the job if the others do not follow.
    pub fn leave(&self, complaint: Option<&str>) -> Vec<u64> {
        let message = [Call::Leave as u64, 0, fingerprint(complaint)];
        let start = Instant::now();
        let wait = || {
            thread::sleep(Duration::from_millis(1));
            self.wait();
            if let Some(complaint) = complaint
                && start.elapsed() > PATIENCE
            {
                report(&format!("error on rank {}: {complaint}", self.rank()));
                self.communicator.abort(1);
            }
        };
        self.left.set(true);
        self.begin("the end of the job");
        loop {
            let messages = self.exchange(message, wait);
            if messages.iter().all(|&[call, ..]| call == Call::Leave as u64) {
                return messages.iter().map(|&[.., complaint]| complaint).collect();
            }
        }
    }

    /// The messages of all ranks, in their order. `wait` is called until all have arrived.
    fn exchange(&self, message: Message, wait: impl Fn()) -> Vec<Message> {
        let mut all = vec![0; message.len() * self.size()];
        request::scope(|scope| {
            let (message, all) = (&message[..], &mut all[..]);
            complete(self.communicator.immediate_all_gather_into(scope, message, all), wait);
        });
        all.as_chunks().0.to_vec()
    }

    pub fn has_deadline(&self) -> bool {
        self.deadline.is_some()
    }

    /// Returns when the request is complete. After the deadline it never returns.
    pub fn complete<'a, D: ?Sized>(&self, request: Request<'a, D, &LocalScope<'a>>) {
        complete(request, || self.wait());
    }

    /// Starts the time of a call.
    fn begin(&self, call: &'static str) {
        if let Some(deadline) = &self.deadline {
            deadline.begin(call);
        }
    }

    /// Lets others run between two tests of a request.
    fn wait(&self) {
        if let Some(deadline) = &self.deadline {
            deadline.check(self.rank());
        }
        thread::yield_now();
    }
}

/// Tests the request until it is complete, and calls `wait` in between.
fn complete<'a, D: ?Sized>(mut request: Request<'a, D, &LocalScope<'a>>, wait: impl Fn()) {
    while let Err(pending) = request.test() {
        request = pending;
        wait();
    }
}

impl Drop for Roll {
    fn drop(&mut self) {
        if !self.left.get() {
            self.leave(None);
        }
    }
}

/// A hash of an error message.
pub fn fingerprint(complaint: Option<&str>) -> u64 {
    complaint.map_or(0, |complaint| {
        let mut hasher = DefaultHasher::new();
        complaint.hash(&mut hasher);
        hasher.finish() | 1
    })
}
