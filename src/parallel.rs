//! Jobs in their order, on as many threads as there are workers.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

/// Hands jobs out in their order, one at a time to each worker, until there are none. With one
/// worker everything runs on the calling thread.
///
/// The lock is held while a job is taken, never while one runs: a job may itself wait for rayon.
pub(crate) fn run_jobs<J: Send, S: Send>(
    mut jobs: impl Iterator<Item = J> + Send,
    workers: &mut [S],
    run: impl Fn(&mut S, J) + Sync,
) {
    if let [worker] = workers {
        return jobs.for_each(|job| run(worker, job));
    }
    let jobs = Mutex::new(&mut jobs);
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    workers.par_iter_mut().with_max_len(1).for_each(|worker| {
        while let Some(job) = next() {
            run(worker, job);
        }
    });
}

/// Splits `rest` after `len` entries, or fewer if there are no more, and returns the first part.
pub(crate) fn split_off<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let len = len.min(rest.len());
    rest.split_off_mut(..len).unwrap_or_default()
}
