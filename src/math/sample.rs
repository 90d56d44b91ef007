//! A sample as a loss sees it, and what the loss makes of it.

use super::angle::{Angle, Target};

/// One sample of a batch, as a loss sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// The angle between its embedding and the weight of its own class.
    pub angle: Angle,
    /// ‖x‖, the norm of its embedding.
    pub norm: f64,
    /// Its label: the number of its class among all classes, over all ranks.
    pub label: usize,
    /// Its row in the batch.
    pub row: usize,
}

impl Sample {
    /// A sample at this angle to its class, for tests of a loss.
    ///
    /// ```
    /// use margin_softmax::{AdaFace, MarginLoss};
    /// use margin_softmax::custom::{Angle, Sample};
    ///
    /// let angle = Angle::from_theta(1.0);
    /// let (blurred, sharp) = (Sample::new(angle, 2.0, 0, 0), Sample::new(angle, 60.0, 0, 1));
    /// let loss = AdaFace::default().with_statistics(20.0, 6.0)?;
    /// assert!(loss.target_of(&blurred).slope != loss.target_of(&sharp).slope);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn new(angle: Angle, norm: f64, label: usize, row: usize) -> Self {
        Sample { angle, norm, label, row }
    }
}

/// What a loss makes of one sample: its target logit before the scale, and a penalty.
///
/// ```text
/// z_y = a·f(θ, ‖x‖)        L = log(1 + e^{S − z_y}) + P(‖x‖)
/// ```
///
/// A [`Target`] is the target of a loss that knows only the angle: `SampleTarget::from(target)`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SampleTarget {
    /// f.
    pub value: f64,
    /// ∂f/∂θ.
    pub slope: f64,
    /// ∂f/∂‖x‖ at a fixed angle; 0 where the margin does not depend on the norm, or is held fixed.
    pub norm_slope: f64,
    /// P, which is added to the loss of the sample.
    pub penalty: f64,
    /// dP/d‖x‖.
    pub penalty_slope: f64,
}

impl SampleTarget {
    /// The same target, whose value changes with the norm of the embedding: ∂f/∂‖x‖.
    pub fn with_norm_slope(self, norm_slope: f64) -> Self {
        SampleTarget { norm_slope, ..self }
    }

    /// The same target with a penalty P on the norm of the embedding, and its derivative dP/d‖x‖.
    pub fn with_penalty(self, penalty: f64, penalty_slope: f64) -> Self {
        SampleTarget { penalty, penalty_slope, ..self }
    }

    /// The first field that is NaN or infinite, and its value.
    pub(crate) fn not_finite(&self) -> Option<(&'static str, f64)> {
        let SampleTarget { value, slope, norm_slope, penalty, penalty_slope } = *self;
        let target = [("value", value), ("slope", slope), ("norm_slope", norm_slope)];
        let penalty = [("penalty", penalty), ("penalty_slope", penalty_slope)];
        target.into_iter().chain(penalty).find(|(_, value)| !value.is_finite())
    }
}

impl From<Target> for SampleTarget {
    fn from(Target { value, slope }: Target) -> Self {
        SampleTarget { value, slope, norm_slope: 0.0, penalty: 0.0, penalty_slope: 0.0 }
    }
}
