use super::{check_additive, check_cosine, check_lambda};
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target, annealed};

/// The general form, with all three margins: every other loss of this crate is a choice of its
/// parameters.
///
/// $$ z_{iy} = a_i \frac{\lambda\cos\theta_{iy} + \psi(m_0\theta_{iy} + m_1) - m_2}{1+\lambda},
/// \qquad z_{ij} = a_i\cos\theta_{ij} $$
///
/// $\psi$ is the cosine up to $\pi$ and goes on as the [`Continuation`] says.
///
/// **Shapes**: embeddings $x$ (N, D), class weights $w$ (C, D).
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `scale` | `Fixed(64)` | a number > 0, `FeatureNorm` or `Unnormalized` | $a_i$ |
/// | `m0` | 1 | finite, > 0, any real | angular factor |
/// | `m1` | 0.3 | radians, finite, ≥ 0 | additive angular margin |
/// | `m2` | 0.2 | finite; usually 0 to 0.5 | cosine margin |
/// | `lambda` | 0 | finite, ≥ 0 | annealing: a large λ trains without margin |
/// | `continuation` | `Monotone` | any; `Linear` and `EasyMargin` need $m_0 = 1$ | what happens past $\pi$ |
///
/// [`MarginWarmup`](crate::MarginWarmup) lets a margin grow step by step,
/// [`LambdaAnnealing`](crate::LambdaAnnealing) lowers λ.
///
/// | loss | parameters |
/// |---|---|
/// | ModifiedSoftmax | `FeatureNorm`, 1, 0, 0 |
/// | SphereFace | `FeatureNorm`, m, 0, 0 |
/// | F-Norm SphereFace | s, m, 0, 0 |
/// | CosFace | s, 1, 0, m |
/// | ArcFace | s, 1, m, 0 |
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
/// **Source**: Deng et al., *ArcFace* (CVPR 2019), eq. 4, with its (1.0, 0.3, 0.2) at s = 64.
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
    /// The loss with a scale and the three margins, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`], naming the first that is out of the range of the table above.
    pub fn new(scale: impl Into<Scale>, m0: f64, m1: f64, m2: f64) -> Result<Self, Error> {
        let valid = m0.is_finite() && m0 > 0.0;
        Ok(Generalized {
            scale: scale.into().checked()?,
            m0: Error::check_parameter("angular factor m0", m0, "finite and > 0", valid)?,
            m1: check_additive("angular margin m1", m1)?,
            m2: check_cosine("cosine margin m2", m2)?,
            lambda: 0.0,
            continuation: Continuation::Monotone,
        })
    }

    /// The same loss blended with the margin-free logit: $\lambda$ parts to one.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `lambda` is finite and ≥ 0.
    pub fn with_annealing(self, lambda: f64) -> Result<Self, Error> {
        Ok(Generalized { lambda: check_lambda(lambda)?, ..self })
    }

    /// The same loss, continued past $\pi$ in another way.
    ///
    /// # Errors
    /// [`Error::Parameter`] for `Linear` and `EasyMargin` unless $m_0 = 1$.
    pub fn with_continuation(self, continuation: Continuation) -> Result<Self, Error> {
        continuation.check(self.m0)?;
        Ok(Generalized { continuation, ..self })
    }

    /// The angular factor $m_0$.
    pub fn m0(&self) -> f64 {
        self.m0
    }

    /// The additive angular margin $m_1$, in radians.
    pub fn m1(&self) -> f64 {
        self.m1
    }

    /// The cosine margin $m_2$.
    pub fn m2(&self) -> f64 {
        self.m2
    }

    /// The annealing $\lambda$.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// What happens past $\pi$.
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
