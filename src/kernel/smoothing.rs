//! The element-wise part of label smoothing: sums of logits, and one subtraction per gradient. In
//! passes of their own, so that a loss without smoothing pays nothing.

use super::dispatch::{Isa, Level, Op, dispatch};
use super::real::Real;

/// Terms that may be summed in the working type before the sum moves on to f64.
const SHORT_SUM: usize = 64;

/// `value`, or 0 where the logit `z` is −∞: an entry that takes no part.
#[inline(always)]
fn unless_masked<F: Real>(z: F, value: F) -> F {
    if z > F::neg_infinity() { value } else { F::zero() }
}

/// Adds each sample's Σ_j z_j over a tile (classes × samples) to `sums`; −∞ adds nothing.
pub(crate) fn tile_logit_sums<F: Real>(
    level: Level,
    z: &[F],
    samples: usize,
    short: &mut [F],
    sums: &mut [f64],
) {
    dispatch(level, TileLogitSums { z, samples, short, sums });
}

struct TileLogitSums<'a, F> {
    z: &'a [F],
    samples: usize,
    short: &'a mut [F],
    sums: &'a mut [f64],
}

impl<F: Real> Op for TileLogitSums<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let TileLogitSums { z, samples: n, short, sums } = self;
        let (short, sums) = (&mut short[..n], &mut sums[..n]);
        for rows in z.chunks(n * SHORT_SUM) {
            short.fill(F::zero());
            for z in rows.chunks_exact(n) {
                for (&z, short) in z.iter().zip(short.iter_mut()) {
                    *short += unless_masked(z, z);
                }
            }
            for (sum, short) in sums.iter_mut().zip(short.iter()) {
                *sum += short.widen();
            }
        }
    }
}

/// Takes the uniform part off the gradient of a tile's logits, `out[j][i] −= uniform[i] ·
/// factors[j]`, but where the logit is −∞.
pub(crate) fn tile_smoothing<F: Real>(
    level: Level,
    z: &[F],
    samples: usize,
    uniform: &[F],
    factors: &[F],
    out: &mut [F],
) {
    dispatch(level, TileSmoothing { z, samples, uniform, factors, out });
}

struct TileSmoothing<'a, F> {
    z: &'a [F],
    samples: usize,
    uniform: &'a [F],
    factors: &'a [F],
    out: &'a mut [F],
}

impl<F: Real> Op for TileSmoothing<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let TileSmoothing { z, samples: n, uniform, factors, out } = self;
        let uniform = &uniform[..n];
        let rows = z.chunks_exact(n).zip(out.chunks_exact_mut(n));
        for ((z, out), &factor) in rows.zip(factors) {
            for ((out, &z), &uniform) in out.iter_mut().zip(z).zip(uniform) {
                *out -= unless_masked(z, uniform * factor);
            }
        }
    }
}
