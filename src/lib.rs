//! [api]: crate
//! [benchmarks]: guide::benchmarks
//! [burn]: https://docs.rs/margin-softmax-burn
//! [burn-recipe]: https://docs.rs/margin-softmax-burn
//! [candle]: https://docs.rs/margin-softmax-candle
//! [coming-from]: guide::coming_from
//! [engine]: guide::engine
//! [evaluation]: https://docs.rs/margin-softmax-evaluation
//! [features]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/features.png
//! [glossary]: guide::glossary
//! [losses]: guide::losses
//! [math]: guide::math
//! [mpi]: https://docs.rs/margin-softmax-mpi
//! [recipes]: guide::recipes
//! [training-loop]: guide::training_loop
//! [which-loss]: guide::which_loss
//!
#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod boundary;
#[cfg(feature = "serde")]
pub mod config;
pub mod custom;
mod data;
pub mod energy;
mod error;
mod gradcheck;
pub mod guide;
mod head;
mod kernel;
mod logits;
mod loss;
pub mod losses;
mod math;
pub mod offload;
mod parallel;
mod parameters;
pub mod ranks;
pub mod sampling;
pub mod schedule;
mod step;
pub mod sub_centers;
pub mod update;

pub use data::{
    Batch, BatchMut, Forward, Gradients, IGNORED, Reduction, Scale, labels_from,
    labels_from_ignoring,
};
pub use error::Error;
pub use head::{Head, TopK};
pub use kernel::{Precision, Real};
pub use logits::{LogitGradients, NormalizedLogits};
pub use loss::MarginLoss;
pub use losses::names::*;
/// The version of ndarray whose arrays this crate takes.
pub use ndarray;
pub use step::ZeroEmbedding;
pub use update::{AdamW, Sgd};
