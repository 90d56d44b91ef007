//! Norms of rows, and the projection of a row onto the tangent space of another.

use super::dispatch::{madd, op};
use super::real::Real;

const LANES: usize = 32;

/// The Euclidean norm in f64, exact to rounding for every finite row; NaN where an entry is not
/// finite.
pub(crate) fn norm<F: Real>(row: &[F]) -> f64 {
    let sum = sum_of_squares(row);
    if (1e-280..1e300).contains(&sum) {
        return sum.sqrt();
    }
    let largest = row.iter().fold(0.0_f64, |largest, v| largest.max(v.widen().abs()));
    if !row.iter().all(|v| v.is_finite()) {
        return f64::NAN;
    }
    if largest == 0.0 {
        return 0.0;
    }
    // Dividing twice keeps the factor finite for subnormal rows.
    let exponent = largest.log2().floor();
    let (half, rest) = ((exponent / 2.0).floor(), exponent - (exponent / 2.0).floor());
    let scaled = row.iter().map(|v| (v.widen() / half.exp2() / rest.exp2()).powi(2)).sum::<f64>();
    scaled.sqrt() * half.exp2() * rest.exp2()
}

/// The sum over two rows of equal length, of which `add` adds the terms: of every so many in turn
/// the first in one lane of a vector, the second in the next, and then of the lanes and of what is
/// left beside them.
#[inline(always)]
pub(super) fn in_lanes<const LANES: usize, A: Copy, B: Copy, S: Real>(
    a: &[A],
    b: &[B],
    add: impl Fn(S, A, B) -> S,
) -> S {
    assert_eq!(a.len(), b.len());
    let mut sums = [S::zero(); LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum = add(*sum, a, b);
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    rest.fold(sums.into_iter().sum(), |sum, (&a, &b)| add(sum, a, b))
}

op! {
    fn sum_of_squares<I>[F: Real](row: &[F]) -> f64 {
        let add = |sum: f64, v: F, _| madd::<_, I>(v.widen(), v.widen(), sum);
        in_lanes::<LANES, _, _, _>(row, row, add)
    }
}

op! {
    /// `out` ← `row` · `factor`, rounded once.
    pub(crate) fn scaled<I>[F: Real, G: Real](out: &mut [F], row: &[G], factor: f64) {
        assert_eq!(out.len(), row.len());
        for (out, v) in out.iter_mut().zip(row) {
            *out = F::narrow(v.widen() * factor);
        }
    }
}

/// `out` ← `row`, rounded.
pub(crate) fn rounded<F: Real>(out: &mut [F], row: &[f64]) {
    scaled(out, row, 1.0);
}

op! {
    /// b ← b − (b · v) v with v = w · `inverse_norm`.
    pub(crate) fn project<I>[F: Real](b: &mut [F], w: &[F], inverse_norm: F) {
        assert_eq!(b.len(), w.len());
        // The inverse goes to each entry of w: its square would leave the type's range.
        let v = |w: F| w * inverse_norm;
        let dot = in_lanes::<LANES, _, _, _>(b, w, |sum: F, b, w| madd::<_, I>(b, v(w), sum));
        for (b, &w) in b.iter_mut().zip(w) {
            *b = madd::<_, I>(-dot, v(w), *b);
        }
    }
}

op! {
    /// The largest entry of a row.
    pub(crate) fn largest<I>[F: Real](row: &[F]) -> F {
        let mut largest = [F::neg_infinity(); LANES];
        let larger = |a: F, b: F| if b > a { b } else { a };
        let (blocks, rest) = row.as_chunks::<LANES>();
        for block in blocks {
            for (largest, &v) in largest.iter_mut().zip(block) {
                *largest = larger(*largest, v);
            }
        }
        rest.iter().copied().chain(largest).fold(F::neg_infinity(), larger)
    }
}

op! {
    /// Σ_j e^(`row`_j · `factor` − `shift`) of a short row, in 32 sums in the number type. Rounded
    /// after the product as `shift` is, no logit exceeds the largest.
    pub(crate) fn sum_of_exponentials<I>[F: Real](row: &[F], factor: F, shift: F) -> f64 {
        let mut sums = [F::zero(); LANES];
        let (blocks, rest) = row.as_chunks::<LANES>();
        for block in blocks {
            for (sum, &v) in sums.iter_mut().zip(block) {
                *sum += (v * factor - shift).exp_inline::<I>();
            }
        }
        let mut all = sums.iter().map(|sum| sum.widen()).sum();
        for &v in rest {
            all += (v * factor - shift).exp_inline::<I>().widen();
        }
        all
    }
}

op! {
    /// `out` ← `by` · e^(`row` · `factor` − `shift`).
    pub(crate) fn exponentials<I>[F: Real](row: &[F], [factor, shift, by]: [F; 3], out: &mut [F]) {
        assert_eq!(out.len(), row.len());
        for (out, &v) in out.iter_mut().zip(row) {
            *out = by * (v * factor - shift).exp_inline::<I>();
        }
    }
}

op! {
    /// The sum of a row.
    pub(crate) fn row_sum<I>[F: Real](row: &[F]) -> f64 {
        in_lanes::<LANES, _, _, _>(row, row, |sum: f64, v, _| sum + v.widen())
    }
}

op! {
    /// `out` ← Σ_c `parts[c][start ..]`, in the order of the parts.
    pub(crate) fn sum_rows<I>[F: Real](out: &mut [f64], parts: &[&[F]], start: usize) {
        for (block, out) in out.chunks_mut(LANES).enumerate() {
            let mut sums = [0.0; LANES];
            for part in parts {
                let part = &part[start + block * LANES..][..out.len()];
                for (sum, v) in sums.iter_mut().zip(part) {
                    *sum += v.widen();
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}
