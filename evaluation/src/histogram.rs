//! Scores counted in equal bins over [−1, 1].
//!
//! ```text
//! bin k = { s : k = ⌊2¹⁵·s⌋ + 2¹⁵ },   k in 0..2¹⁶,   s = 1 in the last
//! ```
//!
//! The product by a power of two and the floor are exact in both types, so that a score is in bin k
//! or above if and only if it is at least the lower edge of bin k.

use crate::real::Real;
use crate::steps::Step;

/// The number of bins.
pub(crate) const BINS: usize = 1 << 16;
const HALF: i32 = (BINS / 2) as i32;

/// Counts per bin; an index of 16 bits needs no check of its range.
type Counts = [u64; BINS];

/// The bins of all scores.
pub(crate) struct Histogram {
    genuine: Box<Counts>,
    impostors: Box<Counts>,
    bins: Vec<u16>,
}

impl Histogram {
    pub fn new() -> Self {
        let zeros = || vec![0; BINS].into_boxed_slice().try_into().unwrap_or(Box::new([0; BINS]));
        Histogram { genuine: zeros(), impostors: zeros(), bins: Vec::new() }
    }

    /// Counts scores, the first `genuine` of which are of genuine pairs.
    pub fn count<F: Real>(&mut self, scores: &[F], genuine: usize) {
        self.bins.resize(scores.len(), 0);
        for (bin, &score) in self.bins.iter_mut().zip(scores) {
            *bin = bin_of(score);
        }
        let (first, others) = self.bins.split_at(genuine);
        for &bin in first {
            self.genuine[usize::from(bin)] += 1;
        }
        for &bin in others {
            self.impostors[usize::from(bin)] += 1;
        }
    }

    pub fn add(&mut self, other: &Histogram) {
        for (sums, counts) in
            [(&mut self.genuine, &other.genuine), (&mut self.impostors, &other.impostors)]
        {
            for (sum, count) in sums.iter_mut().zip(counts.iter()) {
                *sum += count;
            }
        }
    }

    /// The occupied bins, from high to low.
    pub fn into_steps(self) -> Vec<Step> {
        let steps = (0..BINS).rev().map(|bin| Step {
            threshold: lower_edge(bin),
            genuine: self.genuine[bin],
            impostors: self.impostors[bin],
            coarse: true,
        });
        steps.filter(|step| step.genuine + step.impostors > 0).collect()
    }
}

/// The bin of a score in [−1, 1].
#[inline]
pub(crate) fn bin_of<F: Real>(score: F) -> u16 {
    let scaled = score * F::integer(HALF);
    let truncated: i32 = scaled.as_();
    // A branch-free floor that vectorizes without SSE4.1.
    let floor = truncated - i32::from(F::integer(truncated) > scaled);
    (floor.min(HALF - 1) + HALF) as u16
}

/// The lowest score of a bin.
fn lower_edge(bin: usize) -> f64 {
    bin as f64 / f64::from(HALF) - 1.0
}
