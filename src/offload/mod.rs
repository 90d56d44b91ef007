//! A step whose sweeps over the classes run elsewhere, such as on a graphics card.

mod backward;
mod classes;
mod complete;
mod nearest;
mod step;

pub use crate::kernel::BinaryLogits;
pub use crate::math::{LogSumExp, SampleTerms, Smoothing, sample_terms};
pub use crate::step::Settings;
pub use backward::{EmbeddingGradient, LogitFactors, TargetGradients};
pub use classes::OffloadedClasses;
pub use complete::OffloadedBackward;
pub use step::{HardNegativeLogits, NegativeLogit, OffloadedStep, SweepStats};
