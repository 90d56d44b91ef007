//! Products by the library that the build has: faer, or matrixmultiply.

use super::{Mat, MatMut};

#[cfg(all(feature = "faer", not(miri)))]
pub(in crate::kernel) fn by_faer<F: faer::traits::ComplexField>(
    c: MatMut<'_, F>,
    accumulate: bool,
    a: Mat<'_, F>,
    b: Mat<'_, F>,
) {
    use faer::linalg::matmul::matmul;
    use faer::{Accum, MatMut as FaerMut, MatRef, Par};

    fn view<'a, F>(m: &Mat<'a, F>) -> MatRef<'a, F> {
        if m.col_stride == 1 {
            MatRef::from_row_major_slice_with_stride(m.data, m.rows, m.cols, m.row_stride)
        } else {
            MatRef::from_column_major_slice_with_stride(m.data, m.rows, m.cols, m.col_stride)
        }
    }
    // Not `from_row_major_slice_with_stride_mut`: faer 0.24.4 gives it column-major strides.
    let target = FaerMut::from_column_major_slice_with_stride_mut(c.data, c.cols, c.rows, c.stride);
    let accum = if accumulate { Accum::Add } else { Accum::Replace };
    matmul(target.transpose_mut(), accum, view(&a), view(&b), F::one_impl(), Par::Seq);
}

#[cfg(any(not(feature = "faer"), miri))]
pub(in crate::kernel) type RawGemm<F> = unsafe fn(
    usize,
    usize,
    usize,
    F,
    *const F,
    isize,
    isize,
    *const F,
    isize,
    isize,
    F,
    *mut F,
    isize,
    isize,
);

#[cfg(any(not(feature = "faer"), miri))]
pub(in crate::kernel) fn by_matrixmultiply<F: num_traits::Float>(
    raw: RawGemm<F>,
    c: MatMut<'_, F>,
    accumulate: bool,
    a: Mat<'_, F>,
    b: Mat<'_, F>,
) {
    let beta = if accumulate { F::one() } else { F::zero() };
    // SAFETY: the constructors of `Mat` and `MatMut` checked that the last entry that these
    // sizes and strides reach lies within the slices, `gemm` checked that the sizes agree, and
    // `c` is borrowed mutably, so it overlaps neither `a` nor `b`. Slices are shorter than
    // isize::MAX, so no stride is cut short.
    unsafe {
        raw(
            a.rows,
            a.cols,
            b.cols,
            F::one(),
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            beta,
            c.data.as_mut_ptr(),
            c.stride as isize,
            1,
        );
    }
}
