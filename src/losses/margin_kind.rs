use crate::math::{Angle, Continuation, Target};

/// Where a margin is applied, for losses that exist in both forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MarginKind {
    /// Added to the angle, in radians, as ArcFace does.
    #[default]
    Angular,
    /// Subtracted from the cosine, as CosFace does.
    Cosine,
}

impl MarginKind {
    /// The target with a margin of this kind.
    pub(super) fn target(self, angle: &Angle, m: f64) -> Target {
        match self {
            MarginKind::Angular => Continuation::Monotone.target(angle, 1.0, m),
            MarginKind::Cosine => Target { value: angle.cos - m, slope: -angle.sin },
        }
    }
}
