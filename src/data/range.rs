//! Whether logits and gradients stay within the range of the number type: checked before a step
//! writes anything.

use super::form::Scale;
use crate::error::Error;
use crate::kernel::Real;
use crate::math::{BinaryForm, HardNegatives, SampleTarget, Target};

/// The largest bound that is accepted: sums and products on the way to a result stay finite.
pub(crate) fn largest_safe<F: Real>() -> f64 {
    F::MAX / 16.0
}

/// The largest magnitude; `None` without numbers.
fn largest<'a, F: Real>(numbers: impl IntoIterator<Item = &'a F>) -> Option<f64> {
    numbers.into_iter().map(|number| number.widen().abs()).reduce(f64::max)
}

/// Bounds of everything that does not belong to one sample, and of the weight gradient so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub scale: Scale,
    /// The smallest and the largest norm of a class weight.
    pub weight_norms: (f64, f64),
    /// The largest magnitude of a bias, where there is one, whose gradient is computed.
    pub bias: Option<f64>,
    /// The largest magnitude of a class prior, and of the bias of a binary loss.
    constant: f64,
    /// Bounds on the norm of every row of the weights' gradient, and on the gradient of every
    /// bias, from the samples so far.
    ///
    /// By `docs/math.md`, section 3, sample i gives the row of a class j ≠ y at most |g_i|·a_i/q_j,
    /// or |g_i|·r_i under Softmax, and that of its own class as much times |D_i| + |f_i|, and each
    /// bias at most |g_i|. The sums over the samples bound every row, and a row's norm bounds its
    /// entries. Rounding exceeds them by parts in a million at most, which [`largest_safe`] leaves
    /// room for.
    pub weight_gradient: f64,
    pub bias_gradient: f64,
    losses: f64,
    /// The label smoothing, and how many classes there are whose logits it adds up.
    smoothing: (f64, usize),
    /// The largest |N| and |N′| of a negative.
    pub negatives: (f64, f64),
    /// Of a binary loss the weights of a sample's own pair and of each other, and how many there are.
    pairs: Option<(f64, f64, f64)>,
}

impl Bounds {
    pub fn new<'a, F: Real>(
        scale: Scale,
        weight_norms: (f64, f64),
        bias: impl IntoIterator<Item = &'a F>,
    ) -> Self {
        Bounds {
            scale,
            weight_norms,
            bias: largest(bias),
            constant: 0.0,
            weight_gradient: 0.0,
            bias_gradient: 0.0,
            losses: 0.0,
            smoothing: (0.0, 0),
            negatives: (1.0, 1.0),
            pairs: None,
        }
    }

    /// The same for logits with a class prior.
    pub fn with_log_prior<'a, F: Real>(self, prior: impl IntoIterator<Item = &'a F>) -> Self {
        Bounds { constant: largest(prior).unwrap_or(0.0), ..self }
    }

    /// The same for label smoothing among `classes`.
    pub fn with_smoothing(self, epsilon: f64, classes: usize) -> Self {
        Bounds { smoothing: (epsilon, classes), ..self }
    }

    /// The same for negatives that are up-weighted.
    pub fn with_hard_negatives(self, hard: Option<HardNegatives>) -> Self {
        let negatives = hard.map_or((1.0, 1.0), |hard| (hard.largest(), hard.steepest()));
        Bounds { negatives, ..self }
    }

    /// The factor of the cosines of a sample of this norm, at most.
    pub fn factor(&self, norm: f64) -> f64 {
        match self.scale {
            Scale::Fixed(s) => s,
            Scale::FeatureNorm => norm,
            Scale::Unnormalized => norm * self.weight_norms.1,
        }
    }

    /// A bound on the logits of a sample of this norm whose target is f.
    pub fn logit(&self, norm: f64, f: f64) -> f64 {
        let added = self.bias.unwrap_or(0.0) + self.constant;
        self.factor(norm) * f.abs().max(self.negatives.0) + added
    }

    /// The same for one logistic for each pair with `classes`.
    pub fn with_binary<F: Real>(self, binary: Option<BinaryForm>, classes: usize) -> Self {
        let Some(binary) = binary else { return self };
        let (own, other) = binary.weights();
        Bounds {
            constant: self.constant + binary.bias().abs(),
            negatives: (binary.largest(), binary.steepest(F::epsilon().widen())),
            pairs: Some((own, other, classes as f64)),
            ..self
        }
    }

    /// Refuses a sample of this norm and target (none where another rank holds its class), whose
    /// loss counts `upstream` times, where a logit or a gradient may leave the type's range.
    pub fn check<F: Real>(
        &mut self,
        row: usize,
        norm: f64,
        target: Option<SampleTarget>,
        upstream: f64,
    ) -> Result<(), Error> {
        let maximum = largest_safe::<F>();
        let check = |quantity: &'static str, bound: f64| {
            if bound <= maximum {
                return Ok(());
            }
            Err(Error::Overflow { quantity, row, bound, maximum })
        };
        // Of a target that another rank holds: |f| and |f′| are of the order of 1.
        let unknown = Target { value: 1.0, slope: 1.0 };
        let target = target.unwrap_or_else(|| unknown.into());
        let SampleTarget { value, slope, norm_slope, penalty, penalty_slope } = target;
        // Of the logits' gradients the negatives' are at most 1 + ε together, the target's 1. A
        // negative that is up-weighted changes by N′ with the cosine, by N − c·N′ with the norm.
        let (smoothing, classes) = self.smoothing;
        let (largest, steepest) = self.negatives;
        let negatives = if largest > 1.0 || steepest > 1.0 { largest + steepest } else { 1.0 };
        let smoothed = upstream.abs() * (1.0 + smoothing);
        // The negatives of a binary loss each have a gradient of their own.
        let (own, other, pairs) = self.pairs.unwrap_or((1.0, 1.0, 1.0));
        let of_target = own * (value.abs() + slope.abs());
        let gradient = smoothed * (pairs * other * negatives + of_target);
        let of_class = smoothed * (other * negatives + of_target);
        let (least, most) = self.weight_norms;
        // A product before its class's norm is divided out, and what multiplies the target's
        // gradient in those of embedding and class weight.
        let (product, embedding, weight) = match self.scale {
            Scale::Fixed(s) => (s * most, (s / norm).max(1.0 / least), s / least),
            Scale::FeatureNorm => (norm * most, 1.0_f64.max(1.0 / least), norm / least),
            Scale::Unnormalized => (norm * most, most, norm),
        };
        let factor = self.factor(norm);
        check("the product of embedding and class weight", product)?;
        let logit = self.logit(norm, value);
        // A loss is at most two such logits apart, and the logarithm of the classes; smoothing adds
        // ε times the distance of the target logit from the mean.
        // A binary loss is the sum of as many softplus as there are pairs.
        let terms = self.pairs.map_or(2.0 * (1.0 + smoothing), |_| own + other * pairs);
        self.losses += terms * logit + 64.0 * terms.max(1.0) + penalty.abs();
        check("the target logit", logit)?;
        if smoothing > 0.0 {
            check("the sum of the logits", logit * classes as f64)?;
        }
        check("the sum of the losses", self.losses)?;
        // An infinite factor of a slope that is 0 is no bound.
        let part = |factor: f64, slope: f64| if slope == 0.0 { 0.0 } else { factor * slope.abs() };
        let by_norm = part(smoothed * factor, norm_slope) + part(upstream.abs(), penalty_slope);
        check("the gradient of the embedding", gradient * embedding + by_norm)?;
        self.bias_gradient += smoothed;
        if self.bias.is_some() {
            check("the gradient of the bias", self.bias_gradient)?;
        }
        self.weight_gradient += of_class * weight;
        check("the gradient of the class weights", self.weight_gradient)
    }
}
