//! [margin-softmax]: https://docs.rs/margin-softmax
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod all_pairs;
mod bootstrap;
mod cost;
mod error;
mod estimate;
mod figure;
mod figures;
mod folds;
mod histogram;
mod identification;
mod labels;
mod pairs;
#[cfg(feature = "plot")]
pub mod plot;
mod ranking;
mod real;
mod resampling;
mod retrieval;
mod roc;
mod scores;
mod search;
mod steps;
mod threshold;
mod tiles;
mod unit;
mod verification;

pub use all_pairs::AllPairs;
pub use bootstrap::{Bootstrap, Interval};
pub use cost::DetectionCost;
pub use error::Error;
pub use estimate::{EqualError, Estimate, MinimumCost, OperatingPoint};
pub use figure::Figure;
pub use folds::{Fold, FoldRates, Folds, KFolds, k_folds, k_folds_of};
pub use identification::Identification;
pub use labels::Labels;
/// The version of ndarray whose arrays this crate takes.
pub use ndarray;
pub use pairs::pair_cosines;
pub use ranking::RankedQuery;
pub use real::Real;
pub use retrieval::Retrieval;
pub use roc::{Roc, RocPoint};
pub use threshold::Threshold;
pub use verification::Verification;
