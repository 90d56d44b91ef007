//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod collective;
mod job;
mod report;
mod roll;

pub use collective::MpiCollective;
pub use job::{abort_on_panic, run};
/// rsmpi, in the version that this crate works with.
pub use mpi;
