//! What a loss is: a scale, and what the margin does to the target's angle.

use std::fmt::Debug;
use std::sync::Arc;

use ndarray::Array2;

use crate::batch::{Forward, Reduction};
use crate::error::Error;
use crate::kernel::Real;
use crate::logits::{LogitGradients, NormalizedLogits};

/// What multiplies the cosine to make a logit.
///
/// | scale | logit of class $j$ for sample $i$ | used by |
/// |---|---|---|
/// | `Fixed(s)` | $s\cos\theta_{ij}$ | F-Norm SphereFace, CosFace, ArcFace, Generalized |
/// | `FeatureNorm` | $\lVert x_i\rVert\cos\theta_{ij}$ | ModifiedSoftmax, SphereFace, Generalized |
/// | `Unnormalized` | $\lVert w_j\rVert\lVert x_i\rVert\cos\theta_{ij} + b_j$ | Softmax |
///
/// A plain number is a fixed scale: `Scale::from(64.0)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// One factor $s > 0$ for every logit: embeddings and class weights are both normalised.
    Fixed(f64),
    /// The norm of the embedding: only the class weights are normalised.
    FeatureNorm,
    /// The norms of embedding and class weight: the plain inner product, plus a bias if one is given.
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
            let valid = s.is_finite() && s > 0.0;
            Error::check_parameter("scale s", s, "finite and > 0", valid)?;
        }
        Ok(self)
    }
}

/// The angle between an embedding and the weight of its own class.
///
/// Cosine and sine come from the same geometry as the angle, so that each is accurate where the
/// others lose digits: `sin` has full relative accuracy down to $\theta = 0$ and up to $\pi$.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Angle {
    /// $\theta \in [0, \pi]$, in radians.
    pub theta: f64,
    /// $\cos\theta$.
    pub cos: f64,
    /// $\sin\theta \ge 0$.
    pub sin: f64,
}

impl Angle {
    /// The angle of `theta` radians, $\theta \in [0, \pi]$.
    pub fn from_theta(theta: f64) -> Self {
        Angle { theta, cos: theta.cos(), sin: theta.sin() }
    }

    /// The angle of a cosine; what rounding put beyond ±1 is read as ±1.
    pub fn from_cos(cos: f64) -> Self {
        let cos = cos.clamp(-1.0, 1.0);
        let sin = ((1.0 - cos) * (1.0 + cos)).sqrt();
        Angle { theta: sin.atan2(cos), cos, sin }
    }
}

/// The target logit before the scale, and how it changes with the angle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// $f(\theta)$.
    pub value: f64,
    /// $df/d\theta$.
    pub slope: f64,
}

/// A margin-based softmax loss: two short answers, from which all else follows.
///
/// For sample $i$ with label $y$, scale $a_i$ and cosines $\cos\theta_{ij}$ the logits are
/// $z_{ij} = a_i\cos\theta_{ij}$ for $j \ne y$ and $z_{iy} = a_i f(\theta_{iy})$, and the loss is
/// the cross-entropy in its softplus form,
///
/// $$ L_i = \log(1 + e^{S_i - z_{iy}}), \qquad S_i = \log\sum_{j\ne y} e^{z_{ij}}. $$
///
/// A new loss writes [`scale`](Self::scale) and [`target`](Self::target) and runs everywhere:
/// here, in [`Head`](crate::Head), with sampled classes and with classes split over ranks.
/// [`check_loss`](crate::check_loss) tells whether its slope is the derivative of its value.
///
/// The trait is implemented for `&L`, `Box<L>` and `Arc<L>`, so that a `Box<dyn MarginLoss>`
/// chosen at run time serves wherever a loss does.
///
/// ```
/// use margin_softmax::{Angle, Error, MarginLoss, NormalizedLogits, Reduction, Scale, Target};
/// use ndarray::array;
///
/// /// s cos θ − m sin²θ: a margin that presses hardest at right angles.
/// #[derive(Debug)]
/// struct Equator { s: f64, m: f64 }
///
/// impl MarginLoss for Equator {
///     fn scale(&self) -> Scale { Scale::Fixed(self.s) }
///     fn target(&self, angle: &Angle) -> Target {
///         Target {
///             value: angle.cos - self.m * angle.sin * angle.sin,
///             slope: -angle.sin - 2.0 * self.m * angle.sin * angle.cos,
///         }
///     }
/// }
///
/// let (x, w) = (array![[1.0, 2.0]], array![[2.0, 1.0], [-1.0, 0.5]]);
/// let logits = NormalizedLogits::new(&x, &w)?;
/// let loss = Equator { s: 16.0, m: 0.2 };
/// let forward = loss.forward(&logits, &[0])?;
/// let gradients = loss.backward(&logits, &[0], &forward, Reduction::Mean)?;
/// assert!(forward.mean() > 0.0 && gradients.target_angles[0] > 0.0);
/// # Ok::<(), Error>(())
/// ```
pub trait MarginLoss: Debug + Send + Sync {
    /// What multiplies the cosines.
    fn scale(&self) -> Scale;

    /// The target logit before the scale, $f(\theta)$, and its slope $df/d\theta$.
    ///
    /// Both must be finite for every $\theta \in [0, \pi]$; if not, the step is refused with
    /// [`Error::Target`].
    fn target(&self, angle: &Angle) -> Target;

    /// The losses of a batch whose cosines are at hand.
    ///
    /// # Errors
    /// `labels` that do not fit the cosines, and a bias where the loss has none.
    fn forward<F: Real>(
        &self,
        logits: &NormalizedLogits<F>,
        labels: &[usize],
    ) -> Result<Forward<F>, Error>
    where
        Self: Sized,
    {
        crate::logits::forward(self, logits, labels)
    }

    /// The gradients of the reduced losses with respect to cosines, target angles, norms and bias.
    ///
    /// `forward` is what [`forward`](Self::forward) answered for the same logits and labels.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where `forward` or the weights of the reduction do not
    /// have one entry a sample, or are not finite.
    fn backward<F: Real>(
        &self,
        logits: &NormalizedLogits<F>,
        labels: &[usize],
        forward: &Forward<F>,
        reduction: Reduction<'_, F>,
    ) -> Result<LogitGradients<F>, Error>
    where
        Self: Sized,
    {
        let mut gradients = LogitGradients::zeros_for(logits);
        crate::logits::backward(self, logits, labels, forward, reduction, &mut gradients)?;
        Ok(gradients)
    }

    /// As [`backward`](Self::backward), into gradients that are there already: nothing of the size
    /// of the cosines is allocated.
    ///
    /// # Errors
    /// As [`backward`](Self::backward), and where `gradients` are not
    /// [`zeros_for`](LogitGradients::zeros_for) these logits; they are then as they were.
    fn backward_into<F: Real>(
        &self,
        logits: &NormalizedLogits<F>,
        labels: &[usize],
        forward: &Forward<F>,
        reduction: Reduction<'_, F>,
        gradients: &mut LogitGradients<F>,
    ) -> Result<(), Error>
    where
        Self: Sized,
    {
        crate::logits::backward(self, logits, labels, forward, reduction, gradients)
    }

    /// The logits of inference (N, C), without margin: $a_{ij}\cos\theta_{ij}$, plus the bias of
    /// Softmax. The cosines themselves are [`NormalizedLogits::cosines`]; the nearest class of every
    /// embedding, without N×C numbers, is [`Head::predict`](crate::Head::predict).
    ///
    /// ```
    /// use margin_softmax::{ArcFace, MarginLoss, NormalizedLogits};
    /// use ndarray::array;
    ///
    /// let logits = NormalizedLogits::new(&array![[2.0, 0.0]], &array![[3.0, 0.0], [0.0, 1.0]])?;
    /// let scaled = ArcFace::new(64.0, 0.5)?.margin_free_logits(&logits)?;
    /// assert_eq!(scaled, array![[64.0, 0.0]]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Bias`] where the logits have a bias and the loss has none, [`Error::Overflow`].
    fn margin_free_logits<F: Real>(&self, logits: &NormalizedLogits<F>) -> Result<Array2<F>, Error>
    where
        Self: Sized,
    {
        crate::logits::margin_free(self, logits)
    }
}

macro_rules! through_pointer {
    ($($pointer:ty),*) => {$(
        impl<L: MarginLoss + ?Sized> MarginLoss for $pointer {
            fn scale(&self) -> Scale {
                (**self).scale()
            }

            fn target(&self, angle: &Angle) -> Target {
                (**self).target(angle)
            }
        }
    )*};
}

through_pointer!(&L, Box<L>, Arc<L>);
