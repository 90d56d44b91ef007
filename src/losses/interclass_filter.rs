use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::math::{Angle, HardNegatives, Sample, SampleTarget, Target};

/// Interclass filtering of any loss: negatives nearer than a threshold are taken for the sample's
/// own class under another label, and count as if they were at a right angle.
///
/// ```text
/// z_ij = a_i · cos θ_ij      cos θ_ij ≤ h
/// z_ij = 0                   cos θ_ij > h
/// ```
///
/// The target logit is that of the inner loss, and no gradient flows to a negative that is filtered.
///
/// Take it when one person or thing may have several labels, as in data gathered from the web
/// without merging them.
///
/// **Shapes**: those of the inner loss.
///
/// | hyper-parameter | default | range | purpose |
/// |---|---|---|---|
/// | `threshold` | none; insightface has 0.4 where it is on | in (−1, 1] | h: the cosine above which a negative is filtered |
///
/// Cosines of random vectors in D dimensions are of the size 1/√D: with few dimensions a low
/// threshold filters negatives that are near by chance. The published code, which multiplies the
/// cosines above its threshold by 0, agrees with this one.
///
/// **Errors**: [`new`](Self::new) returns [`Error::Parameter`] for a threshold outside its range,
/// and for a loss with hard negatives of its own, which the filter would take the place of. Under
/// the scale [`Unnormalized`](Scale::Unnormalized) a step is refused with
/// [`Error::HardNegatives`].
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
/// **Source**: `interclass_filtering_threshold` of insightface's `CombinedMarginLoss`; An et al.,
/// *Killing Two Birds with One Stone* (CVPR 2022), section 3, on conflicting classes.
#[derive(Debug, Clone, PartialEq)]
pub struct InterclassFilter<L> {
    loss: L,
    threshold: f64,
}

impl<L: MarginLoss> InterclassFilter<L> {
    /// `loss` without the negatives whose cosine is above `threshold`.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `threshold` is in (−1, 1], and for a loss with
    /// [hard negatives](MarginLoss::hard_negatives) of its own.
    pub fn new(loss: L, threshold: f64) -> Result<Self, Error> {
        let valid = threshold > -1.0 && threshold <= 1.0;
        Error::check_parameter("interclass threshold", threshold, "in (-1, 1]", valid)?;
        let rules = f64::from(u8::from(loss.hard_negatives().is_some()));
        let expected = "0: a filter takes the place of the inner loss's own";
        Error::check_parameter(
            "number of rules for hard negatives",
            rules,
            expected,
            rules == 0.0,
        )?;
        Ok(InterclassFilter { loss, threshold })
    }

    /// The inner loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The cosine above which a negative is filtered.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }
}

impl<L: MarginLoss> MarginLoss for InterclassFilter<L> {
    fn scale(&self) -> Scale {
        self.loss.scale()
    }

    fn target(&self, angle: &Angle) -> Target {
        self.loss.target(angle)
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        self.loss.target_of(sample)
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        Some(HardNegatives::above(self.threshold, 0.0, 0.0, 0.0))
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        self.loss.check_classes(classes)
    }

    fn label_smoothing(&self) -> f64 {
        self.loss.label_smoothing()
    }
}
