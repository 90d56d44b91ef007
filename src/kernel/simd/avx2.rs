//! AVX2 with FMA: 8 numbers in f32, 4 in f64.

use std::arch::x86_64::*;

use super::vector::{Isa, Rows, vector};

/// AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub enum Avx2 {}

impl Isa for Avx2 {
    const FMA: bool = true;
    const ROWS: usize = 6;
    type F32 = __m256;
    type F64 = __m256d;
}

vector! {
    __m256: 8 of f32, side 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps,
    |a, b, c| _mm256_fmadd_ps(a, b, c), transpose_f32
}

vector! {
    __m256d: 4 of f64, side 4, _mm256_loadu_pd, _mm256_storeu_pd, _mm256_set1_pd, _mm256_add_pd,
    |a, b, c| _mm256_fmadd_pd(a, b, c), transpose_f64
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
pub(super) unsafe fn transpose_f32(rows: &Rows<f32>, at: usize, to: *mut f32, stride: usize) {
    // SAFETY: the caller answers for CPU and pointers. Pairs of numbers are interleaved, then
    // pairs of pairs, then halves of registers.
    unsafe {
        let row = |j: usize| _mm256_loadu_ps(rows[j].add(at));
        let low = |j: usize| _mm256_unpacklo_ps(row(2 * j), row(2 * j + 1));
        let high = |j: usize| _mm256_unpackhi_ps(row(2 * j), row(2 * j + 1));
        let (a, b) = ([low(0), low(1), low(2), low(3)], [high(0), high(1), high(2), high(3)]);
        let fours = |x: [__m256; 4]| {
            [
                _mm256_shuffle_ps::<0x44>(x[0], x[1]),
                _mm256_shuffle_ps::<0xee>(x[0], x[1]),
                _mm256_shuffle_ps::<0x44>(x[2], x[3]),
                _mm256_shuffle_ps::<0xee>(x[2], x[3]),
            ]
        };
        let (a, b) = (fours(a), fours(b));
        let columns = [(a[0], a[2]), (a[1], a[3]), (b[0], b[2]), (b[1], b[3])];
        for (k, (first, second)) in columns.into_iter().enumerate() {
            let low = _mm256_permute2f128_ps::<0x20>(first, second);
            _mm256_storeu_ps(to.add(k * stride), low);
        }
        for (k, (first, second)) in (4..).zip(columns) {
            let high = _mm256_permute2f128_ps::<0x31>(first, second);
            _mm256_storeu_ps(to.add(k * stride), high);
        }
    }
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
pub(super) unsafe fn transpose_f64(rows: &Rows<f64>, at: usize, to: *mut f64, stride: usize) {
    // SAFETY: the caller answers for CPU and pointers.
    unsafe {
        let row = |j: usize| _mm256_loadu_pd(rows[j].add(at));
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let (ab, cd) = (_mm256_unpacklo_pd(a, b), _mm256_unpacklo_pd(c, d));
        let (ab_odd, cd_odd) = (_mm256_unpackhi_pd(a, b), _mm256_unpackhi_pd(c, d));
        let columns = [
            _mm256_permute2f128_pd::<0x20>(ab, cd),
            _mm256_permute2f128_pd::<0x20>(ab_odd, cd_odd),
            _mm256_permute2f128_pd::<0x31>(ab, cd),
            _mm256_permute2f128_pd::<0x31>(ab_odd, cd_odd),
        ];
        for (k, column) in columns.into_iter().enumerate() {
            _mm256_storeu_pd(to.add(k * stride), column);
        }
    }
}
