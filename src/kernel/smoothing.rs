//! The element-wise part of label smoothing: sums of logits, and one subtraction per gradient. In
//! passes of their own, so that a loss without smoothing pays nothing.

use super::dispatch::op;
use super::hard::{HardTile, counted};
use super::real::Real;

/// Terms that may be summed in the number type before the sum moves on to f64.
const SHORT_SUM: usize = 64;

/// `value`, or 0 where the logit `z` is −∞: an entry that takes no part.
#[inline(always)]
fn unless_masked<F: Real>(z: F, value: F) -> F {
    if z > F::neg_infinity() { value } else { F::zero() }
}

op! {
    /// Adds each sample's Σ_j z_j over a tile (classes × samples) to `sums`, the logits as they
    /// count; −∞ adds nothing. `short` and `row` hold a row each.
    pub(crate) fn tile_logit_sums<I at level>[F: Real](
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        [short, row]: [&mut [F]; 2],
        sums: &mut [f64],
    ) {
        let n = sums.len();
        let short = &mut short[..n];
        for (block, rows) in z.chunks(n * SHORT_SUM).enumerate() {
            short.fill(F::zero());
            for (z, j) in rows.chunks_exact(n).zip(block * SHORT_SUM..) {
                let z = counted::<F, I>(hard, j, z, row);
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

op! {
    /// Takes the uniform part off the gradient of a tile's logits, `out[j][i] −= uniform[i] ·
    /// factors[j]`, but where the logit is −∞; with hard negatives times their derivative. `row`
    /// holds a row.
    pub(crate) fn tile_smoothing<I at level>[F: Real](
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        [uniform, factors]: [&[F]; 2],
        row: &mut [F],
        out: &mut [F],
    ) {
        let n = uniform.len();
        let row = &mut row[..n];
        let rows = z.chunks_exact(n).zip(out.chunks_exact_mut(n));
        for (j, ((z, out), &factor)) in rows.zip(factors).enumerate() {
            for ((part, &z), &uniform) in row.iter_mut().zip(z).zip(uniform) {
                *part = unless_masked(z, uniform * factor);
            }
            if let Some(hard) = hard {
                hard.multiply_by_slopes::<I>(j, z, row);
            }
            out.iter_mut().zip(&*row).for_each(|(out, &part)| *out -= part);
        }
    }
}
