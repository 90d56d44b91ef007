//! Negatives that are up-weighted.

use crate::error::{Error, check};
use crate::kernel::Real;

/// Which negatives a loss makes harder, and how: of the cosine c of a class that is not the
/// sample's own,
///
/// ```text
/// N(c) = c                        c ≤ h
/// N(c) = q0 + q1·c + q2·c²        c > h         z_ij = a_i·N(cos θ_ij)
/// ```
///
/// takes the place. The threshold h is the sample's own target f, margin included, or a constant.
/// It only selects: no gradient flows through it. A cosine within rounding of f, 16ε, is not above.
/// Predictions, accuracy and margin-free logits are of the plain cosines.
///
/// | loss | threshold | (q0, q1, q2) |
/// |---|---|---|
/// | [`CurricularFace`](crate::CurricularFace) | f | (0, t, 1) |
/// | [`MvSoftmax`](crate::MvSoftmax) | f | (t, 1 + t, 0) |
/// | [`InterclassFilter`](crate::InterclassFilter) | a constant | (0, 0, 0) |
///
/// The scale must be [`Fixed`](crate::Scale::Fixed) or [`FeatureNorm`](crate::Scale::FeatureNorm);
/// under `Unnormalized` there is no cosine, and a step is refused with [`Error::Unsupported`].
///
/// ```
/// use margin_softmax::custom::HardNegatives;
///
/// let doubled = HardNegatives::above(0.4, 0.0, 2.0, 0.0);
/// assert_eq!([0.3, 0.4, 0.5].map(|c| doubled.value(c, 0.0)), [0.3, 0.4, 1.0]);
/// let above_target = HardNegatives::above_target(0.0, 2.0, 0.0);
/// assert_eq!([0.3, 0.5].map(|c| above_target.value(c, 0.45)), [0.3, 1.0]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HardNegatives {
    /// The constant threshold; `None` for the sample's own target.
    cosine: Option<f64>,
    coefficients: [f64; 3],
}

impl HardNegatives {
    /// Negatives whose cosine is above the sample's own target f count as q0 + q1·c + q2·c².
    pub fn above_target(q0: f64, q1: f64, q2: f64) -> Self {
        HardNegatives { cosine: None, coefficients: [q0, q1, q2] }
    }

    /// Negatives whose cosine is above `cosine` count as q0 + q1·c + q2·c².
    pub fn above(cosine: f64, q0: f64, q1: f64, q2: f64) -> Self {
        HardNegatives { cosine: Some(cosine), coefficients: [q0, q1, q2] }
    }

    /// The threshold h where it is a constant; `None` where it is the sample's own target.
    pub fn cosine(&self) -> Option<f64> {
        self.cosine
    }

    /// q0, q1 and q2.
    pub fn coefficients(&self) -> [f64; 3] {
        self.coefficients
    }

    /// N(c), for a sample whose target is f.
    pub fn value(&self, c: f64, target: f64) -> f64 {
        let [q0, q1, q2] = self.coefficients;
        if c > self.limit::<f64>(target) { q0 + c * (q1 + c * q2) } else { c }
    }

    /// The threshold h of a sample whose target is f.
    pub fn threshold(&self, target: f64) -> f64 {
        self.cosine.unwrap_or(target)
    }

    /// The threshold that a cosine computed in `F` is compared with: none is above 1, though rounding
    /// puts that of parallel vectors there; and a class weight that points the same way as the
    /// sample's own is not nearer than that, as rounding may have it where there is no margin.
    pub(crate) fn limit<F: Real>(&self, target: f64) -> f64 {
        let threshold = self.threshold(target);
        let tie = if self.cosine.is_none() { 16.0 * F::epsilon().widen() } else { 0.0 };
        if threshold < 1.0 { threshold + tie } else { f64::INFINITY }
    }

    /// The largest that |N| can be.
    pub(crate) fn largest(&self) -> f64 {
        self.coefficients.iter().map(|q| q.abs()).sum::<f64>().max(1.0)
    }

    /// The largest that |N′| can be.
    pub(crate) fn steepest(&self) -> f64 {
        let [_, q1, q2] = self.coefficients;
        (q1.abs() + 2.0 * q2.abs()).max(1.0)
    }

    /// Refuses numbers that are not finite.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        let names = ["q0 of hard negatives", "q1 of hard negatives", "q2 of hard negatives"];
        for (name, q) in names.into_iter().zip(self.coefficients) {
            check!(name, q, "finite")?;
        }
        if let Some(cosine) = self.cosine {
            check!("threshold of hard negatives", cosine, "finite")?;
        }
        Ok(self)
    }
}
