//! [burn]: https://docs.rs/margin-softmax-burn
//! [burn-recipe]: https://docs.rs/margin-softmax-burn
//! [candle]: https://docs.rs/margin-softmax-candle
//! [coming-from]: guide::coming_from
//! [engine]: engine
//! [evaluation]: https://docs.rs/margin-softmax-evaluation
//! [features]: https://raw.githubusercontent.com/margin-softmax/margin-softmax/main/docs/features.png
//! [math]: guide::math
//! [mpi]: https://docs.rs/margin-softmax-mpi
//! [recipes]: guide::recipes
//! [which-loss]: guide::which_loss
//!
#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod boundary;
mod class_parallel;
#[cfg(feature = "serde")]
mod config;
mod data;
mod energy;
pub mod engine;
mod error;
mod gradcheck;
pub mod guide;
mod head;
mod kernel;
mod logits;
mod loss;
mod losses;
mod math;
mod parallel;
mod parameters;
mod sampling;
mod schedule;
mod sub_centers;
mod update;

pub use boundary::Boundary;
pub use class_parallel::{
    ClassParallel, Collective, Shard, ShardMut, ThreadCollective, class_range,
};
#[cfg(feature = "serde")]
pub use config::LossConfig;
pub use data::{
    Batch, BatchMut, ClassSample, Forward, Gradients, IGNORED, Reduction, SampledGradients, Scale,
    labels_from, labels_from_ignoring,
};
pub use energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
pub use error::Error;
pub use gradcheck::{GradientCheck, Place, check_loss};
pub use head::{
    EmbeddingGradient, HardLogits, Head, LogitFactors, OffloadedClasses, OffloadedStep, SweepStats,
    TargetGradients, ZeroEmbedding,
};
pub use kernel::{Precision, Real};
pub use logits::{LogitGradients, NormalizedLogits};
pub use loss::MarginLoss;
pub use losses::*;
pub use math::{
    Angle, Continuation, HardNegatives, LogSumExp, Sample, SampleTarget, SampleTerms, Smoothing,
    Target, sample_terms,
};
/// The version of ndarray whose arrays this crate takes.
pub use ndarray;
pub use sampling::{ClassSampler, SamplerState};
pub use schedule::{LambdaAnnealing, MarginWarmup, adacos_scale};
pub use sub_centers::SubCenterUsage;
pub use update::{AdamW, Magnitudes, RowUpdate, Sgd, UpdateStep, WeightUpdate};
