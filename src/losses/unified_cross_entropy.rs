use super::*;

hyper_parameters! {
    /// Unified cross-entropy: one logistic loss for each pair of an embedding and a class, so that one
    /// threshold on the cosine holds for all samples.
    ///
    /// ```text
    /// L_i = log(1 + e^{−(s·(cos θ_iy − m) + b)}) + Σ_{j≠y} log(1 + e^{s·cos θ_ij + b})
    /// ```
    ///
    /// **Shapes**: embeddings x (N, D) and class weights w (C, D). The loss normalizes both.
    pub struct UnifiedCrossEntropy {
        s: f64 = 64.0, "finite and > 0", "scale s", "the radius of the hypersphere";
        m: f64 = 0.4, "in (-2, 2), a difference of cosines" of "scale s, then margin m",
            "cosine margin m";
        b: f64 = 0.0, "finite", "bias b", "one number for all classes, learned" => with_bias;
    }
    /// The threshold is cos θ = −b/s. The papers write −b̃ for b. Begin with `b` =
    /// [`starting_bias`](Self::starting_bias) and learn it with the derivative
    /// [`Forward::bias_gradient`](crate::Forward::bias_gradient). As for
    /// [`SphereFace2`](crate::SphereFace2), label smoothing and filters are
    /// refused.
    ///
    /// **Errors**: the constructors return [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, Head, UnifiedCrossEntropy};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let loss = UnifiedCrossEntropy::new(8.0, 0.4)?.with_bias(-2.0)?;
    /// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0]))?;
    /// let expected = (-2.8_f64).exp().ln_1p() + (-2.0_f64).exp().ln_1p();
    /// approx::assert_relative_eq!(forward.losses[0], expected, epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Zhou et al., *UniTSFace: Unified Threshold Integrated Sample-to-Sample Loss for Face
    /// Recognition* (NeurIPS 2023).
}

impl UnifiedCrossEntropy {
    /// The loss with scale `s` and cosine margin `m`, and b = 0.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `s` is finite and > 0 and `m` in (−2, 2).
    pub fn new(s: f64, m: f64) -> Result<Self, Error> {
        UnifiedCrossEntropy { s, m, ..Self::default() }.checked()
    }

    /// The b to begin with: −log(10·C).
    pub fn starting_bias(&self, classes: usize) -> f64 {
        -(10.0 * classes.max(1) as f64).ln()
    }
}

impl MarginLoss for UnifiedCrossEntropy {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.s)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos - self.m, slope: -angle.sin }
    }

    fn binary(&self) -> Option<BinaryForm> {
        Some(BinaryForm::new(1.0, 1.0, self.b))
    }
}
