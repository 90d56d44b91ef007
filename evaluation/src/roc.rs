use crate::steps::{Accepted, Steps};
use crate::threshold::Threshold;

/// One point of a [`Roc`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RocPoint {
    /// Pairs with at least this score are accepted.
    pub threshold: Threshold,
    /// False accept rate: the share of impostor pairs that are accepted.
    pub far: f64,
    /// True accept rate: the share of genuine pairs that are accepted.
    pub tar: f64,
    /// False reject rate, 1 − TAR: the share of genuine pairs that are rejected.
    pub frr: f64,
}

/// The receiver operating characteristic as data: FAR, TAR and FRR at each threshold, in descending
/// order of the thresholds. FAR against FRR is the DET curve.
///
/// The first point rejects all pairs, the last accepts all. Each point is exact, in large sets too.
///
/// ```
/// use margin_softmax_evaluation::Verification;
///
/// let pairs = Verification::from_scores(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false])?;
/// let roc = pairs.roc();
/// let curve: Vec<_> = roc.points().iter().map(|point| (point.far, point.tar)).collect();
/// assert_eq!(curve, [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Roc {
    points: Vec<RocPoint>,
    genuine: u64,
    impostors: u64,
}

impl Roc {
    pub(crate) fn new(steps: &Steps) -> Self {
        let point = |threshold, at: Accepted| {
            let (far, tar, frr) = (steps.far(at), steps.tar(at), steps.frr(at));
            RocPoint { threshold, far, tar, frr }
        };
        let first = point(Threshold::REJECT_ALL, Accepted::default());
        let others = steps
            .walk()
            .map(|walked| point(Threshold::from_cosine(walked.step.threshold), walked.after));
        let points = [first].into_iter().chain(others).collect();
        Roc { points, genuine: steps.genuine(), impostors: steps.impostors() }
    }

    /// The points, in descending order of the thresholds.
    pub fn points(&self) -> &[RocPoint] {
        &self.points
    }

    /// The number of genuine pairs.
    pub fn genuine(&self) -> u64 {
        self.genuine
    }

    /// The number of impostor pairs.
    pub fn impostors(&self) -> u64 {
        self.impostors
    }
}
