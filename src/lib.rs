#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod batch;
mod boundary;
mod class_parallel;
#[cfg(feature = "serde")]
mod config;
mod continuation;
mod cross_entropy;
mod energy;
pub mod engine;
mod error;
mod geometry;
mod gradcheck;
pub mod guide;
mod head;
mod kernel;
mod logits;
mod loss;
mod losses;
mod parallel;
mod range;
mod sampling;
mod schedule;

pub use batch::{Batch, Forward, Gradients, Reduction};
pub use boundary::Boundary;
pub use class_parallel::{ClassParallel, Collective, Shard, ThreadCollective, class_range};
#[cfg(feature = "serde")]
pub use config::LossConfig;
pub use continuation::Continuation;
pub use energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
pub use error::Error;
pub use gradcheck::{GradientCheck, Place, check_loss};
pub use head::{Head, ZeroEmbedding};
pub use kernel::Real;
pub use logits::{LogitGradients, NormalizedLogits};
pub use loss::{Angle, MarginLoss, Scale, Target};
pub use losses::{
    ArcFace, CosFace, FNormSphereFace, Generalized, ModifiedSoftmax, Softmax, SphereFace,
};
pub use sampling::{ClassSample, ClassSampler, SampledGradients, SamplerState};
pub use schedule::{LambdaAnnealing, MarginWarmup, adacos_scale};
