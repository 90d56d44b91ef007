//! A target angle, and what a margin makes of it.

/// The angle between an embedding and the weight of its own class.
///
/// Cosine and sine come from the same geometry as the angle, so that each is accurate where the
/// others lose digits: `sin` has full relative accuracy down to θ = 0 and up to π.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Angle {
    /// θ in [0, π], in radians.
    pub theta: f64,
    /// cos θ.
    pub cos: f64,
    /// sin θ ≥ 0.
    pub sin: f64,
}

impl Angle {
    /// π/2, with a cosine of exactly 0: stands where a vector is zero and has no angle.
    pub(crate) const RIGHT: Angle =
        Angle { theta: std::f64::consts::FRAC_PI_2, cos: 0.0, sin: 1.0 };

    /// The angle of `theta` radians, θ in [0, π].
    pub fn from_theta(theta: f64) -> Self {
        Angle { theta, cos: theta.cos(), sin: theta.sin() }
    }

    /// The angle of a cosine. A cosine that rounding put beyond ±1 is read as ±1.
    pub fn from_cos(cos: f64) -> Self {
        let cos = cos.clamp(-1.0, 1.0);
        let sin = ((1.0 - cos) * (1.0 + cos)).sqrt();
        Angle { theta: sin.atan2(cos), cos, sin }
    }
}

/// The target logit before the scale, and how it changes with the angle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// f(θ).
    pub value: f64,
    /// df/dθ.
    pub slope: f64,
}

impl Target {
    /// No margin: cos θ and its slope.
    pub(crate) fn plain(angle: &Angle) -> Self {
        Target { value: angle.cos, slope: -angle.sin }
    }
}
