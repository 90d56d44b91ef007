//! The trait of all losses: a scale, and what the margin does to the target's angle.

use std::fmt::Debug;
use std::sync::Arc;

use ndarray::Array2;

use crate::data::{Forward, LogitForm, Reduction, Scale};
use crate::error::Error;
use crate::kernel::Real;
use crate::logits::{LogitGradients, NormalizedLogits, TargetAnswer};
use crate::math::{Angle, SINGULAR, Target};

/// A margin-based softmax loss: a scale and a target function, from which all else follows.
///
/// For sample i with label y, scale a_i and cosines cos θ_ij, the loss is the cross-entropy of the
/// logits z in its softplus form:
///
/// ```text
/// z_ij = a_i·cos θ_ij  (j ≠ y)      z_iy = a_i·f(θ_iy)
/// L_i  = log(1 + e^{S_i − z_iy})    S_i  = log Σ_{j≠y} e^{z_ij}
/// ```
///
/// A new loss implements [`scale`](Self::scale) and [`target`](Self::target) and runs everywhere:
/// here, in [`Head`](crate::Head), with sampled classes and with classes split over ranks.
/// [`check_loss`](crate::check_loss) tests whether its slope is the derivative of its value.
///
/// The trait is implemented for `&L`, `Box<L>` and `Arc<L>`, so that a `Box<dyn MarginLoss>`
/// chosen at run time is a loss as well.
///
/// ```
/// use margin_softmax::{Angle, Error, MarginLoss, NormalizedLogits, Reduction, Scale, Target};
/// use ndarray::array;
///
/// /// s·(cos θ − m·sin²θ): a margin that is largest at right angles.
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

    /// The target logit before the scale, f(θ), and its slope df/dθ.
    ///
    /// Both must be finite for every θ in [0, π]; if not, the step is refused with
    /// [`Error::Target`].
    fn target(&self, angle: &Angle) -> Target;

    /// The label smoothing ε in [0, 1]; 0, which costs nothing, unless a loss sets it. See
    /// [`LabelSmoothing`](crate::LabelSmoothing), which adds it to any loss.
    ///
    /// A step of a loss with another value is refused with [`Error::Parameter`].
    fn label_smoothing(&self) -> f64 {
        0.0
    }

    /// The losses of a batch whose cosines are materialised.
    ///
    /// # Errors
    /// `labels` that do not fit the cosines, a bias where the loss has none, and
    /// [`Error::DegenerateNorm`] for zero rows, which only Softmax accepts.
    fn forward<F: Real>(
        &self,
        logits: &NormalizedLogits<F>,
        labels: &[usize],
    ) -> Result<Forward<F>, Error>
    where
        Self: Sized,
    {
        crate::logits::forward(form_of(self)?, logits, labels, answer(self))
    }

    /// The gradients of the reduced losses with respect to cosines, target angles, norms and bias.
    ///
    /// `forward` is what [`forward`](Self::forward) returned for the same logits and labels.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), where the weights of the reduction are not one finite number
    /// per sample, and [`Error::Forward`] where `forward` is that of another loss (also of this
    /// loss before its margin or scale was changed), of other logits or of other labels.
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
        self.backward_into(logits, labels, forward, reduction, &mut gradients)?;
        Ok(gradients)
    }

    /// As [`backward`](Self::backward), into existing gradients: nothing of the size of the cosines
    /// is allocated.
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
        let form = form_of(self)?;
        crate::logits::backward(form, logits, labels, answer(self), forward, reduction, gradients)
    }

    /// The logits of inference (N, C), without margin: a_ij·cos θ_ij, plus the bias of Softmax.
    /// The cosines themselves are [`NormalizedLogits::cosines`]; the nearest class of every
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
    /// [`Error::Bias`] where the logits have a bias and the loss has none, [`Error::Overflow`],
    /// [`Error::DegenerateNorm`].
    fn margin_free_logits<F: Real>(&self, logits: &NormalizedLogits<F>) -> Result<Array2<F>, Error>
    where
        Self: Sized,
    {
        crate::logits::margin_free(form_of(self)?, logits)
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

            fn label_smoothing(&self) -> f64 {
                (**self).label_smoothing()
            }
        }
    )*};
}

through_pointer!(&L, Box<L>, Arc<L>);

/// The form of the logits of `loss`.
pub(crate) fn form_of<L: MarginLoss + ?Sized>(loss: &L) -> Result<LogitForm, Error> {
    let scale = loss.scale().checked()?;
    let smoothing = check_label_smoothing(loss.label_smoothing())?;
    // Where a loss agrees with the plain cosine at these angles it may be Softmax; each target is
    // compared once more at its own angle before it is treated as an inner product.
    let probes = [0.0, 0.5, 1.0, 2.0, 3.0].map(Angle::from_theta);
    let is_plain = |angle: &Angle| loss.target(angle) == Target::plain(angle);
    let plain = scale == Scale::Unnormalized && probes.iter().chain([&Angle::RIGHT]).all(is_plain);
    Ok(LogitForm { scale, plain, smoothing })
}

/// Checks a label smoothing.
pub(crate) fn check_label_smoothing(epsilon: f64) -> Result<f64, Error> {
    let valid = (0.0..=1.0).contains(&epsilon);
    Error::check_parameter("label smoothing epsilon", epsilon, "in [0, 1]", valid)
}

/// The target of `loss` at the angle of sample `row`; refused unless it is finite.
pub(crate) fn checked_target<L: MarginLoss + ?Sized>(
    loss: &L,
    angle: &Angle,
    row: usize,
) -> Result<Target, Error> {
    let target = loss.target(angle);
    if target.is_finite() {
        return Ok(target);
    }
    let Target { value, slope } = target;
    Err(Error::Target { row, theta: angle.theta, value, slope })
}

/// Evaluates `loss` at the target angle of a sample, for the materialised level.
fn answer<L: MarginLoss + ?Sized>(
    loss: &L,
) -> impl Fn(usize, &Angle) -> Result<TargetAnswer, Error> + '_ {
    move |row, angle| {
        let target = checked_target(loss, angle, row)?;
        Ok(TargetAnswer { target, cosine_slope: cosine_slope(loss, angle, target) })
    }
}

/// df/dcos θ = −f′/sin θ: its limit where sine and slope vanish together, and 0, the convention for
/// a cone, where only the sine does (docs/math.md, section 2).
fn cosine_slope<L: MarginLoss + ?Sized>(loss: &L, angle: &Angle, target: Target) -> f64 {
    const NEARBY: f64 = 1e-6;
    if angle.sin > SINGULAR {
        return -target.slope / angle.sin;
    }
    if target.slope.abs() > NEARBY {
        return 0.0;
    }
    let theta = if angle.cos > 0.0 { NEARBY } else { std::f64::consts::PI - NEARBY };
    let nearby = Angle { theta, cos: angle.cos, sin: NEARBY.sin() };
    -loss.target(&nearby).slope / nearby.sin
}
