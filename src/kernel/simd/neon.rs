//! NEON: 4 numbers in f32, 2 in f64.

use std::arch::aarch64::*;

use super::vector::{Isa, Rows, vector};

/// NEON, which every 64-bit Arm CPU has.
#[derive(Debug, Clone, Copy)]
pub enum Neon {}

impl Isa for Neon {
    const FMA: bool = true;
    const ROWS: usize = 8;
    type F32 = float32x4_t;
    type F64 = float64x2_t;
}

vector! {
    float32x4_t: 4 of f32, side 4, vld1q_f32, vst1q_f32, vdupq_n_f32, vaddq_f32,
    |a, b, c| vfmaq_f32(c, a, b), transpose_f32
}

vector! {
    float64x2_t: 2 of f64, side 2, vld1q_f64, vst1q_f64, vdupq_n_f64, vaddq_f64,
    |a, b, c| vfmaq_f64(c, a, b), transpose_f64
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
unsafe fn transpose_f32(rows: &Rows<f32>, at: usize, to: *mut f32, stride: usize) {
    // SAFETY: the caller answers for the pointers. Pairs of numbers, then pairs of pairs.
    unsafe {
        let row = |j: usize| vld1q_f32(rows[j].add(at));
        let (a, b) = (vtrnq_f32(row(0), row(1)), vtrnq_f32(row(2), row(3)));
        vst1q_f32(to, vcombine_f32(vget_low_f32(a.0), vget_low_f32(b.0)));
        vst1q_f32(to.add(stride), vcombine_f32(vget_low_f32(a.1), vget_low_f32(b.1)));
        vst1q_f32(to.add(2 * stride), vcombine_f32(vget_high_f32(a.0), vget_high_f32(b.0)));
        vst1q_f32(to.add(3 * stride), vcombine_f32(vget_high_f32(a.1), vget_high_f32(b.1)));
    }
}

/// # Safety
/// See [`Vector`](super::vector::Vector).
#[inline(always)]
unsafe fn transpose_f64(rows: &Rows<f64>, at: usize, to: *mut f64, stride: usize) {
    // SAFETY: the caller answers for the pointers.
    unsafe {
        let (a, b) = (vld1q_f64(rows[0].add(at)), vld1q_f64(rows[1].add(at)));
        vst1q_f64(to, vtrn1q_f64(a, b));
        vst1q_f64(to.add(stride), vtrn2q_f64(a, b));
    }
}
