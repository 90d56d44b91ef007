//! The trait of all losses: a scale, and what the margin does to the target's angle.

use std::fmt::Debug;
use std::sync::Arc;

use ndarray::Array2;

use crate::data::{Forward, LogitForm, Reduction, Scale};
use crate::error::{Error, check};
use crate::kernel::Real;
use crate::logits::{LogitGradients, NormalizedLogits};
use crate::math::{
    Angle, BinaryForm, HardNegatives, SINGULAR, Sample, SampleTarget, Target, TopMargin,
};

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
/// [`check_loss`](crate::custom::check_loss) tests whether its slope is the derivative of its value.
///
/// The trait is implemented for `&L`, `Box<L>` and `Arc<L>`, so that a `Box<dyn MarginLoss>`
/// chosen at run time is a loss as well.
///
/// ```
/// use margin_softmax::{Error, MarginLoss, NormalizedLogits, Reduction, Scale};
/// use margin_softmax::custom::{Angle, Target};
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

    /// The target logit before the scale, f(θ), and its slope df/dθ: all that most losses write.
    /// Where the margin depends on more than the angle, that of a typical sample, as
    /// [`Boundary`](crate::boundary::Boundary) draws it.
    ///
    /// Both must be finite for every θ in [0, π]; if not, the step is refused with
    /// [`Error::Target`].
    fn target(&self, angle: &Angle) -> Target;

    /// The target of one sample, by its angle, norm, label and row, and a penalty on its norm.
    ///
    /// Every part must be finite; if not, the step is refused with [`Error::Target`].
    fn target_of(&self, sample: &Sample) -> SampleTarget {
        self.target(&sample.angle).into()
    }

    /// Which negatives are up-weighted; none unless a loss says so, which costs
    /// nothing.
    ///
    /// Numbers that are not finite are refused with [`Error::Parameter`], and the scale
    /// `Unnormalized` with [`Error::Unsupported`].
    fn hard_negatives(&self) -> Option<HardNegatives> {
        None
    }

    /// The margin on each sample's nearest negatives; none unless a loss says so, which costs
    /// nothing. See [`TopNegatives`](crate::TopNegatives), which adds it to any loss.
    ///
    /// Numbers out of their range are refused with [`Error::Parameter`], and the scale
    /// `Unnormalized` with [`Error::Unsupported`].
    fn top_negatives(&self) -> Option<TopMargin> {
        None
    }

    /// Refuses a number of classes, over all ranks, that the loss was not made for: one with
    /// margins of its own for each class. Called before every step.
    ///
    /// # Errors
    /// Whatever the loss returns; every number is accepted unless it says otherwise.
    fn check_classes(&self, _classes: usize) -> Result<(), Error> {
        Ok(())
    }

    /// The label smoothing ε in [0, 1]; 0, which costs nothing, unless a loss sets it. See
    /// [`LabelSmoothing`](crate::LabelSmoothing), which adds it to any loss.
    ///
    /// A step of a loss with another value is refused with [`Error::Parameter`].
    fn label_smoothing(&self) -> f64 {
        0.0
    }

    /// What makes this a binary loss, one logistic for each pair of a sample and a class in place of one
    /// softmax for each sample; none unless a loss says so, which costs nothing.
    ///
    /// Numbers out of their range are refused with [`Error::Parameter`]; label smoothing and hard
    /// negatives besides, and any scale but `Fixed`, with [`Error::Unsupported`].
    fn binary(&self) -> Option<BinaryForm> {
        None
    }

    /// The losses of a batch whose cosines are materialized.
    ///
    /// # Errors
    /// `labels` that do not fit the cosines, a bias where the loss has none,
    /// [`Error::DegenerateNorm`] for zero rows, which only Softmax accepts, and those of the loss's
    /// own methods.
    fn forward<F: Real>(
        &self,
        logits: &NormalizedLogits<F>,
        labels: &[usize],
    ) -> Result<Forward<F>, Error>
    where
        Self: Sized,
    {
        logits.losses_of(self, labels)
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
        logits.gradients_of(self, labels, forward, reduction, gradients)
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
        logits.margin_free_of(self)
    }
}

/// The named methods of a loss are those of another one. The types of [`MarginLoss`] and this macro
/// are those that the caller imports.
macro_rules! forward {
    ($self:ident => $loss:expr; $($method:ident)*) => { $(forward! { @$method $self, $loss; })* };
    (@scale $($of:tt)*) => { forward! { @fn $($of)* scale() -> Scale } };
    (@target $($of:tt)*) => { forward! { @fn $($of)* target(angle: &Angle) -> Target } };
    (@target_of $($of:tt)*) => { forward! { @fn $($of)* target_of(at: &Sample) -> SampleTarget } };
    (@hard_negatives $($of:tt)*) => {
        forward! { @fn $($of)* hard_negatives() -> Option<HardNegatives> }
    };
    (@top_negatives $($of:tt)*) => { forward! { @fn $($of)* top_negatives() -> Option<TopMargin> } };
    (@binary $($of:tt)*) => { forward! { @fn $($of)* binary() -> Option<BinaryForm> } };
    (@check_classes $($of:tt)*) => {
        forward! { @fn $($of)* check_classes(classes: usize) -> Result<(), Error> }
    };
    (@label_smoothing $($of:tt)*) => { forward! { @fn $($of)* label_smoothing() -> f64 } };
    (@fn $self:ident, $loss:expr; $method:ident($($argument:ident: $type:ty)?) -> $result:ty) => {
        fn $method(&$self $(, $argument: $type)?) -> $result {
            $loss.$method($($argument)?)
        }
    };
}
pub(crate) use forward;

macro_rules! through_pointer {
    ($($pointer:ty),*) => {$(
        impl<L: MarginLoss + ?Sized> MarginLoss for $pointer {
            forward! { self => (**self);
                scale target target_of hard_negatives top_negatives binary check_classes
                label_smoothing
            }
        }
    )*};
}
through_pointer!(&L, Box<L>, Arc<L>);

/// The form of the logits of `loss`.
pub(crate) fn form_of<L: MarginLoss + ?Sized>(loss: &L) -> Result<LogitForm, Error> {
    let scale = loss.scale().checked()?;
    let smoothing = check!("label smoothing epsilon", loss.label_smoothing(), "in [0, 1]")?;
    let hard = loss.hard_negatives().map(HardNegatives::checked).transpose()?;
    let top = loss.top_negatives().map(TopMargin::checked).transpose()?;
    let binary = loss.binary().map(BinaryForm::checked).transpose()?;
    let (has_cosines, is_softmax) = (scale != Scale::Unnormalized, binary.is_none());
    let reason = "hard negatives compare cosines, and there are none under Scale::Unnormalized";
    Error::check_supported(has_cosines || hard.is_none(), reason)?;
    let reason = "the nearest negatives have an angular margin, and there are no angles under \
                  Scale::Unnormalized";
    Error::check_supported(has_cosines || top.is_none(), reason)?;
    let has_no_part_of_softmax = smoothing == 0.0 && hard.is_none() && top.is_none();
    let reason = "label smoothing, hard and nearest negatives belong to a softmax, and a binary \
                  loss has none";
    Error::check_supported(is_softmax || has_no_part_of_softmax, reason)?;
    let is_fixed = matches!(scale, Scale::Fixed(_));
    Error::check_supported(is_softmax || is_fixed, "a binary loss needs a fixed scale")?;
    // Where a loss agrees with the plain cosine at these samples it may be Softmax; each target is
    // compared once more for its own sample before it is treated as an inner product.
    let angles = [0.0, 0.5, 1.0, 2.0, 3.0].map(Angle::from_theta);
    let is_plain = |angle: &Angle| {
        let samples = [0.0, 1.0, 30.0].map(|norm| Sample::new(*angle, norm, 0, 0));
        samples.iter().all(|sample| loss.target_of(sample) == Target::plain(angle).into())
    };
    let plain = scale == Scale::Unnormalized && angles.iter().chain([&Angle::RIGHT]).all(is_plain);
    Ok(LogitForm { scale, plain, smoothing, hard, top, binary })
}

/// The target of `loss` for a sample; refused unless it is finite.
pub(crate) fn checked_target<L: MarginLoss + ?Sized>(
    loss: &L,
    sample: &Sample,
) -> Result<SampleTarget, Error> {
    let target = loss.target_of(sample);
    if let Some((field, value)) = target.not_finite() {
        let &Sample { angle: Angle { theta, .. }, norm, row, .. } = sample;
        return Err(Error::Target { row, theta, norm, field, value });
    }
    Ok(target)
}

/// df/dcos θ = −f′/sin θ: its limit where sine and slope vanish together, and 0, the convention for
/// a cone, where only the sine does (docs/math.md, section 2).
pub(crate) fn cosine_slope(loss: &dyn MarginLoss, sample: &Sample, target: SampleTarget) -> f64 {
    const NEARBY: f64 = 1e-6;
    let angle = sample.angle;
    if angle.sin > SINGULAR {
        return -target.slope / angle.sin;
    }
    if target.slope.abs() > NEARBY {
        return 0.0;
    }
    let theta = if angle.cos > 0.0 { NEARBY } else { std::f64::consts::PI - NEARBY };
    let nearby = Angle { theta, cos: angle.cos, sin: NEARBY.sin() };
    -loss.target_of(&Sample { angle: nearby, ..*sample }).slope / nearby.sin
}
