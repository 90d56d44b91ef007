//! Vector registers behind one trait, with one implementation for each level of instructions.
//!
//! Loops whose speed decides that of a step are written with these operations, so that a build
//! contains the instructions they name. What an optimizer makes of a plain loop differs from profile
//! to profile: of one such product it made gathers and scatters in a release build only.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod portable;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use portable::Portable;
pub use vector::{Isa, MAX_SIDE, Unaligned, Vector};
#[cfg(all(test, target_arch = "x86_64"))]
pub use x86::model::DoubleAvx2;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512, Sse2};

/// Brings the cache line at this address closer; any address will do. Other targets have no stable
/// prefetch in the standard library.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    // SAFETY: part of SSE; a prefetch of an invalid address does nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
