//! What becomes of the margin function past π, where cos(φ) would rise again.

use std::f64::consts::PI;

use crate::error::Error;
use super::angle::{Angle, Target};

/// How $\psi(\varphi)$, $\varphi = m_0\theta + m_1$, goes on where $\cos\varphi$ would rise again.
///
/// $\cos(m_0\theta + m_1)$ falls on all of $[0, \pi]$ only if $m_0\pi + m_1 \le \pi$. Beyond
/// $\varphi = \pi$ it rises: a sample would be rewarded for being further from its class. What the
/// literature and the libraries do about it differs:
///
/// | mode | past the knot | continuous | falls everywhere | source |
/// |---|---|---|---|---|
/// | `Monotone` | $\cos(\varphi - k\pi) - 2k$, $k = \lfloor\varphi/\pi\rfloor$ | yes, and once differentiable | yes | A-Softmax, eq. 7, for any $m_0, m_1$ |
/// | `Raw` | $\cos\varphi$ | yes | **no** | the formula as printed |
/// | `Linear` | $\cos\theta - m_1\sin m_1$ where $\theta \ge \pi - m_1$ | **no**: falls by $0.117$ at $m_1 = 0.5$ | up to $m_1 = 2.331$ | ArcFace's first published code |
/// | `EasyMargin` | $\cos\theta$ where $\theta \ge \pi/2$ | **no**: jumps up by $\sin m_1$ | **no** | the same code's option |
///
/// All four agree wherever $\varphi \le \pi$ (`EasyMargin`: $\theta < \pi/2$). `Linear` and
/// `EasyMargin` are defined for $m_0 = 1$ only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Continuation {
    /// Falls on, smoothly: the default of every loss.
    #[default]
    Monotone,
    /// $\cos\varphi$ as it stands.
    Raw,
    /// A cosine shifted down, past $\theta = \pi - m_1$.
    Linear,
    /// No margin past $\theta = \pi/2$.
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

    /// $\psi(m_0\theta + m_1)$ and its slope $d\psi/d\theta$.
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

/// The target blended with the plain cosine, $(\lambda\cos\theta + f)/(1 + \lambda)$: A-Softmax's
/// annealing, by which training starts without a margin.
pub(crate) fn annealed(target: Target, angle: &Angle, lambda: f64) -> Target {
    Target {
        value: (lambda * angle.cos + target.value) / (1.0 + lambda),
        slope: (target.slope - lambda * angle.sin) / (1.0 + lambda),
    }
}
