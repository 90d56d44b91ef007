//! Loops over one (embedding, target weight) pair, in f64: the sums that the angle and the unit
//! tangents of a pair are computed from.

use super::dispatch::{madd, op};
use super::real::Real;
use super::rows::in_lanes;

const LANES: usize = 16;

/// The sum of `term(u_k, v_k)`, which yields two numbers, over the unit vectors u and v along two
/// rows of equal length, whose norms have these inverses.
#[inline(always)]
fn sum_of_units<F: Real>(
    [x, w]: [&[F]; 2],
    inverse: [f64; 2],
    term: impl Fn(f64, f64) -> [f64; 2],
) -> [f64; 2] {
    assert_eq!(x.len(), w.len());
    let mut sums = [[0.0; LANES]; 2];
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (w_blocks, w_rest) = w.as_chunks::<LANES>();
    let term = |x: F, w: F| term(x.widen() * inverse[0], w.widen() * inverse[1]);
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        for k in 0..LANES {
            let [first, second] = term(x[k], w[k]);
            sums[0][k] += first;
            sums[1][k] += second;
        }
    }
    let mut total = sums.map(|lanes| lanes.iter().sum::<f64>());
    for (&x, &w) in x_rest.iter().zip(w_rest) {
        let [first, second] = term(x, w);
        total[0] += first;
        total[1] += second;
    }
    total
}

op! {
    /// ‖v − u‖² and ‖v + u‖² of the unit vectors along two `rows`.
    pub(crate) fn moments<I>[F: Real](rows: [&[F]; 2], inverse: [f64; 2]) -> [f64; 2] {
        sum_of_units(rows, inverse, |u, v| [(v - u) * (v - u), (v + u) * (v + u)])
    }
}

/// The tangents at u and v, by their coefficients: tˣ ∝ (v − s u) + kₓ u and
/// tʷ ∝ (u − s v) + k_w v, with s = ±1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tangents {
    /// kₓ and k_w, after one step of Gram–Schmidt.
    pub along: [f64; 2],
    /// Lengths of both before they are normalized.
    pub lengths: [f64; 2],
}

op! {
    /// The tangents of the unit vectors along two `rows`, from a first `along` that the moments give.
    pub(crate) fn tangents<I>[F: Real](
        rows: [&[F]; 2],
        inverse: [f64; 2],
        side: f64,
        along: f64,
    ) -> Tangents {
        let at = |a: f64, b: f64, along: f64| madd::<_, I>(along, a, madd::<_, I>(-side, a, b));
        let radial = sum_of_units(rows, inverse, |u, v| [at(u, v, along) * u, at(v, u, along) * v]);
        let along = radial.map(|radial| along - radial);
        let squares = sum_of_units(rows, inverse, |u, v| {
            let (tx, tw) = (at(u, v, along[0]), at(v, u, along[1]));
            [tx * tx, tw * tw]
        });
        Tangents { along, lengths: squares.map(f64::sqrt) }
    }
}

op! {
    /// `out` += c ((b − s a) + k a) for the unit vectors along `a` and `b`.
    pub(crate) fn add_tangent<I>[F: Real](
        out: &mut [f64],
        (a, inverse_a): (&[F], f64),
        (b, inverse_b): (&[F], f64),
        (side, along): (f64, f64),
        c: f64,
    ) {
        assert!(out.len() == a.len() && a.len() == b.len());
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            let (a, b) = (a.widen() * inverse_a, b.widen() * inverse_b);
            let tangent = madd::<_, I>(along, a, madd::<_, I>(-side, a, b));
            *out = madd::<_, I>(c, tangent, *out);
        }
    }
}

op! {
    /// `out` ← c (b − ratio · a), in which each entry is rounded as if the product were exact.
    fn residual<I>[F: Real](out: &mut [f64], a: &[F], b: &[F], ratio: f64, c: f64) {
        assert!(out.len() == a.len() && a.len() == b.len());
        // The upper half of a number's digits, and the lower (Veltkamp).
        let halves = |v: f64| {
            let large = v * 134_217_729.0;
            let high = large - (large - v);
            (high, v - high)
        };
        let (high, low) = halves(ratio);
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            let a = a.widen();
            let (a_high, a_low) = halves(a);
            let product = ratio * a;
            let rounded_off =
                ((high * a_high - product) + high * a_low + low * a_high) + low * a_low;
            *out = c * ((b.widen() - product) - rounded_off);
        }
    }
}

/// Of two rows that are nearly parallel (`side` 1) or opposed (−1), each with the inverse of its
/// norm: `out` ← the part of the unit vector along `b` at right angles to `a`, to rounding however
/// short it is; returns the square of its length.
pub(crate) fn part_across<F: Real>(
    out: &mut [f64],
    (a, inverse_a): (&[F], f64),
    (b, inverse_b): (&[F], f64),
    side: f64,
) -> f64 {
    residual(out, a, b, side * (inverse_a / inverse_b), inverse_b);
    let along = dot(a, out) * inverse_a;
    add_scaled(out, 1.0, a, -along * inverse_a);
    dot(out, out)
}

op! {
    /// `out` ← `keep` · `out` + c a.
    pub(crate) fn add_scaled<I>[F: Real](out: &mut [f64], keep: f64, a: &[F], c: f64) {
        assert_eq!(out.len(), a.len());
        for (out, a) in out.iter_mut().zip(a) {
            *out = madd::<_, I>(c, a.widen(), keep * *out);
        }
    }
}

op! {
    /// a·b in f64.
    pub(crate) fn dot<I>[F: Real, G: Real](a: &[F], b: &[G]) -> f64 {
        let add = |sum: f64, a: F, b: G| madd::<_, I>(a.widen(), b.widen(), sum);
        in_lanes::<LANES, _, _, _>(a, b, add)
    }
}
