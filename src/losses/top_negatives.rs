use super::*;

hyper_parameters! {
    /// Inter-top-k: a margin on the k nearest negatives of each sample, around any loss. It pushes
    /// away the classes that a sample is most easily taken for.
    ///
    /// ```text
    /// z_ij = a_i · cos(θ_ij − m′)      j among the k nearest negatives of sample i
    /// z_ij = a_i · cos θ_ij            the other negatives
    /// ```
    ///
    /// The target logit is that of the inner loss. Nearest are those with the largest cosines; with
    /// sub-centers a class has that of its nearest row.
    ///
    /// **Shapes**: those of the inner loss.
    pub struct TopNegatives<L> {
        k: usize, (check_top "an integer >= 1"), "number k of nearest negatives", "usually 5";
        margin: f64, (check_top "in [0, π) radians"), "margin m′ of the nearest negatives",
            "usually 0.06";
    }
    /// Speaker recognition takes k = 5 and m′ = 0.06 with s = 32, m = 0.2 and 3 sub-centers, raises
    /// m′ along with the margin, as 0.3·m, and drops it in large-margin fine-tuning. As published,
    /// the logit falls again where θ < m′.
    ///
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a value outside its range.
    /// Under the scale [`Unnormalized`](Scale::Unnormalized) a step is refused with
    /// [`Error::Unsupported`].
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head, TopNegatives};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.0]], array![[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]);
    /// let head = Head::new(TopNegatives::new(ArcFace::new(4.0, 0.0)?, 1, 0.1)?);
    /// let forward = head.forward(&Batch::new(&x, &w, &[0]))?;
    /// // z = (4, 4·cos(π/2 − 0.1), −4)
    /// let negatives = (4.0 * 0.1_f64.sin()).exp() + (-4.0_f64).exp();
    /// approx::assert_relative_eq!(forward.losses[0], (negatives / 4.0_f64.exp()).ln_1p());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Zhao et al., *Multi-query multi-head attention pooling and Inter-topK penalty for
    /// speaker verification* (ICASSP 2022, arXiv 2110.05042), section 2.2; also in WeSpeaker and
    /// ESPnet.
}

impl<L: MarginLoss> TopNegatives<L> {
    /// `loss` with the margin `margin` on the `k` nearest negatives, in place of its own if it has
    /// one.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `k` ≥ 1 and `margin` is in [0, π).
    pub fn new(loss: L, k: usize, margin: f64) -> Result<Self, Error> {
        TopNegatives { loss, k, margin }.checked()
    }

    fn top(&self) -> TopMargin {
        TopMargin { k: self.k, margin: self.margin }
    }

    fn check_top(&self) -> Result<TopMargin, Error> {
        self.top().checked()
    }
}

impl<L: MarginLoss> MarginLoss for TopNegatives<L> {
    forward! { self => self.loss;
        scale target target_of hard_negatives binary check_classes label_smoothing
    }

    fn top_negatives(&self) -> Option<TopMargin> {
        Some(self.top())
    }
}
