//! Cross-entropy in its softplus form: exact from p = 0 to p → 1.

/// The negatives of one sample, $\sum_{j\ne y} e^{z_j}$, held as $e^{max}\cdot sum$ so that
/// nothing overflows and the largest term is 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Negatives {
    /// The largest logit among them; −∞ where there is none.
    pub max: f64,
    /// $\sum_{j\ne y} e^{z_j - max}$; 0 where there is none.
    pub sum: f64,
}

impl Negatives {
    pub const NONE: Self = Negatives { max: f64::NEG_INFINITY, sum: 0.0 };

    /// The negatives of both.
    pub fn merge(self, other: Self) -> Self {
        if other.sum == 0.0 {
            return self;
        }
        if self.sum == 0.0 {
            return other;
        }
        let max = self.max.max(other.max);
        let rescaled = |part: Self| part.sum * (part.max - max).exp();
        Negatives { max, sum: rescaled(self) + rescaled(other) }
    }

    /// The loss of a sample whose target logit is `target`, and $\sigma = 1 - p_y$.
    ///
    /// With $d = S - z_y$: $L = \max(d, 0) + \log(1 + e^{-|d|})$, and $\sigma$ from the same
    /// exponential, never as $1 - p$. No negatives, no loss.
    pub fn cross_entropy(self, target: f64) -> CrossEntropy {
        if self.sum == 0.0 {
            return CrossEntropy { loss: 0.0, miss: 0.0 };
        }
        let d = (self.max - target) + self.sum.ln();
        let e = (-d.abs()).exp();
        let miss = if d >= 0.0 { 1.0 } else { e } / (1.0 + e);
        CrossEntropy { loss: d.max(0.0) + e.ln_1p(), miss }
    }
}

/// What one sample gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CrossEntropy {
    /// $L = -\log p_y$.
    pub loss: f64,
    /// $\sigma = 1 - p_y$.
    pub miss: f64,
}
