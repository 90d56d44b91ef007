//! What is known of one sample after the first sweep.

use super::labels::IGNORED;
use crate::math::LogSumExp;

/// What the first sweep finds for one sample among the classes of this rank, and once the other
/// ranks have added theirs, among all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampleStats {
    /// Its row in the batch.
    pub row: usize,
    pub label: usize,
    /// |x_i|.
    pub norm: f64,
    /// Of a binary loss the sum of the negatives' softplus, with a maximum of 0.
    pub negatives: LogSumExp,
    /// The same without class prior.
    pub margin_free_negatives: LogSumExp,
    /// The negatives' share of the mean of all logits, or of all sigmoids under a binary loss; 0
    /// unless one of them is needed.
    pub mean_share: f64,
    /// Its target logit, on the rank that holds its class.
    pub target: Option<TargetLogit>,
    /// The label of the nearest class without margin.
    pub prediction: usize,
    /// The logit of that class without margin; −∞ where this rank holds no class.
    pub best: f64,
    pub nearest_negative: NearestNegative,
}

/// The class other than its own that a sample is nearest to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NearestNegative {
    /// Its label; [`IGNORED`] where there is none.
    pub label: usize,
    /// Its logit by its cosine alone; −∞ where there is none.
    pub logit: f64,
    /// Its cosine; −1 where there is none.
    pub cosine: f64,
}

impl NearestNegative {
    pub const NONE: Self =
        NearestNegative { label: IGNORED, logit: f64::NEG_INFINITY, cosine: -1.0 };

    /// The class of a logit, which is `scale` times its cosine and `bias`.
    pub fn new(label: usize, logit: f64, bias: f64, scale: f64) -> Self {
        // A zero vector has a right angle to any other. Rounding alone exceeds 1.
        let cosine = if scale == 0.0 { 0.0 } else { ((logit - bias) / scale).clamp(-1.0, 1.0) };
        NearestNegative { label, logit, cosine }
    }
}

/// The logit of a sample for its own class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetLogit {
    /// z_iy, margin and class prior included.
    pub logit: f64,
    /// z_iy without margin and class prior.
    pub margin_free: f64,
    /// θ_iy.
    pub angle: f64,
    /// The penalty on the norm of the embedding.
    pub penalty: f64,
    /// Which row of its label is the nearest.
    pub sub_center: usize,
}
