//! The logits of a tile that are among the largest of their samples.

use super::dispatch::op;
use super::real::Real;

/// Samples whose logits are compared at a time.
const STRIPE: usize = 16;

op! {
    /// Hands each logit that exceeds its sample's threshold, without its row's offset, to `found`
    /// as (row, sample, logit without offset, logit), which returns the new threshold, and leaves
    /// −∞ in its place. Where nothing is known yet, the `k` largest of each sample are among these.
    pub(crate) fn tile_nearest<I at level>[F: Real, T: FnMut(usize, usize, F, F) -> F](
        z: &mut [F],
        offsets: Option<&[F]>,
        k: usize,
        threshold: &mut [F],
        found: T,
    ) {
        let mut found = found;
        let n = threshold.len();
        let mut hits = vec![0; n.div_ceil(STRIPE)];
        if threshold.iter().all(|&threshold| threshold == F::neg_infinity()) {
            below_largest(z, offsets, k, threshold);
        }
        for (j, z) in z.chunks_exact_mut(n).enumerate() {
            let offset = offsets.map_or(F::zero(), |offsets| offsets[j]);
            let mut take = |i: usize, z: &mut F, threshold: &mut F| {
                *threshold = threshold.max(found(j, i, *z - offset, *z));
                *z = F::neg_infinity();
            };
            let exceeds = |z: F, threshold: F| z - offset > threshold;
            let (stripes, rest) = z.as_chunks_mut::<STRIPE>();
            let (thresholds, rest_thresholds) = threshold.as_chunks_mut::<STRIPE>();
            // First the stripes with a hit, without a branch that the CPU cannot predict.
            let mut count = 0;
            for (stripe, (z, threshold)) in stripes.iter().zip(&*thresholds).enumerate() {
                let pairs = z.iter().zip(threshold);
                let any = pairs.fold(false, |any, (&z, &threshold)| any | exceeds(z, threshold));
                hits[count] = stripe;
                count += usize::from(any);
            }
            for &stripe in &hits[..count] {
                let (z, threshold) = (&mut stripes[stripe], &mut thresholds[stripe]);
                let mut bytes = [0_u8; STRIPE];
                for ((byte, &z), &threshold) in bytes.iter_mut().zip(&*z).zip(&*threshold) {
                    *byte = u8::from(exceeds(z, threshold));
                }
                let mut places = u128::from_le_bytes(bytes);
                while places != 0 {
                    let i = places.trailing_zeros() as usize / 8;
                    take(stripe * STRIPE + i, &mut z[i], &mut threshold[i]);
                    places &= places - 1;
                }
            }
            let first = n - rest.len();
            for (i, (z, threshold)) in rest.iter_mut().zip(rest_thresholds).enumerate() {
                if exceeds(*z, *threshold) {
                    take(first + i, z, threshold);
                }
            }
        }
    }
}

/// Sets the threshold of each sample below the k-th largest of its logits, so that it, and what equals
/// it, exceed the threshold; where there are no k logits all do.
#[inline(always)]
fn below_largest<F: Real>(z: &[F], offsets: Option<&[F]>, k: usize, threshold: &mut [F]) {
    let n = threshold.len();
    if z.len() < k * n {
        return;
    }
    // The largest so far of each sample, then the second largest of each, and so on.
    let mut largest = vec![F::neg_infinity(); k * n];
    let mut line = vec![F::zero(); n];
    for (j, z) in z.chunks_exact(n).enumerate() {
        let offset = offsets.map_or(F::zero(), |offsets| offsets[j]);
        line.iter_mut().zip(z).for_each(|(plain, &z)| *plain = z - offset);
        for largest in largest.chunks_exact_mut(n) {
            for (largest, plain) in largest.iter_mut().zip(&mut line) {
                let (a, b) = (*largest, *plain);
                (*largest, *plain) = if b > a { (b, a) } else { (a, b) };
            }
        }
    }
    for (threshold, &least) in threshold.iter_mut().zip(&largest[(k - 1) * n..]) {
        *threshold = least - (least.abs() * F::epsilon() + F::min_positive_value());
    }
}
