use super::check_angular_margin;
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, Continuation, Target};

/// ArcFace: adds a margin to the angle between an embedding and the weight of its own class.
///
/// ```text
/// z_iy = s · ψ(θ_iy + m)        own class y
/// z_ij = s · cos θ_ij           every other class j
/// ```
///
/// ψ is the cosine up to π and keeps falling beyond π, in the way that the [`Continuation`] sets.
/// `cos(θ + m)` itself would rise again for `θ > π − m`.
///
/// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalises both.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `s` | 64 | finite, > 0 | scale: the radius of the hypersphere |
/// | `m` | 0.5 | in [0, π), radians | additive angular margin |
/// | `continuation` | `Monotone` | any | target logit where `θ > π − m` |
///
/// [`adacos_scale`](crate::schedule::adacos_scale) computes a scale from the number of classes, and
/// [`MarginWarmup`](crate::schedule::MarginWarmup) raises the margin from 0 step by step.
///
/// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range, a
/// margin in degrees and swapped arguments among them.
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head};
/// use ndarray::array;
///
/// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let forward = Head::new(ArcFace::new(10.0, 0.5)?).forward(&Batch::new(&x, &w, &[0]))?;
/// let expected = (-10.0 * 0.5_f64.cos()).exp().ln_1p();
/// approx::assert_relative_eq!(forward.losses[0], expected, epsilon = 1e-15);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// **Source**: Deng et al., *ArcFace* (CVPR 2019), eq. 3, with the paper's s = 64 and m = 0.5.
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
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is in [0, π). A margin in degrees
    /// and swapped arguments are refused: `ArcFace::new(64.0, 28.6)`, `ArcFace::new(0.5, 64.0)`.
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        Scale::Fixed(s).checked()?;
        let expected = "in [0, π) radians (arguments are scale s, then margin m)";
        let m = check_angular_margin("angular margin m", m, expected)?;
        Ok(ArcFace { s, m, continuation: Continuation::Monotone })
    }

    /// Sets how the target logit continues where `θ > π − m`.
    pub fn with_continuation(self, continuation: Continuation) -> Self {
        ArcFace { continuation, ..self }
    }

    /// The scale s.
    pub fn s(&self) -> f64 {
        self.s
    }

    /// The angular margin m, in radians.
    pub fn m(&self) -> f64 {
        self.m
    }

    /// How the target logit continues where `θ > π − m`.
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
