//! How the margin function continues beyond π, where cos φ would rise again.

use std::f64::consts::PI;

use super::angle::{Angle, Target};
use crate::error::Error;

/// How the target logit ψ(φ), `φ = m0 · θ + m1`, continues where cos φ would rise again.
///
/// `cos(m0 · θ + m1)` falls on all of [0, π] only if `m0 · π + m1 ≤ π`. Beyond φ = π it rises, so
/// that the loss would reward a sample for being further from its class. Papers and libraries
/// differ in what they do there:
///
/// | mode | formula | applies where | source |
/// |---|---|---|---|
/// | `Monotone` | `cos(φ − kπ) − 2k`, `k = ⌊φ/π⌋` | everywhere | SphereFace, eq. 7 |
/// | `Raw` | `cos φ` | everywhere | the formula as printed |
/// | `Linear` | `cos θ − m1 · sin m1` | `θ ≥ π − m1` | ArcFace's first published code |
/// | `EasyMargin` | `cos θ` | `θ ≥ π/2` | an option of that code |
///
/// | mode | continuous | falls everywhere |
/// |---|---|---|
/// | `Monotone` | yes, and so is its derivative | yes |
/// | `Raw` | yes, and so is its derivative | **no**: rises beyond φ = π |
/// | `Linear` | **no**: jumps down, by 0.117 at m1 = 0.5 | if m1 ≤ 2.331 |
/// | `EasyMargin` | **no**: jumps up by `sin m1` | **no** |
///
/// All four modes agree where φ ≤ π (`EasyMargin`: where θ < π/2). `Linear` and `EasyMargin` are
/// defined for m0 = 1 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Continuation {
    /// Keeps falling, smoothly. The default of every loss.
    #[default]
    Monotone,
    /// cos φ, unchanged.
    Raw,
    /// A cosine shifted down, where `θ ≥ π − m1`.
    Linear,
    /// No margin where `θ ≥ π/2`.
    EasyMargin,
}

impl Continuation {
    /// Refuses a mode that is not defined for this angular factor.
    pub(crate) fn check(self, m0: f64) -> Result<(), Error> {
        let any_factor = matches!(self, Continuation::Monotone | Continuation::Raw);
        let expected = "1 for the continuations Linear and EasyMargin";
        Error::check_parameter("angular factor m0", m0, expected, any_factor || m0 == 1.0)?;
        Ok(())
    }

    /// ψ(m0 · θ + m1) and its slope dψ/dθ.
    pub(crate) fn target(self, angle: &Angle, m0: f64, m1: f64) -> Target {
        let plain = Target::plain(angle);
        if m0 == 1.0 && m1 == 0.0 {
            return plain;
        }
        let phi = m0 * angle.theta + m1;
        match self {
            Continuation::Monotone => {
                let k = (phi / PI).floor();
                let alpha = phi - k * PI;
                Target { value: alpha.cos() - 2.0 * k, slope: -m0 * alpha.sin() }
            }
            Continuation::Linear if angle.theta >= PI - m1 => {
                Target { value: plain.value - m1 * m1.sin(), ..plain }
            }
            Continuation::EasyMargin if angle.cos <= 0.0 => plain,
            _ => Target { value: phi.cos(), slope: -m0 * phi.sin() },
        }
    }
}

/// The annealing of A-Softmax: a weighted mean of the target and the plain cosine,
/// `(λ · cos θ + f) / (1 + λ)`.
pub(crate) fn annealed(target: Target, angle: &Angle, lambda: f64) -> Target {
    Target {
        value: (lambda * angle.cos + target.value) / (1.0 + lambda),
        slope: (target.slope - lambda * angle.sin) / (1.0 + lambda),
    }
}
