use super::check_cosine;
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Target};

/// CosFace: a margin taken off the target's cosine.
///
/// $$ z_{iy} = s(\cos\theta_{iy} - m), \qquad z_{ij} = s\cos\theta_{ij} $$
///
/// **Shapes**: embeddings $x$ (N, D) and class weights $w$ (C, D), both normalised by the loss.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `s` | 64 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 0.35 | finite; usually 0 to 0.5 | cosine margin |
///
/// [`adacos_scale`](crate::adacos_scale) is a scale for the number of classes, and
/// [`MarginWarmup`](crate::MarginWarmup) lets the margin grow from 0.
///
/// ```
/// use margin_softmax::{Batch, CosFace, Head};
/// use ndarray::array;
///
/// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let forward = Head::new(CosFace::new(10.0, 0.4)?).forward(&Batch::new(&x, &w, &[0])?)?;
/// // z = (10 · 0.6, 0)
/// approx::assert_relative_eq!(forward.losses[0], (-6.0_f64).exp().ln_1p(), epsilon = 1e-15);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Wang et al., *CosFace* (CVPR 2018), eq. 4, with its s = 64 and m = 0.35;
/// insightface trains with m = 0.40.
#[derive(Debug, Clone, PartialEq)]
pub struct CosFace {
    s: f64,
    m: f64,
}

impl CosFace {
    /// The loss with scale `s` and cosine margin `m`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is finite.
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        Ok(CosFace { s, m: check_cosine("cosine margin m", m)? })
    }

    /// The scale $s$.
    pub fn s(&self) -> f64 {
        self.s
    }

    /// The cosine margin $m$.
    pub fn m(&self) -> f64 {
        self.m
    }
}

impl Default for CosFace {
    fn default() -> Self {
        CosFace { s: 64.0, m: 0.35 }
    }
}

impl MarginLoss for CosFace {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos - self.m, slope: -angle.sin }
    }
}
