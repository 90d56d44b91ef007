use super::*;

hyper_parameters! {
    /// F-Norm SphereFace: SphereFace's margin with a fixed scale, so that embeddings are normalized
    /// too.
    ///
    /// ```text
    /// z_iy = s · (λ · cos θ_iy + ψ(m · θ_iy)) / (1 + λ)        own class y
    /// z_ij = s · cos θ_ij                                      every other class j
    /// ```
    ///
    /// ψ is that of [`SphereFace`](crate::SphereFace).
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct FNormSphereFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: u32 = 4, "an integer >= 1", "angular factor m", "1 is no margin";
        lambda: f64 = 0.0, "finite and >= 0", "annealing lambda", "the larger, the less margin"
            => with_annealing;
    }
    /// [`LambdaAnnealing`](crate::schedule::LambdaAnnealing) lowers λ step by step.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, FNormSphereFace, Head};
    /// use ndarray::array;
    ///
    /// let loss = FNormSphereFace::new(30.0, 2)?;
    /// let (x, w) = (array![[3.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0]))?;
    /// assert_eq!(forward.accuracy(), 1.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Liu et al., *SphereFace* (CVPR 2017), eq. 7, for ψ and m = 4; Wang et al.,
    /// *CosFace* (CVPR 2018), section 3.1, for the fixed scale (there s = 64).
}

impl FNormSphereFace {
    /// The loss with scale `s` and angular factor `m`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` ≥ 1.
    pub fn new(s: f64, m: u32) -> Result<Self, Error> {
        FNormSphereFace { s, m, ..Self::default() }.checked()
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
