//! SSE2, which x86-64 has: 4 numbers in f32, 2 in f64, multiplied and added in two instructions.

use std::arch::x86_64::*;

use super::vector::{Isa, Rows, vector};

/// The baseline of x86-64.
#[derive(Debug, Clone, Copy)]
pub enum Sse2 {}

impl Isa for Sse2 {
    const FMA: bool = false;
    const ROWS: usize = 4;
    type F32 = __m128;
    type F64 = __m128d;
}

vector! {
    __m128: 4 of f32, side 4, _mm_loadu_ps, _mm_storeu_ps, _mm_set1_ps, _mm_add_ps,
    |a, b, c| _mm_add_ps(_mm_mul_ps(a, b), c), transpose_f32
}

vector! {
    __m128d: 2 of f64, side 2, _mm_loadu_pd, _mm_storeu_pd, _mm_set1_pd, _mm_add_pd,
    |a, b, c| _mm_add_pd(_mm_mul_pd(a, b), c), transpose_f64
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
unsafe fn transpose_f32(rows: &Rows<f32>, at: usize, to: *mut f32, stride: usize) {
    // SAFETY: the caller answers for the pointers.
    unsafe {
        let row = |j: usize| _mm_loadu_ps(rows[j].add(at));
        let (mut a, mut b, mut c, mut d) = (row(0), row(1), row(2), row(3));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        for (k, column) in [a, b, c, d].into_iter().enumerate() {
            _mm_storeu_ps(to.add(k * stride), column);
        }
    }
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
unsafe fn transpose_f64(rows: &Rows<f64>, at: usize, to: *mut f64, stride: usize) {
    // SAFETY: the caller answers for the pointers.
    unsafe {
        let (a, b) = (_mm_loadu_pd(rows[0].add(at)), _mm_loadu_pd(rows[1].add(at)));
        _mm_storeu_pd(to, _mm_unpacklo_pd(a, b));
        _mm_storeu_pd(to.add(stride), _mm_unpackhi_pd(a, b));
    }
}
