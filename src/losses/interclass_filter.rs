use super::*;

hyper_parameters! {
    /// Interclass filtering of any loss: negatives nearer than a threshold are taken for the
    /// sample's own class under another label, and count as if they were at a right angle.
    ///
    /// ```text
    /// z_ij = a_i · cos θ_ij      cos θ_ij ≤ h
    /// z_ij = 0                   cos θ_ij > h
    /// ```
    ///
    /// The target logit is that of the inner loss, and no gradient flows to a negative that is
    /// filtered.
    ///
    /// Take it when one person or thing may have several labels, as in data gathered from the web
    /// without merging them.
    ///
    /// **Shapes**: those of the inner loss.
    pub struct InterclassFilter<L> {
        threshold: f64, (check_threshold "in (-1, 1]"), "interclass threshold", "h";
    }
    /// Cosines of random vectors in D dimensions are of the size 1/√D: with few dimensions a low
    /// threshold filters negatives that are near by chance. The published code, which multiplies
    /// the cosines above its threshold by 0, agrees with this one.
    ///
    /// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a threshold outside its
    /// range, and for a loss with hard negatives of its own, which the filter would take the place
    /// of. A step is refused if [`loss_mut`](Self::loss_mut) has put such a loss inside; under the
    /// scale [`Unnormalized`](Scale::Unnormalized) it is refused with [`Error::Unsupported`].
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head, InterclassFilter};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.8, 0.6]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let head = Head::new(InterclassFilter::new(ArcFace::new(10.0, 0.0)?, 0.4)?);
    /// let forward = head.forward(&Batch::new(&x, &w, &[0]))?;
    /// // z = (8, 0): the other cosine is 0.6
    /// approx::assert_relative_eq!(forward.losses[0], (-8.0_f64).exp().ln_1p(), epsilon = 1e-15);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: `interclass_filtering_threshold` of insightface's `CombinedMarginLoss`; An et
    /// al., *Killing Two Birds with One Stone* (CVPR 2022), section 3, on conflicting classes.
}

impl<L: MarginLoss> InterclassFilter<L> {
    /// `loss` without the negatives whose cosine is above `threshold`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `threshold` is in (−1, 1], and for a loss with
    /// [hard negatives](MarginLoss::hard_negatives) of its own.
    pub fn new(loss: L, threshold: f64) -> Result<Self, Error> {
        InterclassFilter { loss, threshold }.checked()
    }

    fn check_threshold(&self) -> Result<f64, Error> {
        check!("interclass threshold", self.threshold, ("in (-1, 1]", |h| h > -1.0 && h <= 1.0))?;
        self.check_rules()
    }

    fn check_rules(&self) -> Result<f64, Error> {
        let rules = f64::from(u8::from(self.loss.hard_negatives().is_some()));
        let expected = "0: a filter takes the place of the inner loss's own";
        Error::check_parameter("number of rules for hard negatives", rules, expected, rules == 0.0)
    }
}

impl<L: MarginLoss> MarginLoss for InterclassFilter<L> {
    forward! { self => self.loss;
        scale target target_of top_negatives binary label_smoothing
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        self.check_rules()?;
        self.loss.check_classes(classes)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        Some(HardNegatives::above(self.threshold, 0.0, 0.0, 0.0))
    }
}
