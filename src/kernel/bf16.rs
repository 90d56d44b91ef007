//! Products whose factors are rounded to bf16: products of two such numbers are exact in f32, in
//! which they are summed.
//!
//! For `vdpbf16ps`, two numbers that follow each other along the depth of the product share the
//! 32 bits of an `f32`, which is only ever moved, never computed with. The instruction multiplies 16
//! pairs by 16 pairs and adds up each pair's products. CPUs without it multiply the same numbers in
//! f32, packed as f32.

use super::dispatch::Level;
use super::product::Product;
use super::real::Real;

/// The numbers that the factors of the three matrix products of a step are rounded to; a choice of
/// [`Head::with_precision`](crate::Head::with_precision).
///
/// Embeddings, class weights, their gradients, target pairs, norms, exponentials and all sums over
/// samples and classes are the same at either precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// Those of the working type: no rounding.
    #[default]
    Full,
    /// bf16, for `f32` data: the range of `f32`, 8 significant bits. Sums are in `f32`.
    ///
    /// With u = 2⁻⁹, the error of rounding to 8 bits, a logit errs by at most
    ///
    /// ```text
    /// |Δz_ij| ≤ a_i·(2u + u²)·Σ_k |u_ik·v_jk| ≤ a_i·(2u + u²)
    /// ```
    ///
    /// where a is the scale, u_i and v_j the normalised vectors. Observed at s = 64 with 1,000
    /// random classes: 0.0066 (D = 512) and 0.013 (D = 128) in root mean square, losses within 1 %
    /// and 2 %, gradients within 1.3 % and 1.9 % of their length.
    ///
    /// Faster where the CPU multiplies bf16 (AVX-512 BF16: Zen 4, Cooper Lake, Sapphire Rapids and
    /// later); elsewhere as exact, but not faster than `f32`. `f64` data are refused with
    /// [`Error::Precision`](crate::Error::Precision).
    Bf16,
}

/// The product with panels of pairs.
pub(super) fn multiply_pairs(level: Level, product: Product<'_, f32>) {
    assert!(level.has_bf16(), "packed for another level");
    #[cfg(target_arch = "x86_64")]
    {
        #[cfg(test)]
        if level.is_model() {
            return super::dispatch::dispatch(level, model::ModelProduct(product));
        }
        // SAFETY: `has_bf16` has detected the features that the function enables.
        unsafe { native::multiply(product) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    drop(product);
}

#[cfg(target_arch = "x86_64")]
mod native {
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
    use std::mem::transmute;

    use super::super::product::{Multiply, Product};
    use super::super::simd::Avx512;
    use super::pair_rows;

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
    pub(super) fn multiply(product: Product<'_, f32>) {
        product.run_with::<Avx512, Pairs>();
    }

    /// `vdpbf16ps`, which takes subnormal numbers as zero.
    enum Pairs {}

    impl Multiply<f32, Avx512> for Pairs {
        const NUMBERS: usize = 2;

        #[inline(always)]
        fn entries<'s>(strip: &'s mut [f32], height: usize, other: &'s mut [f32]) -> &'s [f32] {
            pair_rows(strip, height, other)
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: 64 bytes of any bits; the caller answers for the CPU.
            unsafe {
                let (a, b) = (transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b));
                _mm512_dpbf16_ps(sum, a, b)
            }
        }
    }
}

/// Rounds rows of `width` entries and joins each two that follow each other; an odd last row has
/// zeros beside it. Returns the pairs, which are the first of `out`.
#[inline(always)]
pub(super) fn pair_rows<'o, F: Real>(rows: &[F], width: usize, out: &'o mut [f32]) -> &'o [f32] {
    let out = &mut out[..rows.len().div_ceil(2 * width) * width];
    for (rows, out) in rows.chunks(2 * width).zip(out.chunks_exact_mut(width)) {
        let (first, second) = rows.split_at(width);
        if second.is_empty() {
            out.iter_mut().zip(first).for_each(|(out, &a)| *out = pair_of(a, F::zero()));
        } else {
            let pairs = first.iter().zip(second);
            out.iter_mut().zip(pairs).for_each(|(out, (&a, &b))| *out = pair_of(a, b));
        }
    }
    out
}

#[inline(always)]
fn pair_of<F: Real>(first: F, second: F) -> f32 {
    f32::from_bits(round(first) | round(second) << 16)
}

/// The nearest bf16.
#[inline(always)]
pub(super) fn rounded<F: Real>(value: F) -> F {
    F::narrow(f32::from_bits(round(value) << 16).into())
}

/// The bits of the nearest bf16, ties to even. Numbers beyond the largest bf16, which only `f32`
/// has, are rounded to it, not to infinity.
#[inline(always)]
fn round<F: Real>(value: F) -> u32 {
    let bits = (value.widen() as f32).to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if rounded & 0x7f80 == 0x7f80 { bits >> 16 } else { rounded }
}

#[cfg(test)]
pub(super) use tests::add_pair;

/// What a CPU without `vdpbf16ps` tests of it.
#[cfg(all(test, target_arch = "x86_64"))]
mod model {
    use super::super::dispatch::Op;
    use super::super::product::{Multiply, Product};
    use super::super::real::Element;
    use super::super::simd::{Isa, Vector};
    use super::{add_pair, pair_rows};

    /// A [`Product`] of pairs by a model of `vdpbf16ps`.
    pub(super) struct ModelProduct<'a>(pub Product<'a, f32>);

    impl Op for ModelProduct<'_> {
        type Output = ();

        #[inline(always)]
        fn run<I: Isa>(self) {
            self.0.run_with::<I, Model>();
        }
    }

    enum Model {}

    impl<I: Isa> Multiply<f32, I> for Model {
        const NUMBERS: usize = 2;

        #[inline(always)]
        fn entries<'s>(strip: &'s mut [f32], height: usize, other: &'s mut [f32]) -> &'s [f32] {
            pair_rows(strip, height, other)
        }

        #[inline(always)]
        unsafe fn multiply_add(a: I::F32, b: I::F32, sum: I::F32) -> I::F32 {
            const MOST_LANES: usize = 16;
            let numbers = |v: I::F32| {
                let mut numbers = [0.0; MOST_LANES];
                // SAFETY: no level has more lanes; the CPU has those of `I`.
                unsafe { v.store(numbers.as_mut_ptr()) };
                numbers
            };
            let (a, b, mut sums) = (numbers(a), numbers(b), numbers(sum));
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum = add_pair(a, b, *sum);
            }
            // SAFETY: as above.
            unsafe { <f32 as Element>::Vector::<I>::load(sums.as_ptr()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the instruction computes of one pair: the second numbers first, each product fused
    /// with the sum.
    pub(crate) fn add_pair(a: f32, b: f32, sum: f32) -> f32 {
        let first = |pair: f32| f32::from_bits(pair.to_bits() << 16);
        let second = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
        first(a).mul_add(first(b), second(a).mul_add(second(b), sum))
    }

    #[test]
    fn rounding_is_to_nearest_even_and_never_to_infinity() {
        let step = 2.0_f32.powi(-7);
        assert_eq!(rounded(1.0 + step / 2.0), 1.0);
        assert_eq!(rounded(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(rounded(-1.0 - 0.51 * step), -1.0 - step);
        assert_eq!(rounded(1.0 + step), 1.0 + step);
        assert_eq!(rounded(-0.0_f32).to_bits(), (-0.0_f32).to_bits());
        for most in [f32::MAX, -f32::MAX] {
            assert!(rounded(most).is_finite() && (rounded(most) / most - 1.0).abs() < step);
        }
    }
}
