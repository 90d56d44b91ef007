//! Losses of one logistic per pair instead of one softmax per sample (docs/math.md, section 14).

use super::angle::{Angle, Target};
use super::log_sum_exp::SampleTerms;
use crate::error::{Error, check};

/// The form of a binary loss: one logistic for each pair of a sample and a class, in place of one
/// softmax for each sample.
///
/// ```text
/// L_i  = w₊·softplus(−z_iy) + w₋·Σ_{j≠y} softplus(z_ij)
/// z_iy = s·f(θ_iy) + b               z_ij = s·h(θ_ij) + b
/// h(θ) = g(cos(θ − m)) + d           g(c) = 2·((1 + c)/2)^t − 1
/// ```
///
/// s and f are the scale and the target of the loss, b is one number for all classes. The scale must
/// be [`Fixed`](crate::Scale::Fixed); a step of a loss with another one, with label smoothing or
/// with hard negatives besides is refused with [`Error::Unsupported`].
///
/// ```
/// use margin_softmax::custom::BinaryForm;
///
/// // h = cos θ, as unified cross-entropy has it, and with t = 3.
/// let plain = BinaryForm::new(1.0, 1.0, -4.0);
/// assert_eq!(plain.with_negatives(3.0, 0.0, 0.2).shift(), 0.2);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinaryForm {
    positive: f64,
    negative: f64,
    bias: f64,
    exponent: f64,
    angle: f64,
    shift: f64,
}

impl BinaryForm {
    /// The loss with weights w₊ and w₋ and the bias b, whose negatives count as their cosine.
    pub fn new(positive: f64, negative: f64, bias: f64) -> Self {
        BinaryForm { positive, negative, bias, exponent: 1.0, angle: 0.0, shift: 0.0 }
    }

    /// The same with h of the exponent t ≥ 1, the angular margin m in [0, π) and the shift d.
    pub fn with_negatives(self, exponent: f64, angle: f64, shift: f64) -> Self {
        BinaryForm { exponent, angle, shift, ..self }
    }

    /// w₊ and w₋.
    pub fn weights(&self) -> (f64, f64) {
        (self.positive, self.negative)
    }

    /// b.
    pub fn bias(&self) -> f64 {
        self.bias
    }

    /// t.
    pub fn exponent(&self) -> f64 {
        self.exponent
    }

    /// m.
    pub fn angle(&self) -> f64 {
        self.angle
    }

    /// d.
    pub fn shift(&self) -> f64 {
        self.shift
    }

    /// h(θ).
    pub fn negative(&self, angle: &Angle) -> f64 {
        let cos = angle.cos * self.angle.cos() + angle.sin * self.angle.sin();
        self.margin_free(cos) + self.shift
    }

    /// The cosine of the angle beyond m where h is `value`; outside [−1, 1] where there is none.
    pub(crate) fn cosine_of(&self, value: f64) -> f64 {
        let u = 0.5 * (value - self.shift + 1.0);
        if !(0.0..=1.0).contains(&u) {
            return 4.0 * u - 2.0;
        }
        let theta = (2.0 * u.powf(self.exponent.recip()) - 1.0).acos() + self.angle;
        if theta > std::f64::consts::PI { -2.0 } else { theta.cos() }
    }

    /// g(c): what a logit without margin is before scale and bias.
    pub(crate) fn margin_free(&self, cos: f64) -> f64 {
        stretched(Target { value: cos, slope: 0.0 }, self.exponent).value
    }

    /// The largest that |h| can be.
    pub(crate) fn largest(&self) -> f64 {
        1.0 + self.shift.abs()
    }

    /// The largest |dh/d cos θ| of cosines that `epsilon` lies between: cot θ has no other bound.
    pub(crate) fn steepest(&self, epsilon: f64) -> f64 {
        self.exponent * (1.0 + self.angle.sin() * epsilon.sqrt().recip())
    }

    /// Refuses numbers that have no place in the formula.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        let BinaryForm { positive, negative, bias, exponent, angle, shift } = self;
        check!("weight of a binary loss", positive, "finite and >= 0")?;
        check!("weight of a binary loss", negative, "finite and >= 0")?;
        check!("bias b", bias, "finite")?;
        check!("exponent t", exponent, "finite and >= 1")?;
        check!("angular margin of the negatives", angle, "in [0, π) radians")?;
        check!("shift of the negatives", shift, "finite")?;
        Ok(self)
    }

    /// Loss and gradients of a sample, from the sum of its negatives' softplus and its target logit.
    pub(crate) fn terms(&self, negatives: f64, target_logit: f64, upstream: f64) -> SampleTerms {
        let (softplus, sigmoid) = softplus_and_sigmoid(-target_logit);
        SampleTerms {
            loss: self.positive * softplus + self.negative * negatives,
            one_minus_p: sigmoid,
            shift: 0.0,
            coefficient: upstream * self.negative,
            target_gradient: -upstream * self.positive * sigmoid,
            uniform: 0.0,
        }
    }

    /// dL/db of a sample, from the sum of its negatives' sigmoids and its target logit.
    pub(crate) fn bias_slope(&self, negatives: f64, target_logit: f64) -> f64 {
        self.negative * negatives - self.positive * softplus_and_sigmoid(-target_logit).1
    }
}

/// log(1 + e^z) and its derivative, from one exponential that cannot overflow.
fn softplus_and_sigmoid(z: f64) -> (f64, f64) {
    let e = (-z.abs()).exp();
    (z.max(0.0) + e.ln_1p(), if z >= 0.0 { 1.0 } else { e } / (1.0 + e))
}

/// g of a target: below −1, where only a continued cosine lies, it stays at −1 if t > 1.
pub(crate) fn stretched(Target { value, slope }: Target, t: f64) -> Target {
    if t == 1.0 {
        return Target { value, slope };
    }
    let u = (0.5 * (value + 1.0)).max(0.0);
    Target { value: 2.0 * u.powf(t) - 1.0, slope: t * u.powf(t - 1.0) * slope }
}
