use super::*;

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
    /// The margin of the angle and that of the cosine, one of which is `m`.
    pub(super) fn margins(self, m: f64) -> (f64, f64) {
        match self {
            MarginKind::Angular => (m, 0.0),
            MarginKind::Cosine => (0.0, m),
        }
    }

    /// The target with a margin of this kind.
    pub(super) fn target(self, angle: &Angle, m: f64) -> Target {
        let (angular, cosine) = self.margins(m);
        with_margins(angle, angular, cosine)
    }
}
