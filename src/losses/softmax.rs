use super::*;

hyper_parameters! {
    /// Plain softmax cross-entropy on inner products: no margin and no normalization.
    ///
    /// ```text
    /// z_ij = w_j · x_i + b_j = ‖w_j‖ · ‖x_i‖ · cos θ_ij + b_j       every class j
    /// ```
    ///
    /// This is the only loss with a bias, which [`Batch::with_bias`](crate::Batch::with_bias) sets.
    /// Without a call of it, b = 0.
    ///
    /// **Shapes**: embeddings x (N, D), class weights w (C, D), bias b (C).
    ///
    /// **Hyper-parameters**: none.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, Softmax};
    /// use ndarray::array;
    ///
    /// let (x, w, b) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0]], array![0.5, 0.0]);
    /// let batch = Batch::new(&x, &w, &[1]).with_bias(&b);
    /// let forward = Head::new(Softmax::new()).forward(&batch)?;
    /// // z = (1.5, 2), so L = log(1 + e^-0.5)
    /// approx::assert_relative_eq!(forward.losses[0], (-0.5_f64).exp().ln_1p(), epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Liu et al., *SphereFace* (CVPR 2017), eq. 1.
    pub struct Softmax;
}

impl MarginLoss for Softmax {
    fn scale(&self) -> Scale {
        Scale::Unnormalized
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }
}
