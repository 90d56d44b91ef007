//! A margin on each sample's nearest negatives.

use super::angle::{Angle, Target};
use crate::error::{Error, check};

/// A margin on the k nearest negatives of each sample: of the classes j that are not its own, those
/// with the k largest cosines,
///
/// ```text
/// z_ij = a_i·cos(θ_ij − m′)
/// ```
///
/// takes the place of a_i·cos θ_ij. Which they are is held fixed in the gradient; of equal cosines
/// the lower class is taken. Predictions, accuracy and margin-free logits are of the plain cosines.
/// [`TopNegatives`](crate::TopNegatives) adds it to any loss.
///
/// The scale must be [`Fixed`](crate::Scale::Fixed) or [`FeatureNorm`](crate::Scale::FeatureNorm);
/// under `Unnormalized` a step is refused with [`Error::Unsupported`]. A nearest negative counts by
/// this margin alone, whatever [`HardNegatives`](crate::custom::HardNegatives) make of the others.
///
/// **Source**: Zhao et al., *The SpeakIn System for VoxSRC 2021* (arXiv 2109.01989) and *Multi-query
/// multi-head attention pooling and Inter-topK penalty* (ICASSP 2022, arXiv 2110.05042).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopMargin {
    /// How many negatives have the margin; of fewer negatives all.
    pub k: usize,
    /// The margin m′ in radians.
    pub margin: f64,
}

impl TopMargin {
    /// cos(θ − m′) and its slope.
    pub(crate) fn target(&self, angle: &Angle) -> Target {
        let (sin, cos) = (angle.theta - self.margin).sin_cos();
        Target { value: cos, slope: -sin }
    }

    /// Refuses k = 0 and margins that can only be a mistake.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        check!("number k of nearest negatives", self.k as f64, "an integer >= 1")?;
        check!("margin m' of the nearest negatives", self.margin, "in [0, π) radians")?;
        Ok(self)
    }
}
