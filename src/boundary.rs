//! Decision boundaries between two classes: where a sample satisfies its margin exactly.

use std::f64::consts::PI;

use crate::data::Scale;
use crate::error::{Error, check};
use crate::loss::MarginLoss;
use crate::math::Angle;

/// Grid points in the search for the first angle on an arc that does not satisfy a class.
const ARC_STEPS: u32 = 256;
/// Bisection steps: enough to reach the rounding of an angle from any interval in [0, π].
const BISECTIONS: u32 = 64;

/// The decision boundaries of a loss between two classes, in the angles (θ₁, θ₂) between a sample
/// and the two class weights.
///
/// A sample satisfies class 1 where its target logit, margin included, is at least the logit of
/// class 2, and the reverse for class 2. The scale cancels, so the boundaries are
///
/// ```text
/// class 1:   cos θ₂ = f(θ₁)
/// class 2:   cos θ₁ = f(θ₂)
/// ```
///
/// f is the target logit before the scale. The two curves are mirror images in the line θ₁ = θ₂.
/// For the general form they are
///
/// ```text
/// class 1:   cos(m0 · θ₁ + m1) − m2 − cos θ₂ = 0
/// class 2:   cos θ₁ − cos(m0 · θ₂ + m1) + m2 = 0
/// ```
///
/// with opposite signs of m2: with equal signs both would be the same line, without a margin. The
/// samples between the two boundaries satisfy neither class. This region is called the band. On the
/// arc from one class weight to the other, where θ₁ + θ₂ = Θ, its angular width has a closed form
/// for most losses:
///
/// | loss | boundary of class 1 | width of the band | exists for |
/// |---|---|---|---|
/// | ModifiedSoftmax | `θ₂ = θ₁` | 0 | any Θ |
/// | SphereFace | `θ₂ = m · θ₁` | `Θ · (m − 1) / (m + 1)` | any Θ |
/// | CosFace | `cos θ₂ = cos θ₁ − m` | `2 · arcsin(m / (2 · sin(Θ/2)))` | `m ≤ 1 − cos Θ` |
/// | ArcFace | `θ₂ = θ₁ + m` | `m` | `m ≤ Θ` |
/// | Generalized, m2 = 0 | `θ₂ = m0 · θ₁ + m1` | `(Θ · (m0 − 1) + 2 · m1) / (m0 + 1)` | `m1 ≤ Θ` |
///
/// For a binary loss the logit of class 2 has its margin, too: h(θ₂) stands in place of cos θ₂.
///
/// Softmax does not normalize. With weight norms q₁, q₂ and biases b₁, b₂, both of its boundaries
/// are the line
///
/// ```text
/// q₁ · cos θ₁ − q₂ · cos θ₂ + (b₁ − b₂) / ‖x‖ = 0
/// ```
///
/// [`with_norms`](Self::with_norms) and [`with_bias`](Self::with_bias) set these values.
///
/// ```
/// use std::f64::consts::FRAC_PI_2;
/// use margin_softmax::ArcFace;
/// use margin_softmax::boundary::Boundary;
///
/// let boundary = Boundary::of(ArcFace::new(64.0, 0.5)?);
/// assert!((boundary.opposite(0.3).unwrap() - 0.8).abs() < 1e-12);
/// assert!((boundary.band(FRAC_PI_2).unwrap() - 0.5).abs() < 1e-12);
/// // Class weights closer than the margin: no sample satisfies either class.
/// assert_eq!(boundary.band(0.4), None);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: the comparisons of decision boundaries in Liu et al., *SphereFace* (CVPR 2017),
/// Wang et al., *CosFace* (CVPR 2018), and Deng et al., *ArcFace* (CVPR 2019).
#[derive(Debug, Clone, PartialEq)]
pub struct Boundary<L> {
    loss: L,
    /// Norms of the class weights; 1 for a loss that normalizes them.
    norms: [f64; 2],
    /// `(b₁ − b₂) / ‖x‖`.
    bias: f64,
}

impl<L: MarginLoss> Boundary<L> {
    /// The boundaries of `loss`, which may be a reference or a box.
    pub fn of(loss: L) -> Self {
        Boundary { loss, norms: [1.0; 2], bias: 0.0 }
    }

    /// Sets the norms q₁ and q₂ of the class weights, 1 by default. They affect Softmax only: every
    /// other loss normalizes its weights.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both norms are finite and > 0.
    pub fn with_norms(self, q1: f64, q2: f64) -> Result<Self, Error> {
        check!("norm of a class weight", q1, "finite and > 0")?;
        check!("norm of a class weight", q2, "finite and > 0")?;
        let norms = if self.loss.scale() == Scale::Unnormalized { [q1, q2] } else { [1.0; 2] };
        Ok(Boundary { norms, ..self })
    }

    /// Sets the difference of the biases over the norm of the embedding, `(b₁ − b₂) / ‖x‖`, 0 by
    /// default.
    ///
    /// # Errors
    /// [`Error::Bias`] for any loss but Softmax, [`Error::Parameter`] unless `bias` is finite.
    pub fn with_bias(self, bias: f64) -> Result<Self, Error> {
        if self.loss.scale() != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        check!("bias over the norm", bias, "finite")?;
        Ok(Boundary { bias, ..self })
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The angle θ₂ of the boundary of class 1 at θ₁ = `theta`: `arccos f(θ₁)`. `None` if f(θ₁)
    /// lies outside [−1, 1].
    pub fn opposite(&self, theta: f64) -> Option<f64> {
        let cos = self.opposite_cos(theta);
        (-1.0..=1.0).contains(&cos).then(|| cos.acos())
    }

    /// The boundary of class 1 as points (θ₁, θ₂), in `steps` equal steps of θ₁ over [0, π]. Each
    /// interval on which the boundary is defined is one curve, endpoints included.
    pub fn class_one(&self, steps: u32) -> Vec<Vec<(f64, f64)>> {
        let step = PI / f64::from(steps);
        // The quotient is taken first: `i * step` may be rounded beyond π.
        let theta = |i: u32| PI * (f64::from(i) / f64::from(steps));
        let thetas: Vec<f64> = (0..=steps).map(theta).collect();
        let defined = |theta: f64| self.opposite(theta).is_some();
        let runs = thetas.chunk_by(|&a, &b| defined(a) == defined(b));
        let curve = |run: &[f64]| {
            let (first, last) = (run[0], run[run.len() - 1]);
            let start = bisect(first, (first - step).max(0.0), defined);
            let end = bisect(last, (last + step).min(PI), defined);
            let ends_and_run = [&[start], run, &[end]].concat();
            let point = |theta: f64| Some((theta, self.opposite(theta)?));
            let mut points: Vec<_> = ends_and_run.into_iter().filter_map(point).collect();
            points.dedup();
            points
        };
        runs.filter(|run| defined(run[0])).map(curve).collect()
    }

    /// The boundary of class 2 as points (θ₁, θ₂), in `steps` equal steps of θ₂ over [0, π].
    pub fn class_two(&self, steps: u32) -> Vec<Vec<(f64, f64)>> {
        let mut curves = self.swapped().class_one(steps);
        for point in curves.iter_mut().flatten() {
            *point = (point.1, point.0);
        }
        curves
    }

    /// Whether a sample at these angles satisfies class 1, margin included. In the band both this
    /// and [`satisfies_two`](Self::satisfies_two) are false.
    pub fn satisfies_one(&self, theta1: f64, theta2: f64) -> bool {
        self.opposite_cos(theta1) >= theta2.cos()
    }

    /// Whether a sample at these angles satisfies class 2, margin included.
    pub fn satisfies_two(&self, theta1: f64, theta2: f64) -> bool {
        self.swapped().satisfies_one(theta2, theta1)
    }

    /// Where the boundaries cross the arc from one class weight to the other, for an angle of
    /// Θ = `between` between the weights. The first value is the angle from weight 1 up to which
    /// samples satisfy class 1, the second the angle from weight 2 up to which they satisfy
    /// class 2. `None` unless 0 < Θ ≤ π and both boundaries cross the arc.
    pub fn reach(&self, between: f64) -> Option<(f64, f64)> {
        let valid = between > 0.0 && between <= PI;
        valid.then_some(())?;
        Some((self.reach_of_one(between)?, self.swapped().reach_of_one(between)?))
    }

    /// The angular width of the band on that arc. `None` where [`reach`](Self::reach) is `None`.
    pub fn band(&self, between: f64) -> Option<f64> {
        let (one, two) = self.reach(between)?;
        Some(between - one - two)
    }

    /// The first root of `f(t) = cos(Θ − t)` on the arc. The default continuation has only one
    /// root. Other continuations rise again and may have more, hence the search from t = 0.
    fn reach_of_one(&self, between: f64) -> Option<f64> {
        let satisfied = |t: f64| self.satisfies_one(t, between - t);
        let step = between / f64::from(ARC_STEPS);
        let beyond = (0..=ARC_STEPS).map(|i| f64::from(i) * step).find(|&t| !satisfied(t))?;
        (beyond > 0.0).then(|| bisect(beyond - step, beyond, satisfied))
    }

    /// cos θ₂ on the boundary of class 1; outside [−1, 1] where the boundary is not defined.
    fn opposite_cos(&self, theta: f64) -> f64 {
        let target = self.loss.target(&Angle::from_theta(theta)).value;
        if let Some(binary) = self.loss.binary() {
            return binary.cosine_of(target);
        }
        (self.norms[0] * target + self.bias) / self.norms[1]
    }

    /// The boundaries with classes 1 and 2 exchanged.
    fn swapped(&self) -> Boundary<&L> {
        let [q1, q2] = self.norms;
        Boundary { loss: &self.loss, norms: [q2, q1], bias: -self.bias }
    }
}

/// The last angle that satisfies `condition` on the way from `inside`, which does, to `outside`.
fn bisect(mut inside: f64, mut outside: f64, condition: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..BISECTIONS {
        let middle = 0.5 * (inside + outside);
        *(if condition(middle) { &mut inside } else { &mut outside }) = middle;
    }
    inside
}
