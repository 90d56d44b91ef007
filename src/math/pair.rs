//! Angle and unit tangents of an (embedding, target weight) pair, in f64.
//!
//! Near cos θ = ±1 the cosine holds no digits of the angle, and the gradient of the cosine is 0/0.
//! So the angle comes from the lengths of difference and sum (Kahan), and the tangents
//! t^x = (v − cos θ·u)/sin θ and t^w = (u − cos θ·v)/sin θ from the same vectors, made orthogonal
//! once more and divided by their own length (docs/math.md, section 2).

use super::angle::Angle;
use crate::kernel::{self, Real, Tangents};

/// Tangents shorter than this have no direction: the pair is parallel or opposed.
pub(crate) const SINGULAR: f64 = 4.0 * f64::EPSILON;

/// The vectors of a pair.
pub(crate) const EMBEDDING: usize = 0;
pub(crate) const CLASS_WEIGHT: usize = 1;

/// Everything about one pair that forward and backward need; the tangents are kept as the
/// coefficients that make them from the rows. Arrays hold the embedding's number, then the class
/// weight's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub angle: Angle,
    /// 1/‖x‖ and 1/‖w‖.
    pub inverse_norms: [f64; 2],
    side: f64,
    along: [f64; 2],
    unit: [f64; 2],
}

impl Pair {
    /// The pair of `x` and `w` with norms `r` and `q`.
    pub fn new<F: Real>(x: &[F], w: &[F], r: f64, q: f64) -> Self {
        let inverse_norms = [r.recip(), q.recip()];
        let squares = kernel::moments([x, w], inverse_norms);
        let [difference, sum] = squares.map(f64::sqrt);
        let (side, along, cos) = if difference <= sum {
            (1.0, 0.5 * squares[0], 1.0 - 0.5 * squares[0])
        } else {
            (-1.0, -0.5 * squares[1], 0.5 * squares[1] - 1.0)
        };
        let angle = Angle { theta: 2.0 * difference.atan2(sum), cos, sin: 0.5 * difference * sum };
        let Tangents { along, lengths } = kernel::tangents([x, w], inverse_norms, side, along);
        let unit = |length: f64| if length > SINGULAR { length.recip() } else { 0.0 };
        Pair { angle, inverse_norms, side, along, unit: lengths.map(unit) }
    }

    /// `out` += c·t, the tangent at one of the `vectors` x and w; nothing where it has no direction.
    pub fn add_tangent<F: Real>(&self, out: &mut [f64], at: usize, vectors: [&[F]; 2], c: f64) {
        let [here, there] = [at, 1 - at].map(|k| (vectors[k], self.inverse_norms[k]));
        kernel::add_tangent(out, here, there, (self.side, self.along[at]), c * self.unit[at]);
    }

    /// `out` += c times the unit vector along one of the `vectors`. The row is divided by its norm
    /// first, for c over the norm may be out of range.
    pub fn add_unit<F: Real>(&self, out: &mut [f64], at: usize, vectors: [&[F]; 2], c: f64) {
        let unit = (vectors[at], self.inverse_norms[at]);
        kernel::add_tangent(out, unit, unit, (0.0, 0.0), c);
    }
}
