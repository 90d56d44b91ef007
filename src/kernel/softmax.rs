//! The element-wise half of the softmax over a tile: scale, maxima, sums of exponentials, gradients.
//!
//! A tile holds classes as rows, one after the other, and samples side by side, so that every
//! operation is one vector instruction over samples.

use std::ops::Range;

use super::dispatch::{madd, op};
use super::hard::{HardTile, counted};
use super::real::Real;
use super::simd::Isa;

/// Rows of a tile that are taken at a time, and samples whose maxima stay in registers meanwhile.
const GROUP: usize = 8;
const STRIPE: usize = 16;
/// Terms that may be summed in the number type before the sum moves on to f64.
const SHORT_SUM: usize = 64;

/// Per-sample statistics of one tile: the largest negative logit, its row, and the target's
/// margin-free logit.
pub(crate) struct TileStats<'a, F> {
    pub max: &'a mut [F],
    pub row: &'a mut [u32],
    pub target: &'a mut [F],
}

op! {
    /// Turns products into logits, `z · factor + bias` row by row, moves each row's targets (a
    /// range of samples) out into `stats.target` with −∞ left in their place, and finds the
    /// maxima.
    pub(crate) fn tile_stats<I at level>[F: Real, T: FnMut(usize) -> Range<usize>](
        z: &mut [F],
        samples: usize,
        factors: &[F],
        biases: Option<&[F]>,
        targets: T,
        stats: TileStats<'_, F>,
    ) {
        let mut targets = targets;
        let n = samples;
        let TileStats { max, row: best, target } = stats;
        let (max, best) = (&mut max[..n], &mut best[..n]);
        max.fill(F::neg_infinity());
        best.fill(0);
        for (group, z) in z.chunks_mut(n * GROUP).enumerate() {
            let first = group * GROUP;
            let line = |j: usize| (factors[j], biases.map_or(F::zero(), |b| b[j]));
            for (z, j) in z.chunks_exact_mut(n).zip(first..) {
                let (factor, bias) = line(j);
                for i in targets(j) {
                    target[i] = madd::<_, I>(z[i], factor, bias);
                    // Stays −∞ below: factors are positive.
                    z[i] = F::neg_infinity();
                }
            }
            let (whole_max, rest_max) = max.as_chunks_mut::<STRIPE>();
            let (whole_best, rest_best) = best.as_chunks_mut::<STRIPE>();
            let rest = n - rest_max.len();
            for (stripe, (max, best)) in whole_max.iter_mut().zip(whole_best).enumerate() {
                let (mut largest, mut at) = (*max, *best);
                for (z, j) in z.chunks_exact_mut(n).zip(first..) {
                    let z = &mut z[stripe * STRIPE..][..STRIPE];
                    logits::<F, I>(z, line(j), j, &mut largest, &mut at);
                }
                (*max, *best) = (largest, at);
            }
            for (z, j) in z.chunks_exact_mut(n).zip(first..) {
                logits::<F, I>(&mut z[rest..], line(j), j, rest_max, rest_best);
            }
        }
    }
}

/// Turns products of row `j` into logits, and keeps the largest of each sample and its row.
#[inline(always)]
pub(super) fn logits<F: Real, I: Isa>(
    z: &mut [F],
    (factor, bias): (F, F),
    j: usize,
    max: &mut [F],
    best: &mut [u32],
) {
    for ((z, max), best) in z.iter_mut().zip(max).zip(best) {
        *z = madd::<_, I>(*z, factor, bias);
        let larger = *z > *max;
        *max = if larger { *z } else { *max };
        *best = if larger { j as u32 } else { *best };
    }
}

op! {
    /// Adds a number to each row of a tile of logits, and finds the largest of each sample.
    pub(crate) fn tile_shift<I at level>[F: Real](z: &mut [F], shifts: &[F], max: &mut [F]) {
        max.fill(F::neg_infinity());
        for (z, &shift) in z.chunks_exact_mut(max.len()).zip(shifts) {
            for (z, max) in z.iter_mut().zip(max.iter_mut()) {
                *z += shift;
                *max = if *z > *max { *z } else { *max };
            }
        }
    }
}

/// Adds to `sums` what `add` adds row by row to short sums, which are of few enough rows to be taken
/// in the number type. All have an entry for each sample; sums that are empty are not wanted.
#[inline(always)]
pub(super) fn add_in_short_sums<F: Real, const K: usize>(
    z: &[F],
    short: [&mut [F]; K],
    mut sums: [&mut [f64]; K],
    mut add: impl FnMut(usize, &[F], [&mut [F]; K]),
) {
    let n = sums[0].len();
    let mut short = short.map(|short| &mut short[..n]);
    for (block, rows) in z.chunks(n * SHORT_SUM).enumerate() {
        short.iter_mut().for_each(|short| short.fill(F::zero()));
        for (z, j) in rows.chunks_exact(n).zip(block * SHORT_SUM..) {
            add(j, z, short.each_mut().map(|short| &mut **short));
        }
        for (sums, short) in sums.iter_mut().zip(&short) {
            for (sum, short) in sums.iter_mut().zip(short.iter()) {
                *sum += short.widen();
            }
        }
    }
}

op! {
    /// Adds each sample's Σ_j e^(z_j − shift) over the tile to `sums`, the logits as they count;
    /// −∞ adds nothing. `short` and `row` hold a row each.
    pub(crate) fn tile_sums<I at level>[F: Real](
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        shift: &[F],
        [short, row]: [&mut [F]; 2],
        sums: &mut [f64],
    ) {
        let shift = &shift[..sums.len()];
        add_in_short_sums(z, [short], [sums], |j, z, [short]| {
            let z = counted::<F, I>(hard, j, z, row);
            for ((&z, &shift), short) in z.iter().zip(shift).zip(short) {
                *short += (z - shift).exp_inline::<I>();
            }
        });
    }
}

op! {
    /// The gradient of a tile's logits, each row by its factor: `out[j][i] = coefficients[i] ·
    /// exp(z[j][i] − shift[i]) · factors[j]`; with hard negatives of the logits as they count,
    /// times their derivative. `row` holds a row.
    pub(crate) fn tile_gradient<I at level>[F: Real](
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        [shift, coefficients, factors]: [&[F]; 3],
        row: &mut [F],
        out: &mut [F],
    ) {
        let n = shift.len();
        let coefficients = &coefficients[..n];
        let rows = z.chunks_exact(n).zip(out.chunks_exact_mut(n));
        for (j, ((z, out), &factor)) in rows.zip(factors).enumerate() {
            let values = counted::<F, I>(hard, j, z, row);
            let samples = values.iter().zip(shift).zip(coefficients);
            for (out, ((&z, &shift), &c)) in out.iter_mut().zip(samples) {
                *out = (c * (z - shift).exp_inline::<I>()) * factor;
            }
            if let Some(hard) = hard {
                hard.multiply_by_slopes::<I>(j, z, out);
            }
        }
    }
}
