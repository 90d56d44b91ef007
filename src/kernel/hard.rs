//! Negatives that are up-weighted, in passes of their own: a loss without them pays nothing.

use super::dispatch::{madd, op};
use super::real::Real;
use super::simd::Isa;

/// How the logits of a tile's negatives enter the softmax: a logit p above its sample's threshold
/// as `constant + p·(linear + quadratic·p)`, any other as it is. Of a logit with an offset, p is
/// what lies below the offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HardTile<'a, F> {
    /// For each sample.
    pub threshold: &'a [F],
    pub constant: &'a [F],
    pub quadratic: &'a [F],
    /// For all samples.
    pub linear: F,
    /// For each row of the tile; both add up.
    pub offsets: [Option<&'a [F]>; 2],
}

/// How a logit `p` above the threshold counts, by constant, linear and quadratic term.
#[inline(always)]
fn harder<F: Real, I: Isa>(p: F, [constant, linear, quadratic]: [F; 3]) -> F {
    madd::<_, I>(madd::<_, I>(quadratic, p, linear), p, constant)
}

/// The derivative of [`harder`].
#[inline(always)]
fn slope<F: Real, I: Isa>(p: F, [linear, quadratic]: [F; 2]) -> F {
    madd::<_, I>(quadratic + quadratic, p, linear)
}

impl<F: Real> HardTile<'_, F> {
    #[inline(always)]
    fn offset(&self, j: usize) -> F {
        let [a, b] = self.offsets.map(|offsets| offsets.map_or(F::zero(), |offsets| offsets[j]));
        a + b
    }

    /// The logits of row `j` as they count.
    #[inline(always)]
    pub(super) fn values<'s, I: Isa>(&self, j: usize, z: &[F], out: &'s mut [F]) -> &'s [F] {
        let n = z.len();
        let (threshold, out) = (&self.threshold[..n], &mut out[..n]);
        let (constant, quadratic) = (&self.constant[..n], &self.quadratic[..n]);
        let (offset, linear) = (self.offset(j), self.linear);
        for i in 0..n {
            let p = z[i] - offset;
            let harder = harder::<F, I>(p, [constant[i], linear, quadratic[i]]);
            out[i] = if p > threshold[i] { harder + offset } else { z[i] };
        }
        out
    }

    /// What changes the logits of sample `i`: threshold, constant, linear and quadratic term.
    pub fn of_sample(&self, i: usize) -> [F; 4] {
        [self.threshold[i], self.constant[i], self.linear, self.quadratic[i]]
    }

    /// A logit of sample `i` as it counts; `p` is the part below its offset.
    pub fn value(&self, i: usize, p: F, z: F) -> F {
        if p <= self.threshold[i] {
            return z;
        }
        self.constant[i] + p * (self.linear + self.quadratic[i] * p) + (z - p)
    }

    /// Multiplies the gradients of row `j` by the derivatives of [`values`](Self::values).
    #[inline(always)]
    pub(super) fn multiply_by_slopes<I: Isa>(&self, j: usize, z: &[F], out: &mut [F]) {
        let n = z.len();
        let (threshold, quadratic) = (&self.threshold[..n], &self.quadratic[..n]);
        let out = &mut out[..n];
        let (offset, linear) = (self.offset(j), self.linear);
        for i in 0..n {
            let p = z[i] - offset;
            let slope = slope::<F, I>(p, [linear, quadratic[i]]);
            out[i] *= if p > threshold[i] { slope } else { F::one() };
        }
    }
}

/// The logits of row `j` as they count: `z` itself without hard negatives.
#[inline(always)]
pub(super) fn counted<'s, F: Real, I: Isa>(
    hard: Option<HardTile<'_, F>>,
    j: usize,
    z: &'s [F],
    row: &'s mut [F],
) -> &'s [F] {
    match hard {
        Some(hard) => hard.values::<I>(j, z, row),
        None => z,
    }
}

op! {
    /// The largest logit of each sample in a tile, as they count.
    pub(crate) fn tile_counted_max<I at level>[F: Real](
        z: &[F],
        hard: Option<HardTile<'_, F>>,
        row: &mut [F],
        max: &mut [F],
    ) {
        max.fill(F::neg_infinity());
        for (j, z) in z.chunks_exact(max.len()).enumerate() {
            let values = counted::<F, I>(hard, j, z, row);
            for (max, &z) in max.iter_mut().zip(values) {
                *max = if z > *max { z } else { *max };
            }
        }
    }
}

op! {
    /// Adds to `sums`, for each sample, what the hard negatives of a tile contribute to the
    /// derivative by the embedding's norm beyond that of the products: Σ_j δ_j·(N − c·N′), times
    /// the norm, where δ_j is the gradient of a logit as it counts.
    pub(crate) fn tile_hard_radial<I at level>[F: Real](
        z: &[F],
        hard: HardTile<'_, F>,
        [shift, coefficients, uniform]: [&[F]; 3],
        row: &mut [F],
        sums: &mut [f64],
    ) {
        for (j, z) in z.chunks_exact(sums.len()).enumerate() {
            let offset = hard.offset(j);
            let values = hard.values::<I>(j, z, row);
            for (i, sum) in sums.iter_mut().enumerate() {
                let p = z[i] - offset;
                if p > hard.threshold[i] {
                    let uniform = uniform.get(i).copied().unwrap_or(F::zero());
                    let share = (values[i] - shift[i]).exp_inline::<I>();
                    let gradient = coefficients[i] * share - uniform;
                    let radial = hard.constant[i] - hard.quadratic[i] * p * p;
                    *sum += gradient.widen() * radial.widen();
                }
            }
        }
    }
}

op! {
    /// The logits of a row of cosines as they count: `row` · `factor`, and with `hard`, the terms of a
    /// sample, those above its threshold by the others.
    pub(crate) fn row_logits<I>[F: Real](
        row: &[F],
        factor: F,
        hard: Option<[F; 4]>,
        out: &mut [F],
    ) {
        assert_eq!(out.len(), row.len());
        out.iter_mut().zip(row).for_each(|(out, &v)| *out = v * factor);
        if let Some([threshold, terms @ ..]) = hard {
            for out in out {
                *out = if *out > threshold { harder::<F, I>(*out, terms) } else { *out };
            }
        }
    }
}

op! {
    /// Turns gradients of a softmax, those of [`row_logits`], into gradients of the products: less
    /// the `uniform` part, times the derivative.
    pub(crate) fn row_slopes<I>[F: Real](
        row: &[F],
        factor: F,
        hard: Option<[F; 4]>,
        uniform: F,
        out: &mut [F],
    ) {
        assert_eq!(out.len(), row.len());
        out.iter_mut().for_each(|out| *out -= uniform);
        if let Some([threshold, _, terms @ ..]) = hard {
            for (out, &v) in out.iter_mut().zip(row) {
                let p = v * factor;
                *out *= if p > threshold { slope::<F, I>(p, terms) } else { F::one() };
            }
        }
    }
}
