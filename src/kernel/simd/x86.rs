//! The levels of x86-64.

use std::arch::x86_64::*;

use super::vector::{Isa, Rows, vector};

/// SSE2, which x86-64 has: 4 numbers in f32, 2 in f64, multiplied and added in two instructions.
#[derive(Debug, Clone, Copy)]
pub enum Sse2 {}

impl Isa for Sse2 {
    const FMA: bool = false;
    const ROWS: usize = 4;
    type F32 = __m128;
    type F64 = __m128d;
}

vector! {
    __m128: 4 of f32, blocks of __m128, _mm_loadu_ps, _mm_storeu_ps, _mm_set1_ps, _mm_add_ps,
    |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c),
    |first, _| _mm_loadu_ps(first), _mm_unpacklo_ps, _mm_unpackhi_ps
}

vector! {
    __m128d: 2 of f64, blocks of __m128d, _mm_loadu_pd, _mm_storeu_pd, _mm_set1_pd, _mm_add_pd,
    |a, b, c| _mm_add_pd(_mm_mul_pd(a, b), c),
    |first, _| _mm_loadu_pd(first), _mm_unpacklo_pd, _mm_unpackhi_pd
}

/// AVX2 with FMA: 8 numbers in f32, 4 in f64.
#[derive(Debug, Clone, Copy)]
pub enum Avx2 {}

impl Isa for Avx2 {
    const FMA: bool = true;
    const ROWS: usize = 6;
    type F32 = __m256;
    type F64 = __m256d;
}

vector! {
    __m256: 8 of f32, blocks of __m256,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps,
    |a, b, c| _mm256_fmadd_ps(a, b, c),
    |first, second| _mm256_loadu2_m128(second, first), _mm256_unpacklo_ps, _mm256_unpackhi_ps
}

vector! {
    __m256d: 4 of f64, blocks of __m256d,
    _mm256_loadu_pd, _mm256_storeu_pd, _mm256_set1_pd, _mm256_add_pd,
    |a, b, c| _mm256_fmadd_pd(a, b, c),
    |first, second| _mm256_loadu2_m128d(second, first), _mm256_unpacklo_pd, _mm256_unpackhi_pd
}

/// AVX-512 F, VL, DQ and BW, with AVX2 and FMA: 16 numbers in f32, 8 in f64. Small blocks are
/// transposed in AVX2's registers.
#[derive(Debug, Clone, Copy)]
pub enum Avx512 {}

impl Isa for Avx512 {
    const FMA: bool = true;
    /// 32 registers would hold 12; on Zen 5 that was slower by a tenth.
    const ROWS: usize = 8;
    type F32 = __m512;
    type F64 = __m512d;
}

vector! {
    __m512: 16 of f32, blocks of __m256,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps,
    |a, b, c| _mm512_fmadd_ps(a, b, c)
}

vector! {
    __m512d: 8 of f64, blocks of __m256d,
    _mm512_loadu_pd, _mm512_storeu_pd, _mm512_set1_pd, _mm512_add_pd,
    |a, b, c| _mm512_fmadd_pd(a, b, c)
}

/// AVX-512's blocks in AVX2's instructions: what a CPU without AVX-512 tests of this level.
#[cfg(test)]
pub(super) mod model {
    use super::super::vector::{Isa, Rows, Vector};
    use super::{Avx2, Avx512};

    /// The shapes of [`Avx512`], each register a pair of AVX2's.
    #[derive(Debug, Clone, Copy)]
    pub enum DoubleAvx2 {}

    impl Isa for DoubleAvx2 {
        const FMA: bool = true;
        const ROWS: usize = Avx512::ROWS;
        type F32 = Double<<Avx2 as Isa>::F32>;
        type F64 = Double<<Avx2 as Isa>::F64>;
    }

    /// Two registers, one after the other.
    #[derive(Debug, Clone, Copy)]
    #[repr(C)]
    pub struct Double<V>(V, V);

    impl<F: Copy, V: Vector<F>> Vector<F> for Double<V> {
        const LANES: usize = 2 * V::LANES;
        const SIDE: usize = V::SIDE;

        #[inline(always)]
        unsafe fn load(from: *const F) -> Self {
            // SAFETY: the caller answers for CPU and pointer.
            unsafe { Double(V::load(from), V::load(from.add(V::LANES))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut F) {
            // SAFETY: the caller answers for CPU and pointer.
            unsafe {
                self.0.store(to);
                self.1.store(to.add(V::LANES));
            }
        }

        #[inline(always)]
        unsafe fn splat(value: F) -> Self {
            // SAFETY: the caller answers for the CPU.
            unsafe { Double(V::splat(value), V::splat(value)) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller answers for the CPU.
            unsafe { Double(self.0.add(other.0), self.1.add(other.1)) }
        }

        #[inline(always)]
        unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: the caller answers for the CPU.
            unsafe {
                let first = self.0.multiply_add(factor.0, addend.0);
                Double(first, self.1.multiply_add(factor.1, addend.1))
            }
        }

        #[inline(always)]
        unsafe fn transpose(rows: &Rows<F>, at: usize, to: *mut F, stride: usize) {
            // SAFETY: the caller answers for CPU and pointers.
            unsafe { V::transpose(rows, at, to, stride) }
        }
    }
}
