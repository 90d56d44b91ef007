//! Decision boundaries of two classes: where a sample stands just on its margin.

use std::f64::consts::PI;

use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::Angle;

/// Steps in which an arc is searched for the first point that a class does not reach.
const ARC_STEPS: u32 = 256;
/// Halvings that shrink any step of an angle to its rounding.
const HALVINGS: u32 = 64;

/// The decision boundaries of a loss between two classes, in the angles $(\theta_1, \theta_2)$ of a
/// sample to both class weights.
///
/// A sample of class 1 satisfies the loss where its target logit exceeds the other, margin
/// included, and so does a sample of class 2. The scale drops out, and the boundaries are
///
/// $$ \text{class 1: } \cos\theta_2 = f(\theta_1), \qquad
/// \text{class 2: } \cos\theta_1 = f(\theta_2), $$
///
/// mirror images in $\theta_1 = \theta_2$. For the general form that is
/// $\cos(m_0\theta_1 + m_1) - m_2 - \cos\theta_2 = 0$ for class 1 and
/// $\cos\theta_1 - \cos(m_0\theta_2 + m_1) + m_2 = 0$ for class 2: $m_2$ takes the opposite sign, or
/// both would be the same line and there would be no margin. Between the two boundaries lies the
/// no-man's band, which satisfies neither class. On the arc from one class weight to the other,
/// $\theta_1 + \theta_2 = \Theta$, its angular width has a closed form for most losses:
///
/// | loss | class 1 | width of the band | exists for |
/// |---|---|---|---|
/// | ModifiedSoftmax | $\theta_2 = \theta_1$ | 0 | any Θ |
/// | SphereFace | $\theta_2 = m\theta_1$ | $\Theta(m-1)/(m+1)$ | any Θ |
/// | CosFace | $\cos\theta_2 = \cos\theta_1 - m$ | $2\arcsin\frac{m}{2\sin(\Theta/2)}$ | $m \le 1 - \cos\Theta$ |
/// | ArcFace | $\theta_2 = \theta_1 + m$ | $m$ | $m \le \Theta$ |
/// | Generalized, $m_2 = 0$ | $\theta_2 = m_0\theta_1 + m_1$ | $\frac{\Theta(m_0-1) + 2m_1}{m_0+1}$ | $m_1 \le \Theta$ |
///
/// Softmax does not normalise: there the boundaries are
/// $q_1\cos\theta_1 - q_2\cos\theta_2 + (b_1 - b_2)/\lVert x\rVert = 0$, one line for both classes;
/// see [`with_norms`](Self::with_norms) and [`with_bias`](Self::with_bias).
///
/// ```
/// use std::f64::consts::FRAC_PI_2;
/// use margin_softmax::{ArcFace, Boundary};
///
/// let boundary = Boundary::of(ArcFace::new(64.0, 0.5)?);
/// assert!((boundary.opposite(0.3).unwrap() - 0.8).abs() < 1e-12);
/// assert!((boundary.band(FRAC_PI_2).unwrap() - 0.5).abs() < 1e-12);
/// // Class weights closer than the margin leave no place for either class.
/// assert_eq!(boundary.band(0.4), None);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: the comparisons of decision boundaries in Liu et al., *SphereFace* (CVPR 2017),
/// Wang et al., *CosFace* (CVPR 2018), and Deng et al., *ArcFace* (CVPR 2019).
#[derive(Debug, Clone, PartialEq)]
pub struct Boundary<L> {
    loss: L,
    /// Norms of the class weights, where they matter.
    norms: [f64; 2],
    /// $(b_1 - b_2)/\lVert x\rVert$.
    bias: f64,
}

impl<L: MarginLoss> Boundary<L> {
    /// The boundaries of `loss`, which may be borrowed or boxed.
    pub fn of(loss: L) -> Self {
        Boundary { loss, norms: [1.0; 2], bias: 0.0 }
    }

    /// The same boundaries between class weights of norms $q_1$ and $q_2$, 1 unless given. They
    /// move the boundary of Softmax only: every other loss normalises its weights.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless both norms are finite and > 0.
    pub fn with_norms(self, q1: f64, q2: f64) -> Result<Self, Error> {
        for q in [q1, q2] {
            let valid = q.is_finite() && q > 0.0;
            Error::check_parameter("norm of a class weight", q, "finite and > 0", valid)?;
        }
        let norms = if self.loss.scale() == Scale::Unnormalized { [q1, q2] } else { [1.0; 2] };
        Ok(Boundary { norms, ..self })
    }

    /// The same boundaries with a bias for class 1 over class 2: `bias` is
    /// $(b_1 - b_2)/\lVert x\rVert$, 0 unless given.
    ///
    /// # Errors
    /// [`Error::Bias`] for any loss but Softmax, [`Error::Parameter`] unless `bias` is finite.
    pub fn with_bias(self, bias: f64) -> Result<Self, Error> {
        if self.loss.scale() != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        Error::check_parameter("bias over the norm", bias, "finite", bias.is_finite())?;
        Ok(Boundary { bias, ..self })
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The angle $\theta_2$ at which a sample of class 1, at $\theta_1$ = `theta` from its class
    /// weight, stands just on its margin: $\arccos f(\theta_1)$. None where no angle will do:
    /// $f(\theta_1)$ lies outside $[-1, 1]$.
    pub fn opposite(&self, theta: f64) -> Option<f64> {
        let cos = self.opposite_cos(theta);
        (-1.0..=1.0).contains(&cos).then(|| cos.acos())
    }

    /// Class 1's boundary as points $(\theta_1, \theta_2)$, in `steps` equal steps of $\theta_1$
    /// over $[0, \pi]$: one curve for each stretch on which it is defined, its ends included.
    pub fn class_one(&self, steps: u32) -> Vec<Vec<(f64, f64)>> {
        let step = PI / f64::from(steps);
        // The quotient first: a step times their number may be rounded beyond π.
        let theta = |i: u32| PI * (f64::from(i) / f64::from(steps));
        let thetas: Vec<f64> = (0..=steps).map(theta).collect();
        let defined = |theta: f64| self.opposite(theta).is_some();
        let runs = thetas.chunk_by(|&a, &b| defined(a) == defined(b));
        let curve = |run: &[f64]| {
            let (first, last) = (run[0], run[run.len() - 1]);
            let start = last_that_holds(first, (first - step).max(0.0), defined);
            let end = last_that_holds(last, (last + step).min(PI), defined);
            let ends_and_run = [&[start], run, &[end]].concat();
            let point = |theta: f64| Some((theta, self.opposite(theta)?));
            let mut points: Vec<_> = ends_and_run.into_iter().filter_map(point).collect();
            points.dedup();
            points
        };
        runs.filter(|run| defined(run[0])).map(curve).collect()
    }

    /// Class 2's boundary as points $(\theta_1, \theta_2)$, in equal steps of $\theta_2$.
    pub fn class_two(&self, steps: u32) -> Vec<Vec<(f64, f64)>> {
        let mut curves = self.swapped().class_one(steps);
        for point in curves.iter_mut().flatten() {
            *point = (point.1, point.0);
        }
        curves
    }

    /// Whether a sample at both angles satisfies class 1, margin included. Of a sample in the
    /// no-man's band neither this is true nor [`holds_two`](Self::holds_two).
    pub fn holds_one(&self, theta1: f64, theta2: f64) -> bool {
        self.opposite_cos(theta1) >= theta2.cos()
    }

    /// Whether a sample at both angles satisfies class 2, margin included.
    pub fn holds_two(&self, theta1: f64, theta2: f64) -> bool {
        self.swapped().holds_one(theta2, theta1)
    }

    /// How far each class reaches on the arc from one class weight to the other, which are
    /// $\Theta$ = `between` apart: class 1 holds the points up to the first angle from its class
    /// weight, class 2 those up to the second from its own. None unless $0 < \Theta \le \pi$ and
    /// both boundaries lie on the arc.
    pub fn reach(&self, between: f64) -> Option<(f64, f64)> {
        let valid = between > 0.0 && between <= PI;
        valid.then_some(())?;
        Some((self.reach_of_one(between)?, self.swapped().reach_of_one(between)?))
    }

    /// The angular width of the no-man's band on that arc. None where [`reach`](Self::reach) is.
    pub fn band(&self, between: f64) -> Option<f64> {
        let (one, two) = self.reach(between)?;
        Some(between - one - two)
    }

    /// The first root of $f(t) = \cos(\Theta - t)$ on the arc. The default continuation has but
    /// one; others rise again and would reach beyond the boundary.
    fn reach_of_one(&self, between: f64) -> Option<f64> {
        let holds = |t: f64| self.holds_one(t, between - t);
        let step = between / f64::from(ARC_STEPS);
        let beyond = (0..=ARC_STEPS).map(|i| f64::from(i) * step).find(|&t| !holds(t))?;
        (beyond > 0.0).then(|| last_that_holds(beyond - step, beyond, holds))
    }

    /// $\cos\theta_2$ on class 1's boundary, be it a cosine or not.
    fn opposite_cos(&self, theta: f64) -> f64 {
        let target = self.loss.target(&Angle::from_theta(theta)).value;
        (self.norms[0] * target + self.bias) / self.norms[1]
    }

    /// The same two classes, their labels exchanged.
    fn swapped(&self) -> Boundary<&L> {
        let [q1, q2] = self.norms;
        Boundary { loss: &self.loss, norms: [q2, q1], bias: -self.bias }
    }
}

/// The last angle from `inside`, where a condition holds, towards `outside` at which it holds.
fn last_that_holds(mut inside: f64, mut outside: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = 0.5 * (inside + outside);
        *(if holds(middle) { &mut inside } else { &mut outside }) = middle;
    }
    inside
}
