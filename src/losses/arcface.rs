use super::*;

hyper_parameters! {
    /// ArcFace: adds a margin to the angle between an embedding and the weight of its own class.
    ///
    /// ```text
    /// z_iy = s · ψ(θ_iy + m)        own class y
    /// z_ij = s · cos θ_ij           every other class j
    /// ```
    ///
    /// ψ is the cosine up to π and keeps falling beyond π, in the way that the [`Continuation`]
    /// sets. `cos(θ + m)` itself would rise again for `θ > π − m`.
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct ArcFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.5, "in [0, π) radians" of "scale s, then margin m", "angular margin m";
        continuation: Continuation = Continuation::Monotone, any, "continuation where `θ > π − m`"
            => with_continuation;
    }
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
}

impl ArcFace {
    /// The loss with scale `s` and angular margin `m` in radians.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is in [0, π). A margin in degrees
    /// and swapped arguments are refused: `ArcFace::new(64.0, 28.6)`, `ArcFace::new(0.5, 64.0)`.
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        ArcFace { s, m, ..Self::default() }.checked()
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
