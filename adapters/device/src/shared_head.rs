//! The core's head, behind a loss that can be replaced.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use margin_softmax::{Head, MarginLoss};

/// The core's head, of a loss that is known at run time.
pub type Core = Head<Arc<dyn MarginLoss>>;

/// The core's head, shared by the clones of a margin head.
///
/// The lock is held while a pointer is copied or replaced, never during a step. A step takes all of
/// rayon's threads and may run other tasks while it waits for them: a lock held by a step would be
/// waited for by the thread that holds it.
#[derive(Debug, Clone)]
pub struct SharedHead(Arc<Mutex<Arc<Core>>>);

impl SharedHead {
    /// Shares this head.
    pub fn new(core: Core) -> Self {
        SharedHead(Arc::new(Mutex::new(Arc::new(core))))
    }

    /// The head of one step, which keeps its loss even if that is replaced meanwhile.
    pub fn core(&self) -> Arc<Core> {
        self.lock().clone()
    }

    /// Replaces the loss for the steps that start from now on. The buffers are kept unless a step
    /// is running.
    pub fn set_loss(&self, loss: Arc<dyn MarginLoss>) {
        let previous = {
            let mut core = self.lock();
            mem::replace(Arc::make_mut(&mut core).loss_mut(), loss)
        };
        // The loss of a user, dropped without the lock.
        drop(previous);
    }

    /// A head of its own with other settings and the same loss.
    pub fn with(&self, settings: impl FnOnce(Core) -> Core) -> Self {
        SharedHead::new(settings(Core::clone(&self.core())))
    }

    /// A panic cannot leave the pointer half-written.
    fn lock(&self) -> MutexGuard<'_, Arc<Core>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
