//! Finite differences for any loss, user-defined ones included.

use std::f64::consts::PI;
use std::fmt;

use ndarray::{Array2, array};

use crate::data::{Batch, Gradients, Reduction, Scale};
use crate::error::Error;
use crate::head::Head;
use crate::loss::MarginLoss;
use crate::math::{Angle, Target};

/// The worst disagreement that [`check_loss`] found between gradients and finite differences.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientCheck {
    /// The disagreement: relative to the largest entry of the gradient, or to max(1, |f′|) for a
    /// slope.
    pub error: f64,
    /// Where it is.
    pub place: Place,
    /// What the loss gives there.
    pub given: f64,
    /// What differences give there.
    pub expected: f64,
}

/// A derivative that [`check_loss`] tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// df/dθ, as [`MarginLoss::target`] returns it.
    Slope {
        /// The angle in radians.
        theta: f64,
    },
    /// An entry of the gradient of the embeddings, as [`Head`] computes it.
    Embedding {
        /// The scale under which the loss was run.
        scale: Scale,
        /// The angle of the first sample to its class, in radians.
        theta: f64,
        /// The sample.
        row: usize,
        /// The dimension.
        column: usize,
    },
    /// An entry of the gradient of the class weights, as [`Head`] computes it.
    Weight {
        /// The scale under which the loss was run.
        scale: Scale,
        /// The angle of the first sample to its class, in radians.
        theta: f64,
        /// The class.
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
/// It tests the slope of the target function at angles from 10⁻³ to π − 10⁻³, and the gradients of
/// embeddings and class weights of a small batch with target angles over the same range, under the
/// loss's own scale, a fixed scale and the feature norm. The differences are of sixth order; at a
/// kink of f the side without it counts. The error of a correct loss is below 10⁻⁷.
///
/// ```
/// use margin_softmax::{Angle, ArcFace, MarginLoss, Scale, Target, check_loss};
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
/// [`Error::Parameter`] for a scale that is not finite and positive, [`Error::Target`] for a value
/// or slope that is not finite.
pub fn check_loss<L: MarginLoss>(loss: &L) -> Result<GradientCheck, Error> {
    let mut worst =
        GradientCheck { error: 0.0, place: Place::Slope { theta: 0.0 }, given: 0.0, expected: 0.0 };
    const ANGLES: usize = 400;
    for step in 0..=ANGLES {
        let theta = 1e-3 + (PI - 2e-3) * step as f64 / ANGLES as f64;
        worst.keep_larger(check_slope(loss, theta));
    }
    for scale in [loss.scale(), Scale::Fixed(16.0), Scale::FeatureNorm] {
        for theta in [1e-3, 0.03, 0.4, 1.1, 1.9, 2.7, PI - 0.03, PI - 1e-3] {
            check_gradients(&Rescaled { loss, scale }, theta, &mut worst)?;
        }
    }
    Ok(worst)
}

impl GradientCheck {
    fn keep_larger(&mut self, other: GradientCheck) {
        // A NaN is worse than any number.
        if other.error.is_nan() || other.error > self.error {
            *self = other;
        }
    }
}

/// A sixth-order stencil: offsets in steps, and weights.
type Stencil = [(f64, f64); 7];

const CENTRAL: Stencil = [
    (-3.0, -1.0 / 60.0),
    (-2.0, 3.0 / 20.0),
    (-1.0, -3.0 / 4.0),
    (0.0, 0.0),
    (1.0, 3.0 / 4.0),
    (2.0, -3.0 / 20.0),
    (3.0, 1.0 / 60.0),
];

const ONE_SIDED: Stencil = [
    (0.0, -49.0 / 20.0),
    (1.0, 6.0),
    (2.0, -15.0 / 2.0),
    (3.0, 20.0 / 3.0),
    (4.0, -15.0 / 4.0),
    (5.0, 6.0 / 5.0),
    (6.0, -1.0 / 6.0),
];

fn difference(stencil: &Stencil, h: f64, f: impl Fn(f64) -> f64) -> f64 {
    let terms = stencil.iter().filter(|(_, weight)| *weight != 0.0);
    terms.map(|(offset, weight)| weight * f(offset * h)).sum::<f64>() / h
}

fn check_slope<L: MarginLoss>(loss: &L, theta: f64) -> GradientCheck {
    let given = loss.target(&Angle::from_theta(theta)).slope;
    let value = |offset: f64| loss.target(&Angle::from_theta(theta + offset)).value;
    // Six steps to either side stay within [0, π].
    let h = 1e-3_f64.min(theta / 7.0).min((PI - theta) / 7.0);
    let estimates = [(&CENTRAL, h), (&CENTRAL, h / 8.0), (&ONE_SIDED, h), (&ONE_SIDED, -h)]
        .map(|(stencil, h)| difference(stencil, h, value));
    let error = |expected: f64| (given - expected).abs() / given.abs().max(1.0);
    let nearer = |a: f64, b: f64| if error(b) < error(a) { b } else { a };
    let expected =
        estimates.into_iter().fold(f64::NAN, |a, b| if a.is_nan() { b } else { nearer(a, b) });
    GradientCheck { error: error(expected), place: Place::Slope { theta }, given, expected }
}

/// The margin of one loss under another scale.
#[derive(Debug)]
struct Rescaled<'a, L> {
    loss: &'a L,
    scale: Scale,
}

impl<L: MarginLoss> MarginLoss for Rescaled<'_, L> {
    fn scale(&self) -> Scale {
        self.scale
    }

    fn target(&self, angle: &Angle) -> Target {
        self.loss.target(angle)
    }

    fn label_smoothing(&self) -> f64 {
        self.loss.label_smoothing()
    }
}

/// Compares every entry of the gradients of a small batch, whose first sample lies at `theta` from
/// its class.
fn check_gradients<L: MarginLoss>(
    loss: &Rescaled<'_, L>,
    theta: f64,
    worst: &mut GradientCheck,
) -> Result<(), Error> {
    let mut x = array![[1.3, 0.0, 0.0, 0.0], [0.4, -0.9, 0.7, 0.2], [-0.5, 0.3, 1.1, -0.8]];
    let mut w = array![
        [0.8 * theta.cos(), 0.8 * theta.sin(), 0.0, 0.0],
        [0.5, -0.6, 0.9, -0.3],
        [-0.4, 0.7, 0.2, 1.1],
    ];
    let labels = [0, 1, 2];
    let batch = Batch::new(&x, &w, &labels)?;
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(loss);
    head.forward_backward(&batch, Reduction::Sum, &mut gradients)?;
    // Small against the angle, on which f depends, and against the norms.
    let h = 0.02 * theta.min(PI - theta).min(0.05);
    let scale = loss.scale;
    let mut compare = |x: &mut Array2<f64>, w: &mut Array2<f64>, by_weight: bool| {
        let given = if by_weight { &gradients.weights } else { &gradients.embeddings };
        let largest = given.iter().fold(f64::MIN_POSITIVE, |most, g| most.max(g.abs()));
        for ((row, column), &given) in given.indexed_iter() {
            let mut expected = 0.0;
            for (offset, weight) in CENTRAL {
                let at = |x: &mut Array2<f64>, w: &mut Array2<f64>, by: f64| {
                    (if by_weight { w } else { x })[[row, column]] += by;
                };
                let (before_x, before_w) = (x[[row, column]], w[[row, column]]);
                at(x, w, offset * h);
                expected += weight * head.forward(&Batch::new(x, w, &labels)?)?.sum() / h;
                (x[[row, column]], w[[row, column]]) = (before_x, before_w);
            }
            let place = if by_weight {
                Place::Weight { scale, theta, row, column }
            } else {
                Place::Embedding { scale, theta, row, column }
            };
            let error = (given - expected).abs() / largest;
            worst.keep_larger(GradientCheck { error, place, given, expected });
        }
        Ok(())
    };
    compare(&mut x, &mut w, false)?;
    compare(&mut x, &mut w, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ArcFace, Continuation, CosFace, FNormSphereFace, Generalized, LabelSmoothing,
        ModifiedSoftmax, Softmax, SphereFace,
    };

    #[test]
    fn every_loss_passes() {
        let arcface = ArcFace::default();
        let losses: Vec<Box<dyn MarginLoss>> = vec![
            Box::new(Softmax),
            Box::new(ModifiedSoftmax),
            Box::new(SphereFace::default().with_annealing(5.0).unwrap()),
            Box::new(SphereFace::default()),
            Box::new(FNormSphereFace::default()),
            Box::new(CosFace::default()),
            Box::new(arcface.clone()),
            Box::new(arcface.clone().with_continuation(Continuation::Raw)),
            Box::new(arcface.clone().with_continuation(Continuation::Linear)),
            Box::new(arcface.with_continuation(Continuation::EasyMargin)),
            Box::new(Generalized::default()),
            Box::new(LabelSmoothing::new(CosFace::default(), 0.1).unwrap()),
            Box::new(Generalized::new(Scale::FeatureNorm, 2.5, 0.3, 0.1).unwrap()),
        ];
        for loss in losses {
            let check = check_loss(&loss).unwrap();
            assert!(check.error < 1e-7, "{loss:?}: {check}");
        }
    }

    #[derive(Debug)]
    struct Wrong(f64);

    impl MarginLoss for Wrong {
        fn scale(&self) -> Scale {
            Scale::Fixed(4.0)
        }

        fn target(&self, angle: &Angle) -> Target {
            Target { value: angle.cos, slope: -angle.sin + self.0 }
        }
    }

    #[test]
    fn a_slope_off_by_one_in_a_million_is_found() {
        let check = check_loss(&Wrong(1e-6)).unwrap();
        assert!(check.error > 5e-7, "{check}");
    }

    #[test]
    fn a_slope_that_is_not_finite_is_refused() {
        assert!(matches!(check_loss(&Wrong(f64::NAN)), Err(Error::Target { .. })));
    }
}
