//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod collective;
mod deadline;
mod job;
mod operations;
mod report;
mod roll;
mod worker;

pub use collective::MpiCollective;
pub use job::{abort_on_panic, run, run_with_timeout};
/// rsmpi, in the version that this crate works with.
pub use mpi;
