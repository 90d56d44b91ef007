//! Whether logits and gradients stay within the range of the number type: checked before a step
//! writes anything.

use super::form::{LogitForm, Scale};
use crate::error::Error;
use crate::kernel::Real;
use crate::math::{SampleTarget, Target};

/// The largest bound that is accepted: sums and products on the way to a result stay finite.
fn largest_safe<F: Real>() -> f64 {
    F::MAX / 16.0
}

/// Refuses a bound beyond what is safe, NaN included.
pub(crate) fn check_bound<F: Real>(
    quantity: &'static str,
    row: Option<usize>,
    bound: f64,
) -> Result<(), Error> {
    let maximum = largest_safe::<F>();
    if bound <= maximum { Ok(()) } else { Err(Error::Overflow { quantity, row, bound, maximum }) }
}

/// The largest magnitude; `None` without numbers.
fn largest<'a, F: Real>(numbers: impl IntoIterator<Item = &'a F>) -> Option<f64> {
    numbers.into_iter().map(|number| number.widen().abs()).reduce(f64::max)
}

/// Bounds of everything that does not belong to one sample, and of the weight gradient so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    form: LogitForm,
    /// How many classes there are.
    classes: f64,
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
    /// The largest |N| and |N′| of a negative.
    pub negatives: (f64, f64),
}

impl Bounds {
    pub fn new<'a, F: Real>(
        form: LogitForm,
        classes: usize,
        weight_norms: (f64, f64),
        bias: impl IntoIterator<Item = &'a F>,
        log_prior: impl IntoIterator<Item = &'a F>,
    ) -> Self {
        let negatives = match (form.hard, form.binary) {
            (Some(hard), _) => (hard.largest(), hard.steepest()),
            (None, Some(binary)) => (binary.largest(), binary.steepest(F::epsilon().widen())),
            (None, None) => (1.0, 1.0),
        };
        Bounds {
            form,
            classes: classes as f64,
            weight_norms,
            bias: largest(bias),
            constant: largest(log_prior).unwrap_or(0.0) + form.bias().abs(),
            weight_gradient: 0.0,
            bias_gradient: 0.0,
            losses: 0.0,
            negatives,
        }
    }

    /// The factor of the cosines of a sample of this norm, at most.
    pub fn factor(&self, norm: f64) -> f64 {
        match self.form.scale {
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

    /// Refuses a sample of this norm and target (none where another rank holds its class), whose
    /// loss counts `upstream` times, where a logit or a gradient may leave the type's range.
    pub fn check<F: Real>(
        &mut self,
        row: usize,
        norm: f64,
        target: Option<SampleTarget>,
        upstream: f64,
    ) -> Result<(), Error> {
        let check = |quantity, bound| check_bound::<F>(quantity, Some(row), bound);
        // Of a target that another rank holds: |f| and |f′| are of the order of 1.
        let unknown = Target { value: 1.0, slope: 1.0 };
        let target = target.unwrap_or_else(|| unknown.into());
        let SampleTarget { value, slope, norm_slope, penalty, penalty_slope } = target;
        // Of the logits' gradients the negatives' are at most 1 + ε together, the target's 1. A
        // negative that is up-weighted changes by N′ with the cosine, by N − c·N′ with the norm.
        let smoothing = self.form.smoothing;
        let (largest, steepest) = self.negatives;
        let negatives = if largest > 1.0 || steepest > 1.0 { largest + steepest } else { 1.0 };
        let smoothed = upstream.abs() * (1.0 + smoothing);
        // The negatives of a binary loss each have a gradient of their own.
        let binary = self.form.binary.map(|binary| (binary.weights(), self.classes));
        let ((own, other), pairs) = binary.unwrap_or(((1.0, 1.0), 1.0));
        let of_target = own * (value.abs() + slope.abs());
        let gradient = smoothed * (pairs * other * negatives + of_target);
        let of_class = smoothed * (other * negatives + of_target);
        let (least, most) = self.weight_norms;
        // A product before its class's norm is divided out, and what multiplies the target's
        // gradient in those of embedding and class weight.
        let (product, embedding, weight) = match self.form.scale {
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
        let terms = binary.map_or(2.0 * (1.0 + smoothing), |_| own + other * pairs);
        self.losses += terms * logit + 64.0 * terms.max(1.0) + penalty.abs();
        check("the target logit", logit)?;
        if smoothing > 0.0 {
            check("the sum of the logits", logit * self.classes)?;
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
