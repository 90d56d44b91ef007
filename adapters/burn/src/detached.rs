//! Parallel work inside burn's backward pass.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{OnceLock, mpsc};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Runs `step`, during which this thread takes up no other task of its thread pool.
///
/// Burn holds the lock of a graph while it runs the graph's backward pass. A worker of rayon that
/// waits for the threads of a step takes up other tasks of its pool, and one that records an
/// operation in the same graph would wait for the lock that its own thread holds. A worker
/// therefore leaves the step to another pool and blocks.
pub(crate) fn run<T: Send + 'static>(step: impl FnOnce() -> T + Send + 'static) -> T {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    if rayon::current_thread_index().is_none() {
        return step();
    }
    let Some(pool) = POOL.get_or_init(|| ThreadPoolBuilder::new().build().ok()) else {
        return step();
    };
    let (sender, receiver) = mpsc::channel();
    pool.spawn(move || {
        // The receiver waits below.
        sender.send(catch_unwind(AssertUnwindSafe(step))).ok();
    });
    let result = receiver.recv().expect("a step that panics sends its panic");
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
