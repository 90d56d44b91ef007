//! One loop, compiled for each level of the CPU; which one runs is a value.

use std::sync::OnceLock;

/// A loop over slices. `run` must be `#[inline(always)]`, so that it is compiled inside the
/// function that enables the CPU's features.
pub(crate) trait Op {
    type Output;

    /// The loop, for one instruction set.
    fn run<I: Isa>(self) -> Self::Output;
}

/// What a loop may rely on at one level.
pub trait Isa {
    /// Whether fused multiply-add is one instruction.
    const FMA: bool;
    /// Bytes in a vector register.
    const VECTOR: usize;
}

/// What the target has without detection: SSE2, NEON.
pub(crate) enum Baseline {}

impl Isa for Baseline {
    const FMA: bool = cfg!(target_arch = "aarch64");
    const VECTOR: usize = 16;
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
enum Avx2 {}

#[cfg(target_arch = "x86_64")]
impl Isa for Avx2 {
    const FMA: bool = true;
    const VECTOR: usize = 32;
}

/// AVX-512 F, VL, DQ and BW.
#[cfg(target_arch = "x86_64")]
enum Avx512 {}

#[cfg(target_arch = "x86_64")]
impl Isa for Avx512 {
    const FMA: bool = true;
    const VECTOR: usize = 64;
}

/// A level of vector instructions that this CPU has: there is no value for one that it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(Kind);

// Private: `dispatch` relies on every `Level` having passed `Kind::is_available`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Kind {
    /// From the lowest to the highest.
    const ALL: &[Kind] = &[
        Kind::Plain,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512,
    ];

    fn is_available(self) -> bool {
        match self {
            Kind::Plain => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            // AVX2 and FMA too, which the compiled functions enable along with AVX-512.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => {
                Kind::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
            }
        }
    }
}

impl Level {
    /// The highest level of this CPU.
    #[inline]
    pub fn detect() -> Level {
        static HIGHEST: OnceLock<Level> = OnceLock::new();
        *HIGHEST.get_or_init(|| Level::available().last().unwrap_or(Level(Kind::Plain)))
    }

    /// Whether this level multiplies pairs of bf16 in one instruction.
    #[inline]
    pub fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let found = self.0 == Kind::Avx512 && is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found
    }

    /// Every level of this CPU, from the lowest to the highest.
    pub fn available() -> impl Iterator<Item = Level> {
        Kind::ALL.iter().filter(|kind| kind.is_available()).map(|&kind| Level(kind))
    }
}

/// Runs `op` at a level.
#[inline]
pub(crate) fn dispatch<O: Op>(level: Level, op: O) -> O::Output {
    match level.0 {
        Kind::Plain => op.run::<Baseline>(),
        // SAFETY: a `Level` of this kind exists only if `is_available` has detected the features
        // that the function enables.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => unsafe { run_avx2(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => unsafe { run_avx512(op) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn run_avx512<O: Op>(op: O) -> O::Output {
    op.run::<Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<O: Op>(op: O) -> O::Output {
    op.run::<Avx2>()
}

/// ab + c: fused where that is one instruction, two operations elsewhere (without the
/// instruction, `mul_add` is a call into the C library).
#[inline(always)]
pub(crate) fn madd<F: num_traits::Float, I: Isa>(a: F, b: F, c: F) -> F {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}
