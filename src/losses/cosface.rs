use super::*;

hyper_parameters! {
    /// CosFace: subtracts a margin from the cosine between an embedding and the weight of its own
    /// class.
    ///
    /// ```text
    /// z_iy = s · (cos θ_iy − m)     own class y
    /// z_ij = s · cos θ_ij           every other class j
    /// ```
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct CosFace {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.35, "in (-2, 2), a difference of cosines" of "scale s, then margin m",
            "cosine margin m", "usually 0 to 0.5";
    }
    /// Two cosines differ by at most 2, so no sample could ever satisfy a margin beyond that range.
    /// [`adacos_scale`](crate::schedule::adacos_scale) computes a scale from the number of classes, and
    /// [`MarginWarmup`](crate::schedule::MarginWarmup) raises the margin from 0 step by step.
    ///
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range,
    /// swapped arguments among them.
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let forward = Head::new(CosFace::new(10.0, 0.4)?).forward(&Batch::new(&x, &w, &[0]))?;
    /// // z = (10 · 0.6, 0)
    /// approx::assert_relative_eq!(forward.losses[0], (-6.0_f64).exp().ln_1p(), epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Wang et al., *CosFace* (CVPR 2018), eq. 4, with the paper's s = 64 and m = 0.35;
    /// insightface trains with m = 0.40.
}

impl CosFace {
    /// The loss with scale `s` and cosine margin `m`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` is in (−2, 2). A margin in per
    /// cent and swapped arguments are refused: `CosFace::new(64.0, 35.0)`, `CosFace::new(0.35,
    /// 64.0)`.
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        CosFace { s, m }.checked()
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
