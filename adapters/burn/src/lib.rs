//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod detached;
mod graph;
mod head;
mod inputs;
mod memory;
mod operations;
mod options;

pub use config::MarginHeadConfig;
pub use head::{MarginHead, NO_CLASS};
pub use margin_softmax::offload::Settings;
pub use margin_softmax_device::SelfCheck;
pub use memory::Precision;
pub use options::{Options, Output, Reduction};
