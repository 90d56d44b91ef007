//! Ranks that are threads of one process.

use std::any::Any;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::kernel::Real;
use crate::step::Collective;

/// Ranks in one process, one per thread: for tests, and for one machine with several memory
/// nodes. Values are added in the order of the ranks, so that every run gives the same bits.
///
/// Move each into its thread. When a thread ends or panics its rank is gone, and those that wait
/// for it, now or later, get [`Error::Collective`]. The threads must not be workers of one rayon
/// pool, which would wait for each other; a pool for each rank, with
/// [`install`](rayon::ThreadPool::install), is what divides the cores.
///
/// ```
/// use margin_softmax::ranks::{Collective, ThreadCollective};
///
/// let sums: Vec<f64> = std::thread::scope(|scope| {
///     let ranks = ThreadCollective::group(3).into_iter().map(|collective| {
///         scope.spawn(move || {
///             let mut values = [10_f64.powi(collective.rank() as i32)];
///             collective.all_reduce_sum(&mut values).map(|()| values[0])
///         })
///     });
///     let ranks: Vec<_> = ranks.collect();
///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Result<_, _>>()
/// })?;
/// assert_eq!(sums, [111.0; 3]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct ThreadCollective {
    rank: usize,
    shared: Arc<Shared>,
}

/// What one rank deposits for a call: the call's name and its values.
type Deposit = (&'static str, Arc<dyn Any + Send + Sync>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug)]
struct Table {
    /// How many calls are complete.
    round: u64,
    deposits: Vec<Option<Deposit>>,
    /// What all ranks deposited for the call that is complete.
    complete: Vec<Deposit>,
    gone: Vec<bool>,
}

impl ThreadCollective {
    /// The `size` ranks of a group, in their order.
    pub fn group(size: usize) -> Vec<Self> {
        let table = Table {
            round: 0,
            deposits: vec![None; size],
            complete: vec![],
            gone: vec![false; size],
        };
        let shared = Arc::new(Shared { table: Mutex::new(table), changed: Condvar::new() });
        (0..size).map(|rank| ThreadCollective { rank, shared: shared.clone() }).collect()
    }

    /// The number of this rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks the group has, those that are gone included.
    pub fn size(&self) -> usize {
        self.shared.lock().gone.len()
    }

    /// The values of all ranks for this call, in the order of the ranks.
    fn exchange<F: Real>(
        &self,
        call: &'static str,
        values: &[F],
    ) -> Result<Vec<Arc<Vec<F>>>, Error> {
        let deposit: Deposit = (call, Arc::new(values.to_vec()));
        let all = self.shared.gather(self.rank, deposit)?;
        let mut shares = Vec::with_capacity(all.len());
        for (rank, (name, share)) in all.into_iter().enumerate() {
            let refuse = |reason: String| Err(Error::Collective { rank, reason });
            let same_type = share.downcast::<Vec<F>>();
            match same_type {
                Ok(share) if name == call => shares.push(share),
                Ok(_) => return refuse(format!("calls {name} where others call {call}")),
                Err(_) => return refuse(format!("{name} is called with another type")),
            }
        }
        Ok(shares)
    }

    fn reduce<F: Real>(
        &self,
        call: &'static str,
        values: &mut [F],
        join: impl Fn(F, F) -> F,
    ) -> Result<(), Error> {
        let shares = self.exchange(call, values)?;
        let expected = shares[0].len();
        if let Some(rank) = shares.iter().position(|share| share.len() != expected) {
            let reason = format!("{call} of {} values, rank 0's {expected}", shares[rank].len());
            return Err(Error::Collective { rank, reason });
        }
        values.copy_from_slice(&shares[0]);
        for share in &shares[1..] {
            for (value, &other) in values.iter_mut().zip(share.iter()) {
                *value = join(*value, other);
            }
        }
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deposits one rank's values and waits for the others'.
    fn gather(&self, rank: usize, deposit: Deposit) -> Result<Vec<Deposit>, Error> {
        let mut table = self.lock();
        let round = table.round;
        table.deposits[rank] = Some(deposit);
        if table.deposits.iter().all(Option::is_some) {
            table.complete = table.deposits.iter_mut().filter_map(Option::take).collect();
            table.round += 1;
            self.changed.notify_all();
        }
        while table.round == round {
            let missing = |&rank: &usize| table.gone[rank] && table.deposits[rank].is_none();
            if let Some(rank) = (0..table.gone.len()).find(missing) {
                return Err(Error::Collective { rank, reason: "is gone".into() });
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(table.complete.clone())
    }
}

impl Drop for ThreadCollective {
    fn drop(&mut self) {
        self.shared.lock().gone[self.rank] = true;
        self.shared.changed.notify_all();
    }
}

impl<F: Real> Collective<F> for ThreadCollective {
    fn rank(&self) -> usize {
        self.rank()
    }

    fn size(&self) -> usize {
        self.size()
    }

    fn all_reduce_max(&self, values: &mut [F]) -> Result<(), Error> {
        self.reduce("all_reduce_max", values, F::max)
    }

    fn all_reduce_sum(&self, values: &mut [F]) -> Result<(), Error> {
        self.reduce("all_reduce_sum", values, |a, b| a + b)
    }

    fn all_gather(&self, values: &[F]) -> Result<Vec<F>, Error> {
        let shares = self.exchange("all_gather", values)?;
        Ok(shares.iter().flat_map(|share| share.iter().copied()).collect())
    }
}
