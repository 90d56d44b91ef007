use crate::cost::DetectionCost;
use crate::error::Error;
use crate::estimate::Estimate;
use crate::steps::Steps;

/// A figure of a verification, by name: for bootstrap intervals and for
/// [`AllPairs::exact`](crate::AllPairs::exact).
///
/// ```
/// use margin_softmax_evaluation::{Figure, Verification};
///
/// let pairs = Verification::from_scores(&[0.9, 0.8, 0.1], &[true, true, false])?;
/// assert_eq!(pairs.figure(Figure::Accuracy)?.value, 1.0);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Figure {
    /// The equal error rate.
    Eer,
    /// TAR at this FAR.
    TarAtFar(f64),
    /// Area under the ROC.
    Auc,
    /// The least normalized detection cost.
    MinDcf(DetectionCost),
    /// The best accuracy of a single threshold.
    Accuracy,
}

impl Figure {
    /// Refuses a FAR that is out of range or that so few impostors cannot show.
    pub(crate) fn check(&self, steps: &Steps) -> Result<(), Error> {
        if let Figure::TarAtFar(far) = *self { steps.check_far(far) } else { Ok(()) }
    }

    /// The figure with its bound, and the indices of the steps that it rests on.
    pub(crate) fn estimate(&self, steps: &Steps) -> (Estimate, Vec<usize>) {
        match self {
            Figure::Eer => {
                let (error, index) = steps.equal_error();
                (steps.estimate(error.rate, error.bound), vec![index])
            }
            Figure::TarAtFar(far) => {
                let (point, around) = steps.operating_point(*far);
                (steps.estimate(point.tar, point.tar_bound), around)
            }
            Figure::Auc => {
                let mixed = steps.steps().iter().enumerate();
                let mixed = mixed.filter(|(_, step)| step.genuine > 0 && step.impostors > 0);
                (steps.auc(), mixed.map(|(index, _)| index).collect())
            }
            Figure::MinDcf(detection) => {
                let (least, around) = steps.min_dcf(detection);
                (steps.estimate(least.cost, least.bound), around)
            }
            Figure::Accuracy => {
                let (least, around) = steps.least_error();
                (steps.estimate(1.0 - least.cost, least.bound), around)
            }
        }
    }
}
