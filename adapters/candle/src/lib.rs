//! [margin-softmax]: margin_softmax
//!
#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod check;
mod device;
mod engine;
mod error;
mod head;
mod inputs;
mod node;
mod reduction;
mod tensor;

pub use device::SelfCheck;
pub use error::refusal;
pub use head::{MarginHead, NO_CLASS};
pub use reduction::Reduction;
