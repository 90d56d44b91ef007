#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod check;
mod error;
mod head;
mod node;
mod tensor;

pub use error::refusal;
pub use head::MarginHead;
