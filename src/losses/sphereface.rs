use super::*;

hyper_parameters! {
    /// SphereFace (A-Softmax): multiplies the angle between an embedding and the weight of its own
    /// class by m.
    ///
    /// ```text
    /// z_iy = ‖x_i‖ · (λ · cos θ_iy + ψ(m · θ_iy)) / (1 + λ)    own class y
    /// z_ij = ‖x_i‖ · cos θ_ij                                  every other class j
    ///
    /// ψ(φ) = (−1)^k · cos φ − 2k,   k = ⌊φ/π⌋
    /// ```
    ///
    /// `ψ(m · θ)` falls from 1 to `−(2m − 1)` on [0, π].
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes the class
    /// weights only.
    pub struct SphereFace {
        m: u32 = 4, "an integer >= 1", "angular factor m", "1 is no margin";
        lambda: f64 = 0.0, "finite and >= 0", "annealing lambda", "the larger, the less margin"
            => with_annealing;
    }
    /// At m = 4 and λ = 0, training from random weights hardly starts. Published recipes lower λ
    /// step by step to 5, as [`LambdaAnnealing`](crate::schedule::LambdaAnnealing) does.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, SphereFace};
    /// use ndarray::array;
    ///
    /// let loss = SphereFace::new(4)?.with_annealing(5.0)?;
    /// let (x, w) = (array![[3.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0]))?;
    /// assert_eq!(forward.accuracy(), 1.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Liu et al., *SphereFace* (CVPR 2017), eq. 7; λ is from the authors' code.
}

impl SphereFace {
    /// The loss with angular factor `m`, without annealing.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `m` is 0.
    pub fn new(m: u32) -> Result<Self, Error> {
        SphereFace { m, ..Self::default() }.checked()
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
