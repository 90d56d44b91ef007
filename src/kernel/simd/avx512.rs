//! AVX-512: 16 numbers in f32, 8 in f64. Small blocks are transposed in AVX2's registers.

use std::arch::x86_64::*;

use super::avx2::{transpose_f32, transpose_f64};
use super::vector::{Isa, vector};

/// AVX-512 F, VL, DQ and BW, with AVX2 and FMA.
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
    __m512: 16 of f32, side 8, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps,
    |a, b, c| _mm512_fmadd_ps(a, b, c), transpose_f32
}

vector! {
    __m512d: 8 of f64, side 4, _mm512_loadu_pd, _mm512_storeu_pd, _mm512_set1_pd, _mm512_add_pd,
    |a, b, c| _mm512_fmadd_pd(a, b, c), transpose_f64
}
