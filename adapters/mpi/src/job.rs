//! Start and end of a job, including errors and panics on single ranks.

use std::fmt::Display;
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use margin_softmax::Error;
use mpi::Threading;
use mpi::environment::{is_finalized, is_initialized};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use crate::collective::MpiCollective;
use crate::report::report;
use crate::roll::fingerprint;

/// Initializes MPI, runs `work` with a collective over all ranks, and finalizes MPI. It is meant as
/// the whole body of `main`.
///
/// An error is printed to standard error, once if several ranks return the same error, and the exit
/// code is 1. If `work` returns on one rank while others continue, their next call returns
/// [`Error::Collective`](margin_softmax::Error::Collective). If they make no call within five
/// seconds after an error, the job is aborted. A panic aborts it immediately; see
/// [`abort_on_panic`].
///
/// For other communicators, split [`SimpleCommunicator::world`]. MPI is called from this thread
/// only; `rayon`'s threads may run at the same time.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use margin_softmax::Error;
/// use margin_softmax::ranks::Collective;
///
/// fn main() -> ExitCode {
///     margin_softmax_mpi::run(|collective| {
///         let ranks = collective.all_gather(&[collective.rank() as f64])?;
///         println!("{ranks:?}");
///         Ok::<(), Error>(())
///     })
/// }
/// ```
pub fn run<E: Display>(work: impl FnOnce(&MpiCollective) -> Result<(), E>) -> ExitCode {
    job(Threading::Funneled, |world| Ok(MpiCollective::new(world)), work)
}

/// As [`run`], with a collective whose calls have a deadline: see
/// [`MpiCollective::with_timeout`].
///
/// A call that is not complete after `timeout` returns
/// [`Error::Collective`]. The rank prints the error that `work` returns,
/// and five seconds later it aborts the job. A rank that has returned from `work` waits for the
/// others as long as in a call.
///
/// `mpirun` needs options to notice the loss of a host: see [the table of
/// failures](crate#failures).
///
/// ```no_run
/// use std::process::ExitCode;
/// use std::time::Duration;
///
/// use margin_softmax::Error;
/// use margin_softmax::ranks::Collective;
///
/// fn main() -> ExitCode {
///     margin_softmax_mpi::run_with_timeout(Duration::from_secs(600), |collective| {
///         let ranks = collective.all_gather(&[collective.rank() as f64])?;
///         println!("{ranks:?}");
///         Ok::<(), Error>(())
///     })
/// }
/// ```
pub fn run_with_timeout<E: Display>(
    timeout: Duration,
    work: impl FnOnce(&MpiCollective) -> Result<(), E>,
) -> ExitCode {
    job(Threading::Serialized, |world| MpiCollective::with_timeout(world, timeout), work)
}

fn job<E: Display>(
    threading: Threading,
    collective: impl FnOnce(&SimpleCommunicator) -> Result<MpiCollective, Error>,
    work: impl FnOnce(&MpiCollective) -> Result<(), E>,
) -> ExitCode {
    let Some((universe, _)) = mpi::initialize_with_threading(threading) else {
        report("MPI runs already; margin_softmax_mpi::run starts it");
        return ExitCode::FAILURE;
    };
    abort_on_panic();
    let collective = match collective(&universe.world()) {
        Ok(collective) => collective,
        Err(error) => {
            // Another rank may have a collective, and wait.
            report(&format!("error on rank {}: {error}", universe.world().rank()));
            universe.world().abort(1);
        }
    };
    let complaint = work(&collective).err().map(|error| format!("{error:#}"));
    let complaints = collective.leave(complaint.as_deref());
    let Some(complaint) = complaint else { return ExitCode::SUCCESS };
    let rank = collective.rank();
    let own = fingerprint(Some(&complaint));
    if complaints.iter().all(|&other| other == own) {
        if rank == 0 {
            report(&format!("error on every rank: {complaint}"));
        }
    } else if !complaints[..rank].contains(&own) {
        report(&format!("error on rank {rank}: {complaint}"));
    }
    ExitCode::FAILURE
}

/// Installs a panic hook that prints the number of the rank and aborts the job, for a panic in any
/// thread and even if it would be caught. `mpirun` then stops the other ranks, which would wait
/// forever, and returns a non-zero status.
///
/// [`run`] calls it. Programs without `run` call it after MPI is initialized. Before that, and
/// after MPI is finalized, the hook has no effect.
pub fn abort_on_panic() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        previous(info);
        if is_initialized() && !is_finalized() {
            let world = SimpleCommunicator::world();
            let (rank, size) = (world.rank(), world.size());
            report(&format!("rank {rank} of {size} panicked: the job ends"));
            world.abort(1);
        }
    }));
}
