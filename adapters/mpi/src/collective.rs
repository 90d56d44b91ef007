//! The collective operations over MPI.

use std::fmt;
use std::time::Duration;

use margin_softmax::ranks::Collective;
use margin_softmax::{Error, Real};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Equivalence};

use crate::roll::{Call, Roll};
use crate::worker::Worker;

/// The ranks of an MPI communicator, as a collective for
/// [`Head::on_ranks`](margin_softmax::Head::on_ranks).
///
/// **The same bits on every rank and in every run**: each rank reduces its part of the values in
/// the order of the ranks and sends the result to all, whatever algorithm the MPI library would
/// choose. On p ranks, an all-reduce of n numbers sends `2·(p − 1)·n/p` of them from each rank, as
/// a ring does. The sums are those of
/// [`ThreadCollective`](margin_softmax::ranks::ThreadCollective), bit for bit.
///
/// Before each call the ranks exchange 24 bytes that describe the call. Calls that do not match
/// return the same [`Error::Collective`] on every rank. Arrays of any length are sent in pieces of
/// 2²⁴ numbers.
///
/// **Dropping it is a collective call** and waits until the other ranks drop theirs. Their calls in
/// the meantime return an error that this rank is gone. It must be dropped before the
/// [`Universe`](mpi::environment::Universe), which is the case if it was created after it.
///
/// An error inside MPI ends the job with MPI's message, because rsmpi configures MPI so.
///
/// ```no_run
/// use margin_softmax::ranks::Collective;
/// use margin_softmax_mpi::{MpiCollective, mpi};
///
/// let universe = mpi::initialize().ok_or("MPI runs already")?;
/// let collective = MpiCollective::new(&universe.world());
/// let mut values = [collective.rank() as f64];
/// collective.all_reduce_sum(&mut values)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MpiCollective(Calls);

/// How this rank calls MPI.
enum Calls {
    /// On this thread, for as long as it takes.
    Here(Roll),
    /// On a thread of their own, with a deadline.
    Timed(Worker),
}

impl MpiCollective {
    /// A collective over the ranks of `communicator`, which must all call this function. The
    /// communicator is duplicated, so that other messages on it do not interfere.
    ///
    /// A call waits for the other ranks for as long as it takes.
    pub fn new(communicator: &SimpleCommunicator) -> Self {
        MpiCollective(Calls::Here(Roll::new(communicator.duplicate(), None)))
    }

    /// As [`new`](Self::new), but a call that is not complete after `timeout` returns
    /// [`Error::Collective`] with the number of this rank, the call and the timeout.
    ///
    /// **What to choose.** A call waits for the slowest rank, so that the timeout is longer than
    /// all that a rank does between two calls: its part of a step, reading data, an evaluation or a
    /// checkpoint that only one rank writes. There is no default, since this crate cannot know it.
    /// PyTorch gives NCCL 10 minutes and Gloo 30.
    ///
    /// **After a timeout** the values of the caller are as they were, and every further call returns
    /// the same error at once. MPI cannot cancel a collective call: its request stays, and so do its
    /// buffers (copies of the caller's numbers) and the thread that owns them, until the process
    /// ends. MPI cannot be finalized either. Dropping the collective therefore prints the error and
    /// aborts the job, after five seconds in which the other ranks get and print theirs.
    ///
    /// **Cost.** A thread of its own makes the MPI calls, while the caller waits. Each call copies
    /// its numbers once and wakes a thread twice. MPI's non-blocking calls are used, whose
    /// algorithms may differ from those of its blocking ones; the results do not.
    ///
    /// The ranks may have different timeouts. Creation itself, like the start and the end of MPI,
    /// has no deadline.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a timeout of 0. [`Error::Collective`] if MPI was not initialized
    /// with [`Threading::Serialized`](mpi::Threading::Serialized) or more, if a rank is not in
    /// `MPI_COMM_WORLD`, or if no thread can be started.
    pub fn with_timeout(
        communicator: &SimpleCommunicator,
        timeout: Duration,
    ) -> Result<Self, Error> {
        Worker::start(communicator, timeout).map(|worker| MpiCollective(Calls::Timed(worker)))
    }

    /// The index of this rank.
    pub fn rank(&self) -> usize {
        match &self.0 {
            Calls::Here(roll) => roll.rank(),
            Calls::Timed(worker) => worker.rank,
        }
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        match &self.0 {
            Calls::Here(roll) => roll.size(),
            Calls::Timed(worker) => worker.size,
        }
    }

    /// How long a call may take; `None` for as long as it takes.
    pub fn timeout(&self) -> Option<Duration> {
        match &self.0 {
            Calls::Here(_) => None,
            Calls::Timed(worker) => Some(worker.timeout),
        }
    }

    fn reduce<F: Real + Equivalence>(
        &self,
        call: Call,
        values: &mut [F],
        join: impl Fn(F, F) -> F + Send + 'static,
    ) -> Result<(), Error> {
        match &self.0 {
            Calls::Here(roll) => roll.reduce(call, values, join),
            Calls::Timed(worker) => {
                let mut own = values.to_vec();
                let reduced =
                    worker.run(move |roll| roll.reduce(call, &mut own, join).map(|()| own))??;
                values.copy_from_slice(&reduced);
                Ok(())
            }
        }
    }

    /// As [`Roll::leave`].
    pub(crate) fn leave(&self, complaint: Option<&str>) -> Vec<u64> {
        match &self.0 {
            Calls::Here(roll) => roll.leave(complaint),
            Calls::Timed(worker) => worker.leave(complaint),
        }
    }
}

impl<F: Real + Equivalence> Collective<F> for MpiCollective {
    fn rank(&self) -> usize {
        self.rank()
    }

    fn size(&self) -> usize {
        self.size()
    }

    fn all_reduce_max(&self, values: &mut [F]) -> Result<(), Error> {
        self.reduce(Call::Max, values, F::max)
    }

    fn all_reduce_sum(&self, values: &mut [F]) -> Result<(), Error> {
        self.reduce(Call::Sum, values, |a, b| a + b)
    }

    fn all_gather(&self, values: &[F]) -> Result<Vec<F>, Error> {
        match &self.0 {
            Calls::Here(roll) => roll.gather(values),
            Calls::Timed(worker) => {
                let own = values.to_vec();
                worker.run(move |roll| roll.gather(&own))?
            }
        }
    }
}

impl fmt::Debug for MpiCollective {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MpiCollective")
            .field("rank", &self.rank())
            .field("size", &self.size())
            .field("timeout", &self.timeout())
            .finish()
    }
}
