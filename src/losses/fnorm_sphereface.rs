use super::{check_integer, check_lambda};
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target, annealed};

/// F-Norm SphereFace: SphereFace's margin on a hypersphere of one radius, the embeddings
/// normalised too.
///
/// $$ z_{iy} = s \frac{\lambda\cos\theta_{iy} + \psi(\theta_{iy})}{1+\lambda},
/// \qquad z_{ij} = s\cos\theta_{ij}, $$
///
/// with $\psi$ as in [`SphereFace`](crate::SphereFace).
///
/// **Shapes**: embeddings $x$ (N, D) and class weights $w$ (C, D), both normalised by the loss.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `s` | 64 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 4 | integer ≥ 1 | angular factor; 1 is no margin |
/// | `lambda` | 0 | finite, ≥ 0 | annealing: a large λ trains without margin |
///
/// λ is lowered step by step, as [`LambdaAnnealing`](crate::LambdaAnnealing) does.
///
/// ```
/// use margin_softmax::{Batch, FNormSphereFace, Head};
/// use ndarray::array;
///
/// let loss = FNormSphereFace::new(30.0, 2)?;
/// let (x, w) = (array![[3.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0])?)?;
/// assert_eq!(forward.accuracy(), 1.0);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Wang et al., *CosFace* (CVPR 2018), section 3.1, for the fixed scale (there $s = 64$);
/// Liu et al., *SphereFace* (CVPR 2017), eq. 7, for $\psi$ and $m = 4$.
#[derive(Debug, Clone, PartialEq)]
pub struct FNormSphereFace {
    s: f64,
    m: u32,
    lambda: f64,
}

impl FNormSphereFace {
    /// The loss with scale `s` and angular factor `m`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` ≥ 1.
    pub fn new(s: f64, m: u32) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        check_integer(m)?;
        Ok(FNormSphereFace { s, m, lambda: 0.0 })
    }

    /// The same loss blended with the margin-free logit: $\lambda$ parts to one.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `lambda` is finite and ≥ 0.
    pub fn with_annealing(self, lambda: f64) -> Result<Self, Error> {
        Ok(FNormSphereFace { lambda: check_lambda(lambda)?, ..self })
    }

    /// The scale $s$.
    pub fn s(&self) -> f64 {
        self.s
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

impl Default for FNormSphereFace {
    fn default() -> Self {
        FNormSphereFace { s: 64.0, m: 4, lambda: 0.0 }
    }
}

impl MarginLoss for FNormSphereFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        let target = Continuation::Monotone.target(angle, f64::from(self.m), 0.0);
        annealed(target, angle, self.lambda)
    }
}
