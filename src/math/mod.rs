//! The mathematics that every loss shares, in f64: angles, pairs of vectors, log-sum-exp.

mod angle;
mod binary;
mod continuation;
mod hard_negatives;
mod log_sum_exp;
mod pair;
mod sample;
mod smoothing;
mod top_margin;

pub use angle::{Angle, Target};
pub use binary::BinaryForm;
pub(crate) use binary::stretched;
pub use continuation::Continuation;
pub(crate) use continuation::annealed;
pub use hard_negatives::HardNegatives;
pub use log_sum_exp::{LogSumExp, SampleTerms, sample_terms};
pub(crate) use pair::{CLASS_WEIGHT, EMBEDDING, Pair, SINGULAR};
pub use sample::{Sample, SampleTarget};
pub use smoothing::Smoothing;
pub use top_margin::TopMargin;
