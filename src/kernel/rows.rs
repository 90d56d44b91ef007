//! Norms of rows, and the projection of a row onto the tangent space of another.

use super::dispatch::{Level, Op, dispatch, madd};
use super::real::Real;
use super::simd::Isa;

const LANES: usize = 32;

/// The Euclidean norm in f64, exact to rounding for every finite row; NaN where an entry is not
/// finite.
pub(crate) fn norm<F: Real>(row: &[F]) -> f64 {
    let sum = dispatch(Level::detect(), SumSquares { row });
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

struct SumSquares<'a, F> {
    row: &'a [F],
}

impl<F: Real> Op for SumSquares<'_, F> {
    type Output = f64;

    #[inline(always)]
    fn run<I: Isa>(self) -> f64 {
        let mut sums = [0.0; LANES];
        let (blocks, rest) = self.row.as_chunks::<LANES>();
        for block in blocks {
            for (sum, v) in sums.iter_mut().zip(block) {
                let v = v.widen();
                *sum = madd::<_, I>(v, v, *sum);
            }
        }
        rest.iter().fold(sums.iter().sum(), |sum, v| madd::<_, I>(v.widen(), v.widen(), sum))
    }
}

/// `out` ← `row` · `factor`, rounded once.
pub(crate) fn scaled<F: Real, G: Real>(out: &mut [F], row: &[G], factor: f64) {
    assert_eq!(out.len(), row.len());
    dispatch(Level::detect(), Scaled { out, row, factor });
}

/// `out` ← `row`, rounded.
pub(crate) fn rounded<F: Real>(out: &mut [F], row: &[f64]) {
    scaled(out, row, 1.0);
}

struct Scaled<'a, F, G> {
    out: &'a mut [F],
    row: &'a [G],
    factor: f64,
}

impl<F: Real, G: Real> Op for Scaled<'_, F, G> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        for (out, v) in self.out.iter_mut().zip(self.row) {
            *out = F::narrow(v.widen() * self.factor);
        }
    }
}

/// b ← b − (b · v) v with v = w · `inverse_norm`.
pub(crate) fn project<F: Real>(b: &mut [F], w: &[F], inverse_norm: F) {
    assert_eq!(b.len(), w.len());
    dispatch(Level::detect(), Project { b, w, inverse_norm });
}

struct Project<'a, F> {
    b: &'a mut [F],
    w: &'a [F],
    inverse_norm: F,
}

impl<F: Real> Op for Project<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        let mut sums = [F::zero(); LANES];
        let (b_blocks, b_rest) = self.b.as_chunks::<LANES>();
        let (w_blocks, w_rest) = self.w.as_chunks::<LANES>();
        // The inverse goes to each entry of w: its square would leave the type's range.
        let v = |w: F| w * self.inverse_norm;
        for (b, w) in b_blocks.iter().zip(w_blocks) {
            for ((sum, &b), &w) in sums.iter_mut().zip(b).zip(w) {
                *sum = madd::<_, I>(b, v(w), *sum);
            }
        }
        let rest = b_rest.iter().zip(w_rest);
        let dot = rest.fold(sums.into_iter().sum(), |dot, (&b, &w)| madd::<F, I>(b, v(w), dot));
        for (b, &w) in self.b.iter_mut().zip(self.w) {
            *b = madd::<_, I>(-dot, v(w), *b);
        }
    }
}

/// `out` ← Σ_c `parts[start + c · stride ..]`, in the order of the parts.
pub(crate) fn sum_rows<F: Real>(out: &mut [f64], parts: &[F], start: usize, stride: usize) {
    dispatch(Level::detect(), SumRows { out, parts, start, stride });
}

struct SumRows<'a, F> {
    out: &'a mut [f64],
    parts: &'a [F],
    start: usize,
    stride: usize,
}

impl<F: Real> Op for SumRows<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self) {
        for (block, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut sums = [0.0; LANES];
            for part in self.parts.chunks_exact(self.stride) {
                let part = &part[self.start + block * LANES..][..out.len()];
                for (sum, v) in sums.iter_mut().zip(part) {
                    *sum += v.widen();
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}
