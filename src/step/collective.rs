use crate::error::Error;

/// The collective operations by which ranks exchange numbers. Threads, MPI or NCCL may implement
/// them.
///
/// Every rank makes the same calls in the same order with buffers of the same length (but for
/// [`all_gather`](Self::all_gather)). All ranks must get the same bits. An implementation returns
/// [`Error::Collective`] instead of waiting for a rank that will not come. Numbers are only
/// passed on, compared or added; with zeros as the other terms a sum must keep the bits of a
/// normal number, as every sum does.
///
/// The trait is implemented for references, too.
pub trait Collective<F> {
    /// The number of this rank, below [`size`](Self::size).
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Replaces each entry by its largest value on any rank; −∞ is a value.
    ///
    /// # Errors
    /// [`Error::Collective`].
    fn all_reduce_max(&self, values: &mut [F]) -> Result<(), Error>;

    /// Replaces each entry by its sum over all ranks, best in the order of the ranks, so that
    /// every run gives the same bits.
    ///
    /// # Errors
    /// [`Error::Collective`].
    fn all_reduce_sum(&self, values: &mut [F]) -> Result<(), Error>;

    /// The values of all ranks, one after another; each rank may contribute any number of them.
    ///
    /// # Errors
    /// [`Error::Collective`].
    fn all_gather(&self, values: &[F]) -> Result<Vec<F>, Error>;
}

impl<F, C: Collective<F> + ?Sized> Collective<F> for &C {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn all_reduce_max(&self, values: &mut [F]) -> Result<(), Error> {
        (**self).all_reduce_max(values)
    }

    fn all_reduce_sum(&self, values: &mut [F]) -> Result<(), Error> {
        (**self).all_reduce_sum(values)
    }

    fn all_gather(&self, values: &[F]) -> Result<Vec<F>, Error> {
        (**self).all_gather(values)
    }
}

/// All classes are in this process: the collective of a [`Head::new`](crate::Head::new), which is
/// never called.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleProcess;

impl<F: Copy> Collective<F> for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce_max(&self, _: &mut [F]) -> Result<(), Error> {
        Ok(())
    }

    fn all_reduce_sum(&self, _: &mut [F]) -> Result<(), Error> {
        Ok(())
    }

    fn all_gather(&self, values: &[F]) -> Result<Vec<F>, Error> {
        Ok(values.to_vec())
    }
}
