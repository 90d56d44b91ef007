//! The logits of a tile that are among the largest of their samples.

use super::dispatch::op;
use super::real::Real;

/// Samples whose logits are compared at a time.
const STRIPE: usize = 16;

op! {
    /// Hands each logit that exceeds its sample's threshold, without its row's offset, to `found`
    /// as (row, sample, logit without offset, logit), which returns the new threshold, and leaves
    /// −∞ in its place.
    pub(crate) fn tile_nearest<I>[F: Real, T: FnMut(usize, usize, F, F) -> F](
        level: Level,
        z: &mut [F],
        offsets: Option<&[F]>,
        threshold: &mut [F],
        found: T,
    ) {
        let mut found = found;
        for (j, z) in z.chunks_exact_mut(threshold.len()).enumerate() {
            let offset = offsets.map_or(F::zero(), |offsets| offsets[j]);
            let stripes = z.chunks_mut(STRIPE).zip(threshold.chunks_mut(STRIPE)).enumerate();
            for (stripe, (z, threshold)) in stripes {
                let pairs = z.iter().zip(&*threshold);
                if !pairs.fold(false, |any, (&z, &threshold)| any | (z - offset > threshold)) {
                    continue;
                }
                for (i, (z, threshold)) in z.iter_mut().zip(threshold).enumerate() {
                    let plain = *z - offset;
                    if plain > *threshold {
                        *threshold = found(j, stripe * STRIPE + i, plain, *z);
                        *z = F::neg_infinity();
                    }
                }
            }
        }
    }
}
