//! The collective operations over MPI.

use std::fmt;

use margin_softmax::{Collective, Error, Real, class_range};
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence};

use crate::roll::{Call, Roll};

/// The largest count of numbers in one MPI call. MPI counts in 32 bits, and a receive buffer of
/// this length is allocated besides the caller's.
const PIECE: usize = 1 << 24;

/// The ranks of an MPI communicator, as a collective for
/// [`ClassParallel`](margin_softmax::ClassParallel).
///
/// **The same bits on every rank and in every run**: each rank reduces its part of the values in
/// the order of the ranks and sends the result to all, whatever algorithm the MPI library would
/// choose. On p ranks, an all-reduce of n numbers sends `2·(p − 1)·n/p` of them from each rank, as
/// a ring does. The sums are those of [`ThreadCollective`](margin_softmax::ThreadCollective), bit
/// for bit.
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
/// use margin_softmax::Collective;
/// use margin_softmax_mpi::{MpiCollective, mpi};
///
/// let universe = mpi::initialize().ok_or("MPI runs already")?;
/// let collective = MpiCollective::new(&universe.world());
/// let mut values = [collective.rank() as f64];
/// collective.all_reduce_sum(&mut values)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MpiCollective {
    pub(crate) roll: Roll,
}

impl MpiCollective {
    /// A collective over the ranks of `communicator`, which must all call this function. The
    /// communicator is duplicated, so that other messages on it do not interfere.
    pub fn new(communicator: &SimpleCommunicator) -> Self {
        MpiCollective { roll: Roll::new(communicator.duplicate()) }
    }

    /// The index of this rank.
    pub fn rank(&self) -> usize {
        self.roll.rank()
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.roll.size()
    }

    fn reduce<F: Real + Equivalence>(
        &self,
        call: Call,
        values: &mut [F],
        join: impl Fn(F, F) -> F,
    ) -> Result<(), Error> {
        self.roll.call(call, size_of::<F>(), values.len())?;
        values.chunks_mut(PIECE).for_each(|piece| self.reduce_piece(piece, &join));
        Ok(())
    }

    /// Each rank reduces its part of the values in the order of the ranks and sends it to all.
    fn reduce_piece<F: Real + Equivalence>(&self, piece: &mut [F], join: impl Fn(F, F) -> F) {
        let (rank, size) = (self.rank(), self.size());
        let shares: Vec<_> =
            (0..size).map(|rank| class_range(piece.len(), rank, size).len()).collect();
        let own = shares[rank];
        let mut brought = vec![F::default(); own * size];
        let (counts, starts) = layout(&shares);
        let (own_counts, own_starts) = layout(&vec![own; size]);
        self.roll.communicator.all_to_all_varcount_into(
            &Partition::new(&*piece, &counts[..], &starts[..]),
            &mut PartitionMut::new(&mut brought[..], own_counts, own_starts),
        );
        let (joined, others) = brought.split_at_mut(own);
        for other in others.chunks_exact(own.max(1)) {
            joined.iter_mut().zip(other).for_each(|(value, &other)| *value = join(*value, other));
        }
        let mut whole = PartitionMut::new(piece, counts, starts);
        self.roll.communicator.all_gather_varcount_into(joined, &mut whole);
    }
}

/// The counts and offsets of the ranks in MPI's integer type, at most [`PIECE`] in total.
fn layout(lengths: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let counts = |numbers: &[usize]| numbers.iter().map(|&number| number as Count).collect();
    (counts(lengths), counts(&starts(lengths)))
}

/// The offset of each rank in the concatenation of all ranks.
fn starts(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, &length| {
        *end += length;
        Some(*end)
    });
    ends.zip(lengths).map(|(end, length)| end - length).collect()
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
        let lengths = self.roll.call(Call::Gather, size_of::<F>(), values.len())?;
        let mut next = starts(&lengths);
        let mut gathered = vec![F::default(); lengths.iter().sum()];
        let share = (PIECE / self.size()).max(1);
        let longest = lengths.iter().copied().max().unwrap_or_default();
        for first in (0..longest).step_by(share) {
            let part = |length: usize| first.min(length)..(first + share).min(length);
            let parts: Vec<_> = lengths.iter().map(|&length| part(length).len()).collect();
            let mut piece = vec![F::default(); parts.iter().sum()];
            let (counts, places) = layout(&parts);
            self.roll.communicator.all_gather_varcount_into(
                &values[part(values.len())],
                &mut PartitionMut::new(&mut piece[..], counts, places),
            );
            let mut rest = &piece[..];
            for (start, &length) in next.iter_mut().zip(&parts) {
                let (brought, others) = rest.split_at(length);
                gathered[*start..*start + length].copy_from_slice(brought);
                (*start, rest) = (*start + length, others);
            }
        }
        Ok(gathered)
    }
}

impl fmt::Debug for MpiCollective {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MpiCollective")
            .field("rank", &self.rank())
            .field("size", &self.size())
            .finish()
    }
}
