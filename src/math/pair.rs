//! Angle and unit tangents of an (embedding, target weight) pair, in f64.
//!
//! Near cos θ = ±1 the cosine holds no digits of the angle, and the gradient of the cosine is 0/0.
//! So the angle comes from the lengths of difference and sum (Kahan), and the tangents
//! t^x = (v − cos θ·u)/sin θ and t^w = (u − cos θ·v)/sin θ from the same vectors, made orthogonal
//! once more and divided by their own length (docs/math.md, section 2).

use super::angle::Angle;
use crate::kernel::{self, Real};

/// Tangents shorter than this have no direction: the pair is parallel or opposed.
pub(crate) const SINGULAR: f64 = 4.0 * f64::EPSILON;

/// Everything about one pair that forward and backward need; the tangents are kept as the
/// coefficients that make them from the rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub angle: Angle,
    /// 1/‖x‖.
    pub inverse_x: f64,
    /// 1/‖w‖.
    pub inverse_w: f64,
    side: f64,
    /// Of the tangent at the embedding, and of that at the class weight.
    along: [f64; 2],
    unit: [f64; 2],
}

impl Pair {
    /// The pair of `x` and `w` with norms `r` and `q`.
    pub fn new<F: Real>(x: &[F], w: &[F], r: f64, q: f64) -> Self {
        let (inverse_x, inverse_w) = (r.recip(), q.recip());
        let moments = kernel::moments(x, w, inverse_x, inverse_w);
        let (difference, sum) = (moments.difference.sqrt(), moments.sum.sqrt());
        let near = difference <= sum;
        let (side, along, cos) = if near {
            (1.0, 0.5 * moments.difference, 1.0 - 0.5 * moments.difference)
        } else {
            (-1.0, -0.5 * moments.sum, 0.5 * moments.sum - 1.0)
        };
        let angle = Angle { theta: 2.0 * difference.atan2(sum), cos, sin: 0.5 * difference * sum };
        let tangents = kernel::tangents(x, w, inverse_x, inverse_w, side, along);
        let unit = |length: f64| if length > SINGULAR { length.recip() } else { 0.0 };
        Pair {
            angle,
            inverse_x,
            inverse_w,
            side,
            along: [tangents.along_x, tangents.along_w],
            unit: tangents.lengths.map(unit),
        }
    }

    /// `out` += c·t^x, the tangent at the embedding; nothing where it has no direction.
    pub fn add_tangent_x<F: Real>(&self, out: &mut [f64], x: &[F], w: &[F], c: f64) {
        let (at, toward) = ((x, self.inverse_x), (w, self.inverse_w));
        kernel::add_tangent(out, at, toward, (self.side, self.along[0]), c * self.unit[0]);
    }

    /// `out` += c·t^w, the tangent at the class weight; nothing where it has no direction.
    pub fn add_tangent_w<F: Real>(&self, out: &mut [f64], x: &[F], w: &[F], c: f64) {
        let (at, toward) = ((w, self.inverse_w), (x, self.inverse_x));
        kernel::add_tangent(out, at, toward, (self.side, self.along[1]), c * self.unit[1]);
    }

    /// `out` += c·u: along the embedding. The row is divided by its norm first, for
    /// c over the norm may be out of range.
    pub fn add_unit_x<F: Real>(&self, out: &mut [f64], x: &[F], c: f64) {
        let unit = (x, self.inverse_x);
        kernel::add_tangent(out, unit, unit, (0.0, 0.0), c);
    }

    /// `out` += c·v: along the class weight.
    pub fn add_unit_w<F: Real>(&self, out: &mut [f64], w: &[F], c: f64) {
        let unit = (w, self.inverse_w);
        kernel::add_tangent(out, unit, unit, (0.0, 0.0), c);
    }
}
