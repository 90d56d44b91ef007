//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod check;
mod error;
mod head;
mod node;
mod operations;
mod options;
mod tensor;

pub use error::refusal;
pub use head::{MarginHead, NO_CLASS};
pub use margin_softmax::offload::Settings;
pub use margin_softmax_device::SelfCheck;
pub use options::{Options, Output, Reduction};
