//! The element-wise part of label smoothing: sums of logits, and one subtraction per gradient. In
//! passes of their own, so that a loss without smoothing pays nothing.

use super::dispatch::op;
use super::hard::{HardTile, counted};
use super::real::Real;
use super::softmax::add_in_short_sums;

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
        add_in_short_sums(z, [short], [sums], |j, z, [short]| {
            let z = counted::<F, I>(hard, j, z, row);
            for (&z, short) in z.iter().zip(short) {
                *short += unless_masked(z, z);
            }
        });
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
