use super::*;

hyper_parameters! {
    /// Label smoothing of any loss: the cross-entropy with the target 1 − ε + ε/C for the own class
    /// and ε/C for every other.
    ///
    /// ```text
    /// L = log(1 + e^{S − z_y}) + ε · (z_y − (1/C)·Σ_j z_j)      S = log Σ_{j≠y} e^{z_j}
    /// ```
    ///
    /// z are the logits of the inner loss, the target logit with its margin, and C is the number of
    /// active classes: all, over all ranks, or those sampled (with their correction, where
    /// the sampler has one). It equals `cross_entropy(z, y, label_smoothing=ε)` of PyTorch.
    /// [`Forward::margin_free_losses`](crate::Forward::margin_free_losses) are not smoothed.
    /// As a difference of logits, L is exact to a rounding of the largest: beside huge logits, of
    /// Softmax, it may be below 0.
    ///
    /// **Shapes**: those of the inner loss.
    pub struct LabelSmoothing<L> {
        epsilon: f64, "in [0, 1]", "label smoothing epsilon", "the share that is spread evenly";
    }
    /// Smoothing bounds the confidence that a sample is pushed to, which helps where labels are
    /// noisy or few classes are easily told apart. At a large scale s a large ε pulls against the
    /// margin: the probability to aim at, 1 − ε + ε/C, is soon reached. With ε = 0 the loss is the
    /// inner loss, bit for bit and at the same cost.
    ///
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range.
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head, LabelSmoothing};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[3.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let loss = LabelSmoothing::new(CosFace::new(10.0, 0.4)?, 0.1)?;
    /// let forward = Head::new(loss).forward(&Batch::new(&x, &w, &[0]))?;
    /// // z = (10 · 0.6, 0), their mean is 3
    /// let expected = (-6.0_f64).exp().ln_1p() + 0.1 * (6.0 - 3.0);
    /// approx::assert_relative_eq!(forward.losses[0], expected, epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Szegedy et al., *Rethinking the Inception Architecture* (CVPR 2016, arXiv
    /// 1512.00567), section 7.
}

impl<L: MarginLoss> LabelSmoothing<L> {
    /// `loss` with label smoothing `epsilon`, in place of its own if it has any.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `epsilon` is in [0, 1].
    pub fn new(loss: L, epsilon: f64) -> Result<Self, Error> {
        LabelSmoothing { loss, epsilon }.checked()
    }
}

impl<L: MarginLoss> MarginLoss for LabelSmoothing<L> {
    forward! { self => self.loss;
        scale target target_of hard_negatives top_negatives binary check_classes
    }

    fn label_smoothing(&self) -> f64 {
        self.epsilon
    }
}
