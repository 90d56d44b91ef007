//! How a cosine becomes a logit.

use crate::error::{Error, check};
use crate::kernel::{BinaryLogits, Real};
use crate::math::{BinaryForm, HardNegatives, LogSumExp, SampleTerms, TopMargin, sample_terms};

/// What multiplies the cosine to make a logit.
///
/// | scale | logit of class j for sample i | used by |
/// |---|---|---|
/// | `Fixed(s)` | s·cos θ_ij | F-Norm SphereFace, CosFace, ArcFace, Generalized |
/// | `FeatureNorm` | ‖x_i‖·cos θ_ij | ModifiedSoftmax, SphereFace, Generalized |
/// | `Unnormalized` | ‖w_j‖·‖x_i‖·cos θ_ij + b_j | Softmax |
///
/// A plain number is a fixed scale: `Scale::from(64.0)`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Scale {
    /// One factor s > 0 for every logit: embeddings and class weights are both normalized.
    Fixed(f64),
    /// The norm of the embedding: only the class weights are normalized.
    FeatureNorm,
    /// The norms of embedding and class weight: the plain inner product, plus a bias if one is
    /// given.
    Unnormalized,
}

impl From<f64> for Scale {
    fn from(s: f64) -> Self {
        Scale::Fixed(s)
    }
}

impl Scale {
    /// Refuses a fixed scale that is not finite and positive.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        if let Scale::Fixed(s) = self {
            check!("scale s", s, "finite and > 0")?;
        }
        Ok(self)
    }
}

/// The form of a loss's logits: all that the engines need of a loss besides its targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitForm {
    pub scale: Scale,
    /// Whether the target logit is the inner product itself, as that of Softmax is: then no vector
    /// needs a direction, and zero rows are valid.
    pub plain: bool,
    /// The label smoothing ε; 0 without.
    pub smoothing: f64,
    /// Negatives that are up-weighted.
    pub hard: Option<HardNegatives>,
    /// The margin on the nearest negatives.
    pub top: Option<TopMargin>,
    /// One logistic for each pair in place of the softmax.
    pub binary: Option<BinaryForm>,
}

impl LogitForm {
    /// Refuses a bias unless the logits are inner products.
    pub fn check_bias(self, given: bool) -> Result<(), Error> {
        if given && self.scale != Scale::Unnormalized { Err(Error::Bias) } else { Ok(()) }
    }

    /// Refuses the correction of a sample for a binary loss.
    pub fn check_correction(self, given: bool) -> Result<(), Error> {
        let reason = "the correction of a sample is one of the softmax: a binary loss takes samples \
                      without it";
        Error::check_supported(!given || self.binary.is_none(), reason)
    }

    /// Whether the largest logit among those of the softmax may be that of another class than the
    /// nearest: some negatives count by another number than their cosine, or there is no softmax.
    pub fn changes_negatives(self) -> bool {
        self.hard.is_some() || self.top.is_some() || self.binary.is_some()
    }

    /// Whether a sweep sums the negatives' logits, or the sigmoids of a binary loss.
    pub fn sums_negatives(self) -> bool {
        self.smoothing > 0.0 || self.binary.is_some()
    }

    /// What is known of the negatives before the first: no log-sum-exp, or a sum of softplus, which is
    /// held with a maximum of 0.
    pub fn no_negatives(self) -> LogSumExp {
        if self.binary.is_some() { LogSumExp::new(0.0, 0.0) } else { LogSumExp::NONE }
    }

    /// Whether the largest logit of all negatives, margin-free, may be so far above those that it
    /// does not count among that nothing is left of them beside it.
    pub fn needs_maxima_of_others(self) -> bool {
        const SAFE: f64 = 32.0; // e^32 times the smallest share is far below a rounding
        let falls = |top: TopMargin| match self.scale {
            Scale::Fixed(s) => s * (1.0 - top.margin.cos()),
            Scale::FeatureNorm | Scale::Unnormalized => f64::INFINITY,
        };
        self.hard.is_some() || self.top.is_some_and(|top| falls(top) > SAFE)
    }

    /// How a tile's products become the logits of a binary loss.
    pub fn binary_logits<F: Real>(self) -> Option<BinaryLogits<F>> {
        let (binary, Scale::Fixed(s)) = (self.binary?, self.scale) else { return None };
        let (sin, cos) = binary.angle().sin_cos();
        // Times 0, or as a power, infinity would be NaN.
        let finite = |number: f64| F::narrow(number.min(F::MAX));
        Some(BinaryLogits {
            cosine: F::narrow(self.product_scale::<F>(1.0).recip()),
            scale: F::narrow(s),
            exponent: finite(binary.exponent()),
            margin: [cos, sin].map(F::narrow),
            offset: F::narrow(s * binary.shift() + binary.bias()),
        })
    }

    /// What the loss itself adds to a target logit.
    pub fn bias(self) -> f64 {
        self.binary.map_or(0.0, |binary| binary.bias())
    }

    /// The target logit without margin, before scale and bias.
    pub fn margin_free(self, cos: f64) -> f64 {
        self.binary.map_or(cos, |binary| binary.margin_free(cos))
    }

    /// Loss and gradients of a sample; for a binary loss `negatives` holds the sum of their softplus.
    pub fn terms(self, negatives: LogSumExp, target_logit: f64, upstream: f64) -> SampleTerms {
        match self.binary {
            Some(binary) => binary.terms(negatives.sum, target_logit, upstream),
            None => sample_terms(negatives, target_logit, upstream),
        }
    }

    /// a_i, the factor of sample i's cosines apart from the norm of the class weight.
    pub fn row_scale(self, norm: f64) -> f64 {
        if let Scale::Fixed(s) = self.scale { s } else { norm }
    }

    /// The factor of sample i's cosines in the products of a sweep: a_i, but no factor so small that
    /// the products leave the range of `F`, in which their order would be lost. A logit below ε is
    /// as good as 0 to the exponential.
    pub fn product_scale<F: Real>(self, norm: f64) -> f64 {
        let scale = self.row_scale(norm);
        if self.scale == Scale::Unnormalized { scale } else { scale.max(F::epsilon().widen()) }
    }

    /// The same where the class weights are divided by their norms before the products, which can
    /// be as small as the norm of the embedding then.
    pub fn offloaded_scale<F: Real>(self, norm: f64) -> f64 {
        if let Scale::Fixed(_) = self.scale { self.product_scale::<F>(norm) } else { norm }
    }

    /// What makes up for a `factor` of the products, one of the two above, that is larger than a_i.
    pub fn made_up(self, norm: f64, factor: f64) -> f64 {
        let scale = self.row_scale(norm);
        if scale < factor { scale / factor } else { 1.0 }
    }

    /// a_ij, the factor of one cosine.
    pub fn pair_scale(self, norm: f64, weight_norm: f64) -> f64 {
        if self.scale == Scale::Unnormalized { norm * weight_norm } else { self.row_scale(norm) }
    }
}
