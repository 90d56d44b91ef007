//! Products of pairs of bf16, by `vdpbf16ps`.
//!
//! Two numbers that follow each other along the depth of the product share the 32 bits of an
//! `f32`, which is only ever moved, never computed with. The instruction multiplies 16 pairs by 16
//! pairs and adds up each pair's products. CPUs without it multiply the same numbers in f32, packed
//! as f32.

use super::dispatch::Level;
use super::product::Product;

/// The product with panels of pairs.
pub(super) fn multiply(level: Level, product: Product<'_, f32>) {
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

    use super::super::bf16::native::pair_rows;
    use super::super::product::{Multiply, Product};
    use super::super::simd::Avx512;

    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")]
    pub(super) fn multiply(product: Product<'_, f32>) {
        product.run_with::<Avx512, Pairs>();
    }

    /// `vdpbf16ps`, which takes subnormal numbers as zero.
    enum Pairs {}

    impl Multiply<f32, Avx512> for Pairs {
        const NUMBERS: usize = 2;

        #[inline(always)]
        fn entries<'s>(
            strip: &'s mut [f32],
            _: bool,
            height: usize,
            other: &'s mut [f32],
        ) -> &'s [f32] {
            // SAFETY: a product of pairs runs where the CPU has the features: see `multiply`.
            unsafe { pair_rows(strip, height, other) }
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

/// What the instruction computes of one pair: the second numbers first, each product fused with the
/// sum.
#[cfg(test)]
pub(super) fn add_pair(a: f32, b: f32, sum: f32) -> f32 {
    let first = |pair: f32| f32::from_bits(pair.to_bits() << 16);
    let second = |pair: f32| f32::from_bits(pair.to_bits() & 0xffff_0000);
    first(a).mul_add(first(b), second(a).mul_add(second(b), sum))
}

/// What a CPU without `vdpbf16ps` tests of it.
#[cfg(all(test, target_arch = "x86_64"))]
mod model {
    use super::super::bf16::tests::pair_rows;
    use super::super::dispatch::Op;
    use super::super::product::{Multiply, Product};
    use super::super::real::Element;
    use super::super::simd::{Isa, Vector};
    use super::add_pair;

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
        fn entries<'s>(
            strip: &'s mut [f32],
            _: bool,
            height: usize,
            other: &'s mut [f32],
        ) -> &'s [f32] {
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
