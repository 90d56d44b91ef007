use std::fmt;

/// A decision threshold: a pair is accepted if and only if its score is at least this.
///
/// ```text
/// d² = ‖u − v‖² = 2 − 2·cos(u, v)      unit vectors u, v
/// ```
///
/// ```
/// use margin_softmax_evaluation::Threshold;
///
/// let threshold = Threshold::from_cosine(0.25);
/// assert_eq!(threshold.squared_distance(), Some(1.5));
/// assert!(threshold.accepts(0.25) && !threshold.accepts(0.2499));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Threshold(f64);

impl Threshold {
    /// The threshold that no score reaches: it rejects every pair.
    pub const REJECT_ALL: Threshold = Threshold(f64::INFINITY);

    /// The threshold at this cosine, or at this score of another kind.
    pub fn from_cosine(cosine: f64) -> Self {
        Threshold(cosine)
    }

    /// The smallest cosine that is accepted, or score where the scores are no cosines; infinite
    /// where every pair is rejected.
    pub fn cosine(self) -> f64 {
        self.0
    }

    /// The largest squared distance of unit vectors that is accepted, `2 − 2·cos`. `None` if the
    /// threshold is no cosine.
    pub fn squared_distance(self) -> Option<f64> {
        (self.0.abs() <= 1.0).then_some(2.0 - 2.0 * self.0)
    }

    /// Whether a pair with this score is accepted.
    pub fn accepts(self, score: f64) -> bool {
        score >= self.0
    }
}

impl fmt::Display for Threshold {
    /// The cosine, with the precision that the format asks for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
