//! The collective operations on a communicator, in pieces that MPI can count.

use margin_softmax::ranks::class_range;
use margin_softmax::{Error, Real};
use mpi::Count;
use mpi::datatype::{Partition, PartitionMut};
use mpi::request;
use mpi::traits::{CommunicatorCollectives, Equivalence};

use crate::roll::{Call, Roll};

/// The largest count of numbers in one MPI call. MPI counts in 32 bits, and a receive buffer of
/// this length is allocated besides the caller's.
const PIECE: usize = 1 << 24;

impl Roll {
    /// Replaces each of the values by those of all ranks, joined in the order of the ranks.
    pub fn reduce<F: Real + Equivalence>(
        &self,
        call: Call,
        values: &mut [F],
        join: impl Fn(F, F) -> F,
    ) -> Result<(), Error> {
        self.call(call, size_of::<F>(), values.len())?;
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
        self.all_to_all(
            &Partition::new(&*piece, &counts[..], &starts[..]),
            &mut PartitionMut::new(&mut brought[..], &own_counts[..], &own_starts[..]),
        );
        let (joined, others) = brought.split_at_mut(own);
        for other in others.chunks_exact(own.max(1)) {
            joined.iter_mut().zip(other).for_each(|(value, &other)| *value = join(*value, other));
        }
        let mut whole = PartitionMut::new(piece, &counts[..], &starts[..]);
        self.all_gather(joined, &mut whole);
    }

    /// The values of all ranks, in the order of the ranks.
    pub fn gather<F: Real + Equivalence>(&self, values: &[F]) -> Result<Vec<F>, Error> {
        let lengths = self.call(Call::Gather, size_of::<F>(), values.len())?;
        let mut next = starts(&lengths);
        let mut gathered = vec![F::default(); lengths.iter().sum()];
        let share = (PIECE / self.size()).max(1);
        let longest = lengths.iter().copied().max().unwrap_or_default();
        for first in (0..longest).step_by(share) {
            let part = |length: usize| first.min(length)..(first + share).min(length);
            let parts: Vec<_> = lengths.iter().map(|&length| part(length).len()).collect();
            let mut piece = vec![F::default(); parts.iter().sum()];
            let (counts, places) = layout(&parts);
            self.all_gather(
                &values[part(values.len())],
                &mut PartitionMut::new(&mut piece[..], &counts[..], &places[..]),
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

    fn all_to_all<F: Equivalence>(&self, own: &Shares<'_, F>, all: &mut SharesMut<'_, F>) {
        if !self.has_deadline() {
            return self.communicator.all_to_all_varcount_into(own, all);
        }
        request::scope(|scope| {
            self.complete(self.communicator.immediate_all_to_all_varcount_into(scope, own, all));
        });
    }

    fn all_gather<F: Equivalence>(&self, own: &[F], all: &mut SharesMut<'_, F>) {
        if !self.has_deadline() {
            return self.communicator.all_gather_varcount_into(own, all);
        }
        request::scope(|scope| {
            self.complete(self.communicator.immediate_all_gather_varcount_into(scope, own, all));
        });
    }
}

/// Numbers with the count and the offset of each rank's.
type Shares<'a, F> = Partition<'a, [F], &'a [Count], &'a [Count]>;
type SharesMut<'a, F> = PartitionMut<'a, [F], &'a [Count], &'a [Count]>;

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
