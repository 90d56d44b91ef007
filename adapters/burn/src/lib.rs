//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backward;
mod config;
mod detached;
mod device;
mod engine;
mod head;
mod inputs;
mod memory;
mod operation;
mod reduction;

pub use config::MarginHeadConfig;
pub use device::SelfCheck;
pub use head::{MarginHead, NO_CLASS};
pub use memory::Precision;
pub use reduction::Reduction;
