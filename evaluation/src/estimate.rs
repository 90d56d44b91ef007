//! The results: each carries the bound on its error and what it rests on.

use crate::threshold::Threshold;

/// A figure and the bound on its error.
///
/// ```
/// use margin_softmax_evaluation::Verification;
///
/// let scores = Verification::from_scores(&[0.9, 0.4, 0.4], &[true, true, false])?;
/// let auc = scores.auc();
/// assert_eq!(auc.value, 0.75); // one win and one tie of two
/// assert_eq!((auc.bound, auc.genuine, auc.impostors), (0.0, 2, 1));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The figure over the single scores lies in `value ± bound`; 0 where every score was used.
    pub bound: f64,
    /// The genuine pairs that the figure rests on.
    pub genuine: u64,
    /// The impostor pairs that the figure rests on.
    pub impostors: u64,
}

/// The equal error rate.
///
/// ```
/// use margin_softmax_evaluation::Verification;
///
/// // (FAR, FRR) is (0, 0.5) at threshold 0.9 and (0.5, 0.5) at 0.6.
/// let scores = [0.9, 0.3, 0.6, 0.2];
/// let eer = Verification::from_scores(&scores, &[true, true, false, false])?.eer();
/// assert_eq!((eer.rate, eer.threshold.cosine()), (0.5, 0.6));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EqualError {
    /// The rate at which FAR = FRR on the line between the two neighboring points of the ROC.
    pub rate: f64,
    /// The rate over the single scores lies in `rate ± bound`; 0 where every score was used.
    pub bound: f64,
    /// The highest threshold with FAR ≥ FRR.
    pub threshold: Threshold,
    /// FAR at this threshold.
    pub far: f64,
    /// FRR at this threshold.
    pub frr: f64,
    /// The genuine pairs that the rate rests on.
    pub genuine: u64,
    /// The impostor pairs that the rate rests on.
    pub impostors: u64,
}

/// The operating point at a FAR.
///
/// ```
/// use margin_softmax_evaluation::Verification;
///
/// let impostors = (0..20).map(|i| f64::from(i) / 40.0);
/// let scores: Vec<f64> = impostors.chain([0.3, 0.48, 0.9]).collect();
/// let genuine: Vec<bool> = (0..23).map(|i| i >= 20).collect();
/// let point = Verification::from_scores(&scores, &genuine)?.tar_at_far(0.5)?;
/// assert_eq!((point.false_accepts, point.impostors), (10, 20));
/// assert_eq!((point.tar, point.genuine), (1.0, 3));
/// assert_eq!(point.threshold.cosine(), 0.25);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatingPoint {
    /// The lowest threshold, among the scores, whose FAR is at most the requested one;
    /// [`Threshold::REJECT_ALL`] if even the highest score accepts more.
    pub threshold: Threshold,
    /// FAR at this threshold.
    pub far: f64,
    /// TAR at this threshold.
    pub tar: f64,
    /// TAR over the single scores lies in `[tar, tar + tar_bound]`; 0 where every score was used.
    pub tar_bound: f64,
    /// The impostor pairs that are accepted.
    pub false_accepts: u64,
    /// The genuine pairs that TAR rests on.
    pub genuine: u64,
    /// The impostor pairs that FAR rests on.
    pub impostors: u64,
}

/// The least cost over all thresholds.
///
/// ```
/// use margin_softmax_evaluation::{DetectionCost, Verification};
///
/// let scores = [0.9, 0.7, 0.6, 0.2];
/// let pairs = Verification::from_scores(&scores, &[true, false, true, false])?;
/// let least = pairs.min_dcf(&DetectionCost::default());
/// assert_eq!((least.cost, least.frr, least.far), (0.5, 0.5, 0.0));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinimumCost {
    /// The cost.
    pub cost: f64,
    /// The cost over the single scores lies in `[cost − bound, cost]`; 0 where every score was used.
    pub bound: f64,
    /// The highest threshold with this cost.
    pub threshold: Threshold,
    /// FAR at this threshold.
    pub far: f64,
    /// FRR at this threshold.
    pub frr: f64,
    /// The genuine pairs that the cost rests on.
    pub genuine: u64,
    /// The impostor pairs that the cost rests on.
    pub impostors: u64,
}
