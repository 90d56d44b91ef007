//! Sub-centers: of the rows of each class in a tile, only the nearest to each sample counts.

use std::ops::Range;

use super::dispatch::{madd, op};
use super::real::Real;
use super::softmax::TileStats;

op! {
    /// As [`tile_stats`](super::tile_stats), and leaves each sample's largest of every `rows`
    /// rows, the first of equals: the others become −∞, and so do all rows of its own class, of
    /// which `targets` gives the one that counts. `max` and `best` hold a row each.
    pub(crate) fn tile_sub_centers<I>[F: Real, T: FnMut(usize) -> Range<usize>](
        level: Level,
        z: &mut [F],
        rows: usize,
        (factors, biases): (&[F], Option<&[F]>),
        targets: T,
        stats: TileStats<'_, F>,
        (max, best): (&mut [F], &mut [u32]),
    ) {
        /// No row of the class counts as a negative.
        const NONE: u32 = u32::MAX;
        let mut targets = targets;
        let n = max.len();
        let TileStats { max: largest, row: at, target } = stats;
        let (largest, at) = (&mut largest[..n], &mut at[..n]);
        largest.fill(F::neg_infinity());
        at.fill(0);
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
                for i in targets(first + r) {
                    target[i] = z[r * n + i];
                    (max[i], best[i]) = (F::neg_infinity(), NONE);
                }
            }
            for (z, r) in z.chunks_exact_mut(n).zip(0_u32..) {
                for (z, best) in z.iter_mut().zip(best.iter()) {
                    *z = if *best == r { *z } else { F::neg_infinity() };
                }
            }
            let found = max.iter().zip(best.iter());
            for ((largest, at), (&max, &best)) in largest.iter_mut().zip(at.iter_mut()).zip(found) {
                let larger = max > *largest;
                *largest = if larger { max } else { *largest };
                *at = if larger { first as u32 + best } else { *at };
            }
        }
    }
}
