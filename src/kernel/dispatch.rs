//! One loop, translated for each level of the CPU, chosen at run time.

/// A loop over slices. `run` must be `#[inline(always)]`, so that it is compiled inside the
/// function that enables the CPU's features.
pub(crate) trait Op {
    type Output;

    /// The loop; with `FMA`, fused multiply-add is one instruction.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Whether the build is told to do as on the least of CPUs, so that any machine can test that.
const BASELINE: bool = cfg!(margin_softmax_baseline);

/// Runs `op` at the highest level that this CPU has.
#[inline]
pub(crate) fn dispatch<O: Op>(op: O) -> O::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if has_avx512() {
            // SAFETY: the features that `avx512` enables were detected just now; AVX-512F
            // implies AVX2 and FMA on every CPU.
            return unsafe { avx512(op) };
        }
        if !BASELINE && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features that `avx2` enables were detected just now.
            return unsafe { avx2(op) };
        }
    }
    op.run::<{ cfg!(target_arch = "aarch64") }>()
}

/// Whether this CPU has the vectors of 64 bytes that `avx512` compiles for.
#[inline]
pub(crate) fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !BASELINE
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn avx512<O: Op>(op: O) -> O::Output {
    op.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<O: Op>(op: O) -> O::Output {
    op.run::<true>()
}

/// $ab + c$: fused where that is one instruction, two operations elsewhere (without the
/// instruction, `mul_add` is a call into the C library).
#[inline(always)]
pub(crate) fn madd<F: num_traits::Float, const FMA: bool>(a: F, b: F, c: F) -> F {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
