//! Label smoothing of one sample (docs/math.md, section 11).

use super::log_sum_exp::SampleTerms;

/// Label smoothing ε among C classes: the target of the cross-entropy is 1 − ε + ε/C for a sample's
/// own class and ε/C for every other.
///
/// ```text
/// L        = log(1 + e^{S − z_y}) + ε·(z_y − (1/C)·Σ_j z_j)
/// ∂L/∂z_j  = p_j − ε/C  (j ≠ y)      ∂L/∂z_y = −σ + ε·(1 − 1/C)
/// ```
///
/// For an engine of your own: apply it to what [`sample_terms`](crate::offload::sample_terms) returns.
///
/// ```
/// use margin_softmax::offload::{LogSumExp, Smoothing, sample_terms};
///
/// // Negatives with logits 1 and 0, the target logit 2.
/// let negatives = LogSumExp::new(1.0, 1.0 + (-1.0_f64).exp());
/// let smoothing = Smoothing::new(0.3, 3);
/// let terms = smoothing.gradients(sample_terms(negatives, 2.0, 1.0), 1.0);
/// let loss = terms.loss + smoothing.loss(2.0, smoothing.share(1.0 + 0.0));
/// assert!((loss - (1.0_f64.exp() + 1.0 + 2.0_f64.exp()).ln() + 0.8 * 2.0 + 0.1).abs() < 1e-14);
/// let negatives = terms.coefficient * negatives.sum - 2.0 * terms.uniform;
/// assert!((negatives + terms.target_gradient).abs() < 1e-15); // gradients of logits sum to 0
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Smoothing {
    epsilon: f64,
    classes: usize,
}

impl Smoothing {
    /// Label smoothing `epsilon` in [0, 1] among `classes`: those that are active, the sampled ones
    /// in a sampled step. Of one class there is nothing to smooth.
    pub fn new(epsilon: f64, classes: usize) -> Self {
        let epsilon = if classes > 1 { epsilon } else { 0.0 };
        Smoothing { epsilon, classes: classes.max(1) }
    }

    pub(crate) fn classes(&self) -> usize {
        self.classes
    }

    /// The part of the mean of all logits that is due to some: their `sum` over C.
    pub fn share(&self, sum: f64) -> f64 {
        sum / self.classes as f64
    }

    /// What is added to the loss, ε·(z_y − (1/C)·Σ_j z_j), from the target logit and the
    /// [`share`](Self::share) of the negatives.
    pub fn loss(&self, target_logit: f64, negatives: f64) -> f64 {
        if self.epsilon == 0.0 {
            return 0.0; // whatever the logits: a sample without negatives has infinite ones
        }
        self.epsilon * (target_logit * (1.0 - 1.0 / self.classes as f64) - negatives)
    }

    /// The same terms with the gradients of the smoothed loss, which counts `upstream` times.
    pub fn gradients(&self, terms: SampleTerms, upstream: f64) -> SampleTerms {
        if self.epsilon == 0.0 {
            return terms; // bit for bit, the sign of a zero included
        }
        let classes = self.classes as f64;
        let uniform = upstream * (self.epsilon / classes);
        let target_gradient = terms.target_gradient + uniform * (classes - 1.0);
        SampleTerms { uniform, target_gradient, ..terms }
    }
}
