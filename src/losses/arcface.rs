use super::check_additive;
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target};

/// ArcFace: a margin added to the target's angle.
///
/// $$ z_{iy} = s \psi(\theta_{iy} + m), \qquad z_{ij} = s\cos\theta_{ij} $$
///
/// $\psi$ is the cosine up to $\pi$ and goes on falling beyond it, as the
/// [`Continuation`] says: $\cos(\theta + m)$ itself would rise for $\theta > \pi - m$.
///
/// **Shapes**: embeddings $x$ (N, D) and class weights $w$ (C, D), both normalised by the loss.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `s` | 64 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 0.5 | radians, finite, ≥ 0 | additive angular margin |
/// | `continuation` | `Monotone` | any | what happens past $\theta = \pi - m$ |
///
/// [`adacos_scale`](crate::adacos_scale) is a scale for the number of classes, and
/// [`MarginWarmup`](crate::MarginWarmup) lets the margin grow from 0.
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head};
/// use ndarray::array;
///
/// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let forward = Head::new(ArcFace::new(10.0, 0.5)?).forward(&Batch::new(&x, &w, &[0])?)?;
/// let expected = (-10.0 * 0.5_f64.cos()).exp().ln_1p();
/// approx::assert_relative_eq!(forward.losses[0], expected, epsilon = 1e-15);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Deng et al., *ArcFace* (CVPR 2019), eq. 3, with its s = 64 and m = 0.5.
#[derive(Debug, Clone, PartialEq)]
pub struct ArcFace {
    s: f64,
    m: f64,
    continuation: Continuation,
}

impl ArcFace {
    /// The loss with scale `s` and angular margin `m` in radians.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is finite and ≥ 0.
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        let m = check_additive("angular margin m", m)?;
        Ok(ArcFace { s, m, continuation: Continuation::Monotone })
    }

    /// The same loss, continued past $\theta = \pi - m$ in another way.
    pub fn with_continuation(self, continuation: Continuation) -> Self {
        ArcFace { continuation, ..self }
    }

    /// The scale $s$.
    pub fn s(&self) -> f64 {
        self.s
    }

    /// The angular margin $m$, in radians.
    pub fn m(&self) -> f64 {
        self.m
    }

    /// What happens past $\theta = \pi - m$.
    pub fn continuation(&self) -> Continuation {
        self.continuation
    }
}

impl Default for ArcFace {
    fn default() -> Self {
        ArcFace { s: 64.0, m: 0.5, continuation: Continuation::Monotone }
    }
}

impl MarginLoss for ArcFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        self.continuation.target(angle, 1.0, self.m)
    }
}
