//! [margin-softmax-burn]: https://docs.rs/margin-softmax-burn
//! [margin-softmax-candle]: https://docs.rs/margin-softmax-candle
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod arrays;
mod binary;
mod first_sweep;
mod offloaded;
mod operations;
mod options;
mod second_sweep;
mod self_check;
mod shared_head;
mod step;
mod tiles;

pub use arrays::Labels;
pub use operations::{Binary, Map, Operations, Reduce};
pub use options::{Options, Output, Reducer, Reduction};
pub use self_check::{SelfCheck, SelfCheckBatch};
pub use shared_head::{Core, SharedHead};
pub use step::{Objective, Parameters, Step, StepGradients, WeightGradient};
