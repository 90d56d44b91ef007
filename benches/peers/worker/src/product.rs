//! One product by faer: with the CPU's best instructions, or held to AVX2.

use faer::linalg::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// `into` = `left`·`right`.
pub fn matmul(into: MatMut<'_, f32>, left: MatRef<'_, f32>, right: MatRef<'_, f32>, par: Par) {
    #[cfg(target_arch = "x86_64")]
    if crate::held_to_avx2() {
        return matmul_in_avx2(into, left, right, par);
    }
    matmul::matmul(into, Accum::Replace, left, right, 1.0, par);
}

/// faer asks the CPU for AVX-512 itself and cannot be told not to use it. This is the call that it
/// makes on a CPU without.
#[cfg(target_arch = "x86_64")]
fn matmul_in_avx2(into: MatMut<'_, f32>, left: MatRef<'_, f32>, right: MatRef<'_, f32>, par: Par) {
    use std::ptr;

    use private_gemm_x86::{Accum, DType, DstKind, IType, InstrSet, gemm};

    let (m, n, k) = (into.nrows(), into.ncols(), left.ncols());
    assert_eq!((left.nrows(), right.nrows(), right.ncols()), (m, k, n), "shapes of the product");
    // SAFETY: the views are valid for these shapes and strides, `into` for writes; `held_to_avx2`
    // has detected AVX2 and FMA. No pointer to indices or to a diagonal: none is read.
    unsafe {
        gemm(
            DType::F32,
            IType::U64,
            InstrSet::Avx256,
            m,
            n,
            k,
            into.as_ptr_mut().cast(),
            into.row_stride(),
            into.col_stride(),
            ptr::null(),
            ptr::null(),
            DstKind::Full,
            Accum::Replace,
            left.as_ptr().cast(),
            left.row_stride(),
            left.col_stride(),
            false,
            ptr::null(),
            0,
            right.as_ptr().cast(),
            right.row_stride(),
            right.col_stride(),
            false,
            (&raw const ONE).cast(),
            par.degree(),
        );
    }
}

#[cfg(target_arch = "x86_64")]
static ONE: f32 = 1.0;
