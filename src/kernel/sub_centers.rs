//! Sub-centres: of the rows of each class in a tile, only the nearest to each sample counts.

use std::ops::Range;

use super::dispatch::{Isa, Level, Op, dispatch, madd};
use super::real::Real;

/// Turns products into logits, `z · factor + bias` row by row, and leaves each sample's largest of
/// every `rows` rows, the first of equals; the others become −∞. Of a sample's own class the row
/// is known: `own` gives the samples of a row, which are asked for in ascending order. `max` and
/// `best` hold a row each.
pub(crate) fn tile_sub_centers<F: Real>(
    level: Level,
    z: &mut [F],
    rows: usize,
    (factors, biases): (&[F], Option<&[F]>),
    own: impl FnMut(usize) -> Range<usize>,
    (max, best): (&mut [F], &mut [u32]),
) {
    dispatch(level, TileSubCenters { z, rows, factors, biases, own, max, best });
}

struct TileSubCenters<'a, F, T> {
    z: &'a mut [F],
    rows: usize,
    factors: &'a [F],
    biases: Option<&'a [F]>,
    own: T,
    max: &'a mut [F],
    best: &'a mut [u32],
}

impl<F: Real, T: FnMut(usize) -> Range<usize>> Op for TileSubCenters<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let TileSubCenters { z, rows, factors, biases, mut own, max, best } = self;
        let n = max.len();
        for (class, z) in z.chunks_exact_mut(n * rows).enumerate() {
            let first = class * rows;
            max.fill(F::neg_infinity());
            best.fill(0);
            for (z, r) in z.chunks_exact_mut(n).zip(0_u32..) {
                let j = first + r as usize;
                let (factor, bias) = (factors[j], biases.map_or(F::zero(), |biases| biases[j]));
                for ((z, max), best) in z.iter_mut().zip(max.iter_mut()).zip(best.iter_mut()) {
                    *z = madd::<_, I>(*z, factor, bias);
                    let larger = *z > *max;
                    *max = if larger { *z } else { *max };
                    *best = if larger { r } else { *best };
                }
            }
            for r in 0..rows {
                best[own(first + r)].fill(r as u32);
            }
            for (z, r) in z.chunks_exact_mut(n).zip(0_u32..) {
                for (z, best) in z.iter_mut().zip(best.iter()) {
                    *z = if *best == r { *z } else { F::neg_infinity() };
                }
            }
        }
    }
}
