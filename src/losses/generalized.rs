use super::{check_angular_margin, check_cosine_margin, check_lambda};
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target, annealed};

/// The general form with all three margins; every other normalised loss of this crate is a special
/// case.
///
/// ```text
/// z_iy = a_i · (λ · cos θ_iy + ψ(m0 · θ_iy + m1) − m2) / (1 + λ)      own class y
/// z_ij = a_i · cos θ_ij                                               every other class j
/// ```
///
/// `a_i` is the scale: s, or `‖x_i‖`. ψ is the cosine up to π and continues beyond π as the
/// [`Continuation`] sets.
///
/// | loss | arguments of `new` |
/// |---|---|
/// | ModifiedSoftmax | `FeatureNorm`, 1, 0, 0 |
/// | SphereFace | `FeatureNorm`, m, 0, 0 |
/// | F-Norm SphereFace | s, m, 0, 0 |
/// | CosFace | s, 1, 0, m |
/// | ArcFace | s, 1, m, 0 |
///
/// **Shapes**: embeddings x (N, D) and class weights w (C, D).
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `scale` | `Fixed(64)` | a number > 0, `FeatureNorm` or `Unnormalized` | a_i |
/// | `m0` | 1 | finite, > 0; need not be an integer | angular factor |
/// | `m1` | 0.3 | in [0, π), radians | additive angular margin |
/// | `m2` | 0.2 | in (−2, 2); usually 0 to 0.5 | cosine margin |
/// | `lambda` | 0 | finite, ≥ 0 | annealing λ: at a large λ the margins have little effect |
/// | `continuation` | `Monotone` | `Linear`, `EasyMargin`: only if m0 = 1 | ψ beyond π |
///
/// [`MarginWarmup`](crate::schedule::MarginWarmup) raises a margin step by step,
/// [`LambdaAnnealing`](crate::schedule::LambdaAnnealing) lowers λ.
///
/// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
///
/// ```
/// use margin_softmax::{Generalized, Scale};
///
/// let combined = Generalized::new(64.0, 1.0, 0.3, 0.2)?;
/// assert_eq!(combined, Generalized::default());
/// let sphereface = Generalized::new(Scale::FeatureNorm, 4.0, 0.0, 0.0)?.with_annealing(5.0)?;
/// assert_eq!(sphereface.lambda(), 5.0);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Deng et al., *ArcFace* (CVPR 2019), eq. 4, with the paper's (1.0, 0.3, 0.2) at
/// s = 64.
#[derive(Debug, Clone, PartialEq)]
pub struct Generalized {
    scale: Scale,
    m0: f64,
    m1: f64,
    m2: f64,
    lambda: f64,
    continuation: Continuation,
}

impl Generalized {
    /// The loss with a scale, an angular factor `m0`, an angular margin `m1` in radians and a
    /// cosine margin `m2`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] for the first argument outside its range in the table above.
    pub fn new(scale: impl Into<Scale>, m0: f64, m1: f64, m2: f64) -> Result<Self, Error> {
        let valid = m0.is_finite() && m0 > 0.0;
        let angle = "in [0, π) radians (arguments are scale, then m0, m1, m2)";
        let cosine = "in (-2, 2), a difference of cosines (arguments are scale, then m0, m1, m2)";
        Ok(Generalized {
            scale: scale.into().checked()?,
            m0: Error::check_parameter("angular factor m0", m0, "finite and > 0", valid)?,
            m1: check_angular_margin("angular margin m1", m1, angle)?,
            m2: check_cosine_margin("cosine margin m2", m2, cosine)?,
            lambda: 0.0,
            continuation: Continuation::Monotone,
        })
    }

    /// Sets the annealing λ: the target logit becomes `(λ · cos θ + f(θ)) / (1 + λ)`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `lambda` is finite and ≥ 0.
    pub fn with_annealing(self, lambda: f64) -> Result<Self, Error> {
        Ok(Generalized { lambda: check_lambda(lambda)?, ..self })
    }

    /// Sets how ψ continues beyond π.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `Linear` and `EasyMargin` unless m0 = 1.
    pub fn with_continuation(self, continuation: Continuation) -> Result<Self, Error> {
        continuation.check(self.m0)?;
        Ok(Generalized { continuation, ..self })
    }

    /// The angular factor m0.
    pub fn m0(&self) -> f64 {
        self.m0
    }

    /// The additive angular margin m1, in radians.
    pub fn m1(&self) -> f64 {
        self.m1
    }

    /// The cosine margin m2.
    pub fn m2(&self) -> f64 {
        self.m2
    }

    /// The annealing λ.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// How ψ continues beyond π.
    pub fn continuation(&self) -> Continuation {
        self.continuation
    }
}

impl Default for Generalized {
    fn default() -> Self {
        Generalized {
            scale: Scale::Fixed(64.0),
            m0: 1.0,
            m1: 0.3,
            m2: 0.2,
            lambda: 0.0,
            continuation: Continuation::Monotone,
        }
    }
}

impl MarginLoss for Generalized {
    fn scale(&self) -> Scale {
        self.scale
    }

    fn target(&self, angle: &Angle) -> Target {
        let Target { value, slope } = self.continuation.target(angle, self.m0, self.m1);
        annealed(Target { value: value - self.m2, slope }, angle, self.lambda)
    }
}
