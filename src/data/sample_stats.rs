//! What lies between the sweeps, for one sample: from what the first sweep found to its loss and to
//! what the second sweep needs.

use super::forward::Forward;
use super::target_pair::TargetPair;
use crate::kernel::Real;
use crate::math::{LogSumExp, SampleTerms, Smoothing, sample_terms};

/// What the first sweep finds for one sample among the classes of this rank, and once the other
/// ranks have added theirs, among all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SampleStats {
    /// Its row in the batch.
    pub row: usize,
    pub label: usize,
    /// |x_i|.
    pub norm: f64,
    pub negatives: LogSumExp,
    /// The negatives' share of the mean of all logits; 0 unless labels are smoothed.
    pub mean_share: f64,
    /// Its target logit, on the rank that holds its class.
    pub target: Option<TargetLogit>,
    /// The label of the nearest class without margin.
    pub prediction: usize,
    /// The logit of that class without margin; −∞ where this rank holds no class.
    pub best: f64,
}

/// The logit of a sample for its own class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetLogit {
    /// z_iy, margin included.
    pub logit: f64,
    /// z_iy without margin.
    pub margin_free: f64,
    /// θ_iy.
    pub angle: f64,
    /// The penalty on the norm of the embedding.
    pub penalty: f64,
    /// Which row of its label is the nearest.
    pub sub_center: usize,
}

impl TargetLogit {
    pub fn new(pair: &TargetPair, sub_center: usize) -> Self {
        TargetLogit {
            logit: pair.logit,
            margin_free: pair.margin_free_logit,
            angle: pair.angle.theta,
            penalty: pair.target.penalty,
            sub_center,
        }
    }
}

impl SampleStats {
    /// Records the sample in `forward`, once its target is known; returns its terms, for a loss that
    /// counts `upstream` times.
    pub fn record<F: Real>(
        &self,
        smoothing: Smoothing,
        upstream: f64,
        forward: &mut Forward<F>,
    ) -> SampleTerms {
        let target_logit = self.target.map_or(f64::INFINITY, |target| target.logit);
        let terms = sample_terms(self.negatives, target_logit, upstream);
        if let Some(target) = self.target {
            let added = smoothing.loss(target_logit, self.mean_share);
            forward.record(self, &target, terms.loss + added);
        }
        smoothing.gradients(terms, upstream)
    }
}
