//! The most multiply-adds that a core can do at a level: independent chains of them, each in a
//! register of its own.

use std::hint::black_box;

const CHAINS: usize = 12;
const STEPS: usize = 1 << 16;

/// Runs the chains at the level of this name, and returns how many operations that took.
pub fn multiply_adds(level: &str) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel names a level only where the CPU has it.
        if level.contains("Avx512") {
            return unsafe { avx512() };
        }
        // SAFETY: as above.
        if level.contains("Avx2") {
            return unsafe { avx2() };
        }
    }
    let _ = level;
    chains([[black_box(0.25_f32); 4]; CHAINS])
}

#[inline(always)]
fn chains<const LANES: usize>(mut chains: [[f32; LANES]; CHAINS]) -> usize {
    let factor = black_box(0.5);
    for _ in 0..STEPS {
        for number in chains.iter_mut().flatten() {
            *number = *number * factor + factor;
        }
    }
    black_box(chains);
    2 * CHAINS * STEPS * LANES
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2() -> usize {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(black_box(0.5));
    let mut chains = [_mm256_set1_ps(black_box(0.25)); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = _mm256_fmadd_ps(*chain, factor, factor);
        }
    }
    black_box(chains);
    2 * CHAINS * STEPS * 8
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512() -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let factor = _mm512_set1_ps(black_box(0.5));
    let mut chains = [_mm512_set1_ps(black_box(0.25)); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(*chain, factor, factor);
        }
    }
    black_box(chains);
    2 * CHAINS * STEPS * 16
}
