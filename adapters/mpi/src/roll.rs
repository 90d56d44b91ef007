//! Before data moves: whether every rank makes the same call, and whether every rank is there.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;
use std::time::{Duration, Instant};

use margin_softmax::Error;
use mpi::request;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};

use crate::report::report;

/// How long a rank that failed waits for the others to notice: longer than ranks drift apart that
/// return the same error, shorter than a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a rank is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Leave,
    Max,
    Sum,
    Gather,
}

impl Call {
    /// The call behind a number that another rank told.
    fn name(call: u64) -> &'static str {
        match call {
            call if call == Call::Max as u64 => "all_reduce_max",
            call if call == Call::Sum as u64 => "all_reduce_sum",
            _ => "all_gather",
        }
    }
}

/// What a rank tells the others: its call, the bytes of a number, how many numbers it brings. One
/// that leaves brings the fingerprint of its complaint.
type Told = [u64; 3];

/// The ranks of a communicator, and their roll-call before each call.
pub struct Roll {
    pub communicator: SimpleCommunicator,
    left: Cell<bool>,
}

impl Roll {
    pub fn new(communicator: SimpleCommunicator) -> Self {
        Roll { communicator, left: Cell::new(false) }
    }

    pub fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    pub fn size(&self) -> usize {
        self.communicator.size() as usize
    }

    /// How many numbers each rank brings to this call. Every rank that calls gets the same answer.
    pub fn call(&self, call: Call, width: usize, count: usize) -> Result<Vec<usize>, Error> {
        let told = self.tell([call as u64, width as u64, count as u64], thread::yield_now);
        if let Some(rank) = told.iter().position(|&[call, ..]| call == Call::Leave as u64) {
            return Err(Error::Collective { rank, reason: "is gone".into() });
        }
        let [first_call, first_width, first_count] = told[0];
        for (rank, &[other, width, count]) in told.iter().enumerate() {
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
        Ok(told.iter().map(|&[.., count]| count as usize).collect())
    }

    /// Is gone, for every call of the others, until all have left. Answers the fingerprints of
    /// their complaints, 0 where there is none.
    ///
    /// A rank that leaves with a complaint ends the job where the others do not come.
    pub fn leave(&self, complaint: Option<&str>) -> Vec<u64> {
        let told = [Call::Leave as u64, 0, fingerprint(complaint)];
        let start = Instant::now();
        let wait = || {
            thread::sleep(Duration::from_millis(1));
            if let Some(complaint) = complaint
                && start.elapsed() > PATIENCE
            {
                report(&format!("error on rank {}: {complaint}", self.rank()));
                self.communicator.abort(1);
            }
        };
        self.left.set(true);
        loop {
            let told = self.tell(told, wait);
            if told.iter().all(|&[call, ..]| call == Call::Leave as u64) {
                return told.iter().map(|&[.., complaint]| complaint).collect();
            }
        }
    }

    /// What all ranks tell, in their order; `wait` is called until they have.
    fn tell(&self, told: Told, wait: impl Fn()) -> Vec<Told> {
        let mut all = vec![0; told.len() * self.size()];
        request::scope(|scope| {
            let (told, all) = (&told[..], &mut all[..]);
            let mut pending = self.communicator.immediate_all_gather_into(scope, told, all);
            while let Err(request) = pending.test() {
                pending = request;
                wait();
            }
        });
        all.as_chunks().0.to_vec()
    }
}

impl Drop for Roll {
    fn drop(&mut self) {
        if !self.left.get() {
            self.leave(None);
        }
    }
}

/// A number that differs, almost surely, where complaints do.
pub fn fingerprint(complaint: Option<&str>) -> u64 {
    complaint.map_or(0, |complaint| {
        let mut hasher = DefaultHasher::new();
        complaint.hash(&mut hasher);
        hasher.finish() | 1
    })
}
