use super::*;

hyper_parameters! {
    /// Softmax with normalized class weights and no bias: the baseline of the margin losses,
    /// without a margin.
    ///
    /// ```text
    /// z_ij = ‖x_i‖ · cos θ_ij       every class j
    /// ```
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes the class
    /// weights only.
    ///
    /// **Hyper-parameters**: none.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, ModifiedSoftmax};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[3.0, 0.0]], array![[5.0, 0.0], [0.0, 0.1]]);
    /// let forward = Head::new(ModifiedSoftmax::new()).forward(&Batch::new(&x, &w, &[0]))?;
    /// // z = (3, 0): the norms of the weights have no effect.
    /// approx::assert_relative_eq!(forward.losses[0], (-3.0_f64).exp().ln_1p(), epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Liu et al., *SphereFace* (CVPR 2017), eq. 3.
    pub struct ModifiedSoftmax;
}

impl MarginLoss for ModifiedSoftmax {
    fn scale(&self) -> Scale {
        Scale::FeatureNorm
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }
}
