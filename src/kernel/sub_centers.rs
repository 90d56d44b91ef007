//! Sub-centers: of the rows of each class in a tile, only the nearest to each sample counts.

use std::ops::Range;

use super::dispatch::op;
use super::real::Real;
use super::softmax::{TileStats, logits};

op! {
    /// As [`tile_stats`](super::tile_stats), and leaves each sample's largest of every `rows`
    /// rows, the first of equals: the others become −∞, and so do all rows of its own class, of
    /// which `targets` gives the one that counts. `max` and `best` hold a row each.
    pub(crate) fn tile_sub_centers<I at level>[F: Real, T: FnMut(usize) -> Range<usize>](
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
        for (z, first) in z.chunks_exact_mut(n * rows).zip((0..).step_by(rows)) {
            max.fill(F::neg_infinity());
            best.fill(first as u32);
            for (z, j) in z.chunks_exact_mut(n).zip(first..) {
                let bias = biases.map_or(F::zero(), |biases| biases[j]);
                logits::<F, I>(z, (factors[j], bias), j, max, best);
            }
            for (z, j) in z.chunks_exact(n).zip(first..) {
                for i in targets(j) {
                    target[i] = z[i];
                    (max[i], best[i]) = (F::neg_infinity(), NONE);
                }
            }
            for (z, j) in z.chunks_exact_mut(n).zip(first as u32..) {
                for (z, best) in z.iter_mut().zip(best.iter()) {
                    *z = if *best == j { *z } else { F::neg_infinity() };
                }
            }
            let found = max.iter().zip(best.iter());
            for ((largest, at), (&max, &best)) in largest.iter_mut().zip(at.iter_mut()).zip(found) {
                let larger = max > *largest;
                *largest = if larger { max } else { *largest };
                *at = if larger { best } else { *at };
            }
        }
    }
}
