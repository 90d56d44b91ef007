//! Finite differences for any loss, user-defined ones included.

mod differences;
mod small_batch;

use std::f64::consts::PI;
use std::fmt;

use crate::data::{Gradients, Reduction, Scale};
use crate::error::Error;
use crate::head::Head;
use crate::loss::MarginLoss;
use crate::math::{Angle, Sample};
use differences::Given;
use small_batch::{CLASSES, Rescaled, SmallBatch};

/// The worst disagreement that [`check_loss`] found between gradients and finite differences.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientCheck {
    /// The disagreement beyond the rounding errors of the differences: relative to the largest entry
    /// of the gradient, to max(1, |f′|) for a slope, to the size of f or of the penalty for a
    /// derivative by the norm.
    pub error: f64,
    /// Where it is.
    pub place: Coordinate,
    /// What the loss gives there.
    pub given: f64,
    /// What differences give there.
    pub expected: f64,
}

/// A derivative that [`check_loss`] tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Coordinate {
    /// A derivative that the loss returns for a sample.
    Sample {
        /// `target` for df/dθ as [`MarginLoss::target`] returns it; else the field of what
        /// [`MarginLoss::target_of`] returns: `slope`, `norm_slope` or `penalty_slope`.
        field: &'static str,
        /// The angle in radians.
        theta: f64,
        /// The norm of the embedding.
        norm: f64,
    },
    /// An entry of a gradient, as [`Head`] computes it.
    Gradient {
        /// What the gradient is of: `embeddings` or `class weights`.
        argument: &'static str,
        /// The scale under which the loss was run.
        scale: Scale,
        /// The angle of the first sample to its class, in radians.
        theta: f64,
        /// The sample, or the class.
        row: usize,
        /// The dimension.
        column: usize,
    },
}

impl fmt::Display for GradientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradientCheck { error, place, given, expected } = self;
        write!(f, "error {error:.1e} at {place:?}: given {given}, by differences {expected}")
    }
}

/// Compares the derivatives of a loss with central differences in f64, and returns the largest
/// disagreement.
///
/// It tests the slope of the target function at angles from 10⁻³ to π − 10⁻³; the slopes by angle
/// and norm, and that of the penalty, of samples with norms from 0.5 to 150; and the gradients of
/// embeddings and class weights of a small batch with target angles over the same range, with small
/// and with large norms, under the loss's own scale, a fixed scale and the feature norm. Where the
/// loss has [hard negatives](MarginLoss::hard_negatives), some are above the threshold and some
/// below. The differences are of sixth order, with steps that shrink until they are small against the
/// structure of the loss; at a kink or a jump the side without it counts. The error of a correct loss
/// is below 10⁻⁷, whatever its margins and scale. What is smaller than the rounding of the losses
/// themselves, as every gradient under a scale of 10⁻¹⁵, cannot be compared: its error is 0.
///
/// A loss whose `norm_slope` is 0 for all those samples is taken to hold its margin fixed, as
/// [`AdaFace`](crate::AdaFace) does: its target is then differenced with the norm that it sees held
/// fixed, and no error is found where the margin follows the norm. A penalty is always differenced.
///
/// The batch has three classes; a loss made for another number is refused.
///
/// ```
/// use margin_softmax::{ArcFace, MarginLoss, Scale};
/// use margin_softmax::custom::{Angle, Target, check_loss};
///
/// assert!(check_loss(&ArcFace::default())?.error < 1e-7);
///
/// #[derive(Debug)]
/// struct WrongSign;
/// impl MarginLoss for WrongSign {
///     fn scale(&self) -> Scale { Scale::Fixed(8.0) }
///     fn target(&self, angle: &Angle) -> Target {
///         Target { value: angle.cos, slope: angle.sin }
///     }
/// }
/// assert!(check_loss(&WrongSign)?.error > 0.1);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// # Errors
/// [`Error::Parameter`] for a scale that is not finite and positive, [`Error::Target`] for a
/// target or a penalty that is not finite, and what [`MarginLoss::check_classes`] says of three classes.
pub fn check_loss<L: MarginLoss>(loss: &L) -> Result<GradientCheck, Error> {
    let place = Coordinate::Sample { field: "target", theta: 0.0, norm: 0.0 };
    let mut worst = GradientCheck { error: 0.0, place, given: 0.0, expected: 0.0 };
    const ANGLES: usize = 400;
    let angles = (0..=ANGLES).map(|step| 1e-3 + (PI - 2e-3) * step as f64 / ANGLES as f64);
    let samples: Vec<Sample> = angles.flat_map(samples_at).collect();
    let held = samples.iter().all(|sample| loss.target_of(sample).norm_slope == 0.0);
    for sample in &samples {
        check_sample(loss, sample, held, &mut worst);
    }
    // A binary loss has a fixed scale.
    let scales = [loss.scale(), Scale::Fixed(16.0), Scale::FeatureNorm];
    for scale in scales.into_iter().take(if loss.binary().is_some() { 2 } else { 3 }) {
        for theta in [1e-3, 0.03, 0.4, 1.1, 1.9, 2.7, PI - 0.03, PI - 1e-3] {
            for size in [1.0, 30.0] {
                check_gradients(loss, scale, held, &SmallBatch::new(theta, size), &mut worst)?;
            }
        }
    }
    Ok(worst)
}

impl GradientCheck {
    /// Keeps the comparison of a derivative with differences of `f` if it is worse.
    fn compare(&mut self, place: Coordinate, given: Given, f: impl Fn(f64) -> f64) {
        let (expected, error) = given.compare(f);
        // A NaN is worse than any number.
        if error.is_nan() || error > self.error {
            *self = GradientCheck { error, place, given: given.derivative, expected };
        }
    }
}

/// Samples at an angle, with norms below, among and above those that losses look for.
fn samples_at(theta: f64) -> impl Iterator<Item = Sample> {
    let norms = [0.5, 1.3, 12.0, 39.0, 150.0].into_iter().enumerate();
    norms.map(move |(row, norm)| Sample::new(Angle::from_theta(theta), norm, row % CLASSES, row))
}

/// Compares the derivatives that a loss gives for a sample.
fn check_sample<L: MarginLoss>(loss: &L, sample: &Sample, held: bool, worst: &mut GradientCheck) {
    let &Sample { angle: Angle { theta, .. }, norm, .. } = sample;
    // Six steps to either side stay within [0, π].
    let angular = 1e-3_f64.min(theta / 7.0).min((PI - theta) / 7.0);
    let at_angle = |by: f64| Sample { angle: Angle::from_theta(theta + by), ..*sample };
    let at_norm = |by: f64| loss.target_of(&Sample { norm: norm + by, ..*sample });
    let given = loss.target_of(sample);
    let by_angle = |derivative: f64| {
        let size = derivative.abs().max(1.0);
        Given { derivative, at: theta, step: angular, size }
    };
    let by_norm = |derivative: f64, size: f64| {
        let size = derivative.abs().max(size / norm).max(f64::MIN_POSITIVE);
        Given { derivative, at: norm, step: 1e-3 * norm, size }
    };

    let place = |field| Coordinate::Sample { field, theta, norm };

    let slope = by_angle(loss.target(&sample.angle).slope);
    worst.compare(place("target"), slope, |by| loss.target(&at_angle(by).angle).value);
    let slope = by_angle(given.slope);
    worst.compare(place("slope"), slope, |by| loss.target_of(&at_angle(by)).value);
    if !held {
        let slope = by_norm(given.norm_slope, 1.0);
        worst.compare(place("norm_slope"), slope, |by| at_norm(by).value);
    }
    let slope = by_norm(given.penalty_slope, given.penalty.abs());
    worst.compare(place("penalty_slope"), slope, |by| at_norm(by).penalty);
}

/// Compares every entry of the gradients of a small batch.
fn check_gradients<L: MarginLoss>(
    loss: &L,
    scale: Scale,
    held: bool,
    small: &SmallBatch,
    worst: &mut GradientCheck,
) -> Result<(), Error> {
    let head = Head::new(Rescaled { loss, scale, held: held.then(|| small.norms()) });
    let batch = small.batch();
    let mut gradients = Gradients::zeros_for(&batch);
    head.forward_backward(&batch, Reduction::Sum, &mut gradients)?;
    let theta = small.theta;
    // Small against the angle, on which f depends, and against the norms.
    let angular = 0.02 * theta.min(PI - theta).min(0.05);
    let sides = [
        ("embeddings", &gradients.embeddings, angular * small.size),
        ("class weights", &gradients.weights, angular),
    ];
    for (side, (argument, given, step)) in sides.into_iter().enumerate() {
        let size = given.iter().fold(f64::MIN_POSITIVE, |most, g| most.max(g.abs()));
        for ((row, column), &derivative) in given.indexed_iter() {
            let at = small.sides[side][(row, column)];
            let place = Coordinate::Gradient { argument, scale, theta, row, column };
            worst.compare(place, Given { derivative, at, step, size }, |by| {
                small.moved(&head, side, (row, column), by).unwrap_or(f64::NAN)
            });
        }
    }
    Ok(())
}
