//! The logits of a tile that are among the largest of their samples.

use super::dispatch::op;
use super::real::Real;

/// Samples whose logits are compared at a time.
const STRIPE: usize = 16;
/// Groups of rows whose maxima bound the k-th largest logit of a first tile from below, for each of
/// the k: with more of them fewer logits are taken that others push out.
const GROUPS: usize = 4;

op! {
    /// Hands each logit that exceeds its sample's threshold, without its row's offset, to `found`
    /// as (row, sample, logit without offset, logit), which returns the new threshold, and leaves
    /// −∞ in its place. Where nothing is known yet, the `k` largest of each sample are among these.
    pub(crate) fn tile_nearest<I>[F: Real, T: FnMut(usize, usize, F, F) -> F](
        level: Level,
        z: &mut [F],
        offsets: Option<&[F]>,
        k: usize,
        threshold: &mut [F],
        found: T,
    ) {
        let mut found = found;
        let n = threshold.len();
        if threshold.iter().all(|&threshold| threshold == F::neg_infinity()) {
            bound_by_groups(z, offsets, k, threshold);
        }
        for (j, z) in z.chunks_exact_mut(n).enumerate() {
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
                        let last = found(j, stripe * STRIPE + i, plain, *z);
                        *threshold = threshold.max(last);
                        *z = F::neg_infinity();
                    }
                }
            }
        }
    }
}

/// Sets the threshold of each sample below its k-th largest group of rows: k logits exceed it.
#[inline(always)]
fn bound_by_groups<F: Real>(z: &[F], offsets: Option<&[F]>, k: usize, threshold: &mut [F]) {
    let n = threshold.len();
    let rows = z.len() / n;
    let groups = GROUPS * k;
    if rows < 2 * groups {
        return;
    }
    let size = rows.div_ceil(groups);
    let mut maxima = vec![F::neg_infinity(); rows.div_ceil(size) * n];
    for (j, z) in z.chunks_exact(n).enumerate() {
        let offset = offsets.map_or(F::zero(), |offsets| offsets[j]);
        for (max, &z) in maxima[j / size * n..][..n].iter_mut().zip(z) {
            let plain = z - offset;
            *max = if plain > *max { plain } else { *max };
        }
    }
    let mut of_sample = Vec::with_capacity(groups);
    for (i, threshold) in threshold.iter_mut().enumerate() {
        of_sample.clear();
        of_sample.extend(maxima.iter().skip(i).step_by(n).copied());
        let smaller = |a: &F, b: &F| b.widen().total_cmp(&a.widen());
        let (_, &mut least, _) = of_sample.select_nth_unstable_by(k - 1, smaller);
        // The group's maximum itself exceeds the threshold, and what equals it does.
        *threshold = least - (least.abs() * F::epsilon() + F::min_positive_value());
    }
}
