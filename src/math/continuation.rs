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
/// | `Monotone` | `cos(φ − kπ) − 2k`, `k = ⌊φ/π⌋`; 1 where φ < 0 | everywhere | SphereFace, eq. 7 |
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
/// defined for m0 = 1 only. φ < 0 needs a negative margin, such as [`AdaFace`](crate::AdaFace) and
/// [`ElasticFace`](crate::ElasticFace) have for some samples: cos φ would fall there as the sample
/// nears its class, so `Monotone` stays at 1.
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
            // From here to φ = 0 a cosine would rise.
            Continuation::Monotone if phi < 0.0 => Target { value: 1.0, slope: 0.0 },
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

    /// dψ/dm1 at m0 = 1: the slope by the angle, but where the mode falls back to a shifted or
    /// plain cosine.
    pub(crate) fn slope_by_margin(self, angle: &Angle, m1: f64) -> f64 {
        match self {
            Continuation::Linear if angle.theta >= PI - m1 => -m1.sin() - m1 * m1.cos(),
            Continuation::EasyMargin if angle.cos <= 0.0 => 0.0,
            _ => self.target(angle, 1.0, m1).slope,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotone_is_flat_below_zero_and_joins_smoothly() {
        let at =
            |theta: f64, m1: f64| Continuation::Monotone.target(&Angle::from_theta(theta), 1.0, m1);
        for (theta, m1) in [(0.0, -0.4), (0.3, -0.4), (1.0, -3.0), (PI, -9.0)] {
            assert_eq!(at(theta, m1), Target { value: 1.0, slope: 0.0 });
        }
        let joined = at(0.4 + 1e-9, -0.4);
        assert!((joined.value - 1.0).abs() < 1e-15 && (joined.slope + 1e-9).abs() < 1e-12);
        assert_eq!(at(1.0, -0.4), Target { value: 0.6_f64.cos(), slope: -0.6_f64.sin() });
    }

    #[test]
    fn slopes_by_the_margin_are_derivatives() {
        use Continuation::{EasyMargin, Linear, Monotone, Raw};
        const H: f64 = 1e-6;
        for continuation in [Monotone, Raw, Linear, EasyMargin] {
            for theta in [0.2, 1.4, 1.8, 2.5, 2.9] {
                let angle = Angle::from_theta(theta);
                let value = |m1: f64| continuation.target(&angle, 1.0, m1).value;
                let expected = (value(0.5 + H) - value(0.5 - H)) / (2.0 * H);
                let given = continuation.slope_by_margin(&angle, 0.5);
                assert!((given - expected).abs() < 1e-9, "{continuation:?} at {theta}: {given}");
            }
        }
    }
}
