//! Cross-entropy in its softplus form: exact from p = 0 to p → 1 (docs/math.md, section 4).

/// The log-sum-exp of one sample's negatives, log Σ_{j≠y} e^{z_j}, held as `max + log sum` so that
/// nothing overflows and the largest term is 1.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LogSumExp {
    /// The largest logit among the negatives; −∞ where there is none.
    pub max: f64,
    /// Σ_{j≠y} e^{z_j − max}; 0 where there is none.
    pub sum: f64,
}

impl LogSumExp {
    /// The log-sum-exp of nothing.
    pub const NONE: Self = LogSumExp { max: f64::NEG_INFINITY, sum: 0.0 };

    /// The largest logit, and the sum of the exponentials of all logits less the largest.
    pub fn new(max: f64, sum: f64) -> Self {
        LogSumExp { max, sum }
    }

    /// The log-sum-exp of both sets of negatives together.
    pub fn merge(self, other: Self) -> Self {
        if other.sum == 0.0 {
            return self;
        }
        if self.sum == 0.0 {
            return other;
        }
        let max = self.max.max(other.max);
        let rescaled = |part: Self| {
            if part.max == max { part.sum } else { part.sum * (part.max - max).exp() }
        };
        LogSumExp { max, sum: rescaled(self) + rescaled(other) }
    }
}

/// What lies between the two sweeps over the classes: the loss of a sample, and what the second
/// sweep needs to turn logits into gradients. See [`sample_terms`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct SampleTerms {
    /// L = −log p_y = log(1 + e^{S − z_y}).
    pub loss: f64,
    /// σ = 1 − p_y, from the same exponential as the loss, never as 1 − p.
    pub one_minus_p: f64,
    /// What is taken off a negative's logit before its exponential; finite.
    pub shift: f64,
    /// What multiplies that exponential: ∂objective/∂z_j = coefficient · e^{z_j − shift}, j ≠ y.
    pub coefficient: f64,
    /// ∂objective/∂z_y = −g·σ.
    pub target_gradient: f64,
    /// What label smoothing takes off ∂objective/∂z_j of every negative: g·ε/C; 0 without.
    pub uniform: f64,
}

impl SampleTerms {
    /// ∂objective/∂z_j of a negative with the logit z_j.
    pub(crate) fn negative_gradient(&self, logit: f64) -> f64 {
        self.coefficient * (logit - self.shift).exp() - self.uniform
    }
}

/// The loss of one sample and the gradient of its logits, from the log-sum-exp of its negatives and
/// its target logit.
///
/// With S = log Σ_{j≠y} e^{z_j}, d = S − z_y and the upstream gradient g = ∂objective/∂L:
///
/// ```text
/// L = max(d, 0) + log(1 + e^−|d|)      σ = 1 − p_y = 1/(1 + e^−d)
/// ∂objective/∂z_j = g·σ·e^{z_j − S}    ∂objective/∂z_y = −g·σ
/// ```
///
/// Both are exact to rounding for every d, where log p underflows and p − 1 cancels. A sample
/// without negatives has loss 0 and no gradient. Every engine calls this function, as does an engine
/// of your own, for instance on a graphics card.
///
/// ```
/// use margin_softmax::offload::{LogSumExp, sample_terms};
///
/// // Two negatives with logits 1 and 0, the target logit 20, the objective the loss itself.
/// let terms = sample_terms(LogSumExp::new(1.0, 1.0 + (-1.0_f64).exp()), 20.0, 1.0);
/// let d = (1.0_f64.exp() + 1.0).ln() - 20.0;
/// assert!((terms.loss / d.exp().ln_1p() - 1.0).abs() < 1e-14);
/// let negatives = terms.coefficient * (1.0 + (-1.0_f64).exp());
/// assert!((negatives + terms.target_gradient).abs() < 1e-24); // gradients of logits sum to 0
/// ```
///
/// **Source**: docs/math.md, section 4.
pub fn sample_terms(negatives: LogSumExp, target_logit: f64, upstream: f64) -> SampleTerms {
    if negatives.sum == 0.0 {
        return SampleTerms::default();
    }
    let d = (negatives.max - target_logit) + negatives.sum.ln();
    let e = (-d.abs()).exp();
    let one_minus_p = if d >= 0.0 { 1.0 } else { e } / (1.0 + e);
    let gradient = upstream * one_minus_p;
    SampleTerms {
        loss: d.max(0.0) + e.ln_1p(),
        one_minus_p,
        shift: negatives.max,
        coefficient: gradient / negatives.sum,
        target_gradient: -gradient,
        uniform: 0.0,
    }
}
