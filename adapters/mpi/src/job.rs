//! A job from its beginning to its end, whatever happens on one of its ranks.

use std::fmt::Display;
use std::panic;
use std::process::ExitCode;

use mpi::Threading;
use mpi::environment::{is_finalized, is_initialized};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use crate::collective::MpiCollective;
use crate::report::report;
use crate::roll::fingerprint;

/// Starts MPI, runs `work` with a collective over all ranks, and ends MPI: the whole of `main`.
///
/// An error is printed to standard error, once where several ranks return the same, and the exit
/// code is 1. A rank whose `work` returns while others go on is gone: the next call of theirs is
/// an [`Error::Collective`](margin_softmax::Error::Collective) that says so. Where they make none
/// for five seconds after an error, waiting for something else or computing, the job is aborted. A
/// panic aborts it at once; see [`abort_on_panic`].
///
/// Other communicators are [`SimpleCommunicator::world`] and what splits from it. MPI is called
/// from this thread alone; `rayon`'s threads may run beside it.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use margin_softmax::{Collective, Error};
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
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        report("MPI runs already; margin_softmax_mpi::run starts it");
        return ExitCode::FAILURE;
    };
    abort_on_panic();
    let collective = MpiCollective::new(&universe.world());
    let complaint = work(&collective).err().map(|error| format!("{error:#}"));
    let complaints = collective.roll.leave(complaint.as_deref());
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

/// From now on a panic, in any thread and even if it would be caught, is reported with the number
/// of its rank and ends the job: `mpirun` stops the other ranks, which would wait forever, and
/// answers with a non-zero status.
///
/// [`run`] does this. Elsewhere call it after MPI is initialised; before that, and once MPI is
/// finalised, a panic stays what it was.
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
