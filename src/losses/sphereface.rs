use super::{check_integer, check_lambda};
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target, annealed};

/// SphereFace (A-Softmax): the target's angle counts $m$-fold.
///
/// $$ z_{iy} = \lVert x_i\rVert \frac{\lambda\cos\theta_{iy} + \psi(\theta_{iy})}{1+\lambda},
/// \qquad z_{ij} = \lVert x_i\rVert\cos\theta_{ij}, $$
///
/// with $\psi(\theta) = (-1)^k\cos(m\theta) - 2k$ for $\theta\in[\frac{k\pi}{m}, \frac{(k+1)\pi}{m}]$,
/// which falls from 1 to $-(2m-1)$ on $[0, \pi]$.
///
/// **Shapes**: embeddings $x$ (N, D), class weights $w$ (C, D), normalised by the loss.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `m` | 4 | integer ≥ 1 | angular factor; 1 is no margin |
/// | `lambda` | 0 | finite, ≥ 0 | annealing: a large λ trains without margin |
///
/// At $m = 4$ a network hardly starts from random weights: published practice lowers λ step by
/// step, as [`LambdaAnnealing`](crate::LambdaAnnealing) does, to 5.
///
/// ```
/// use margin_softmax::{Batch, Head, SphereFace};
/// use ndarray::array;
///
/// let loss = SphereFace::new(4)?.with_annealing(5.0)?;
/// let (x, w) = (array![[3.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0])?)?;
/// assert_eq!(forward.accuracy(), 1.0);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Liu et al., *SphereFace* (CVPR 2017), eq. 7; λ: the authors' code.
#[derive(Debug, Clone, PartialEq)]
pub struct SphereFace {
    m: u32,
    lambda: f64,
}

impl SphereFace {
    /// The loss with angular factor `m`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `m` is 0.
    pub fn new(m: u32) -> Result<Self, Error> {
        check_integer(m)?;
        Ok(SphereFace { m, lambda: 0.0 })
    }

    /// The same loss blended with the margin-free logit: $\lambda$ parts to one.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `lambda` is finite and ≥ 0.
    pub fn with_annealing(self, lambda: f64) -> Result<Self, Error> {
        Ok(SphereFace { lambda: check_lambda(lambda)?, ..self })
    }

    /// The angular factor $m$.
    pub fn m(&self) -> u32 {
        self.m
    }

    /// The annealing $\lambda$.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }
}

impl Default for SphereFace {
    fn default() -> Self {
        SphereFace { m: 4, lambda: 0.0 }
    }
}

impl MarginLoss for SphereFace {
    fn scale(&self) -> Scale {
        Scale::FeatureNorm
    }

    fn target(&self, angle: &Angle) -> Target {
        let target = Continuation::Monotone.target(angle, f64::from(self.m), 0.0);
        annealed(target, angle, self.lambda)
    }
}
