//! What goes into a step and what comes out of it. No file here depends on a loss.

mod batch;
mod batch_mut;
mod classes;
mod form;
mod forward;
mod gradients;
mod labels;
mod range;
mod rows;
mod sample;
mod sample_stats;
mod target_pair;

pub use batch::{Batch, Reduction};
pub(crate) use batch::{
    Samples, check_finite, check_matrices, check_rows_of_sub_centers, check_sub_centers,
};
pub use batch_mut::BatchMut;
pub(crate) use classes::{Classes, ClassesMut, Given};
pub(crate) use form::LogitForm;
pub use form::Scale;
pub use forward::Forward;
pub use gradients::Gradients;
pub use labels::{IGNORED, labels_from, labels_from_ignoring};
pub(crate) use range::{Bounds, check_bound};
pub(crate) use rows::{
    View2, check_norm, check_reported_norm, contiguous, has_direction, norm_of, room_for,
};
pub use sample::ClassSample;
pub(crate) use sample_stats::{NearestNegative, SampleStats, TargetLogit};
pub(crate) use target_pair::TargetPair;
