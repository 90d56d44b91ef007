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
    float32x4_t: 4 of f32, blocks of float32x4_t, vld1q_f32, vst1q_f32, vdupq_n_f32, vaddq_f32,
    |a, b, c| vfmaq_f32(c, a, b),
    |first, _| vld1q_f32(first), vzip1q_f32, vzip2q_f32
}

vector! {
    float64x2_t: 2 of f64, blocks of float64x2_t, vld1q_f64, vst1q_f64, vdupq_n_f64, vaddq_f64,
    |a, b, c| vfmaq_f64(c, a, b),
    |first, _| vld1q_f64(first), vzip1q_f64, vzip2q_f64
}
