//! The steps of one rank follow one another.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// A step in progress on a rank.
pub(super) struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    /// Refuses a step while another is in progress, in place of waiting for it.
    pub fn take(busy: &'a AtomicBool) -> Result<Self, Error> {
        if busy.swap(true, Ordering::Acquire) { Err(Error::Busy) } else { Ok(Turn(busy)) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
