//! Matrix products, single-threaded, by whichever library the build has.

use super::real::Real;

/// A matrix that is read: rows of `data`, a stride apart, or its transpose.
#[derive(Clone, Copy)]
pub struct Mat<'a, F> {
    data: &'a [F],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, F> Mat<'a, F> {
    /// `rows` × `cols`, row after row.
    pub fn new(data: &'a [F], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0 && rows * cols <= data.len());
        Mat { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose; nothing moves.
    pub fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A matrix that is written: rows of `data`, `stride` apart.
pub struct MatMut<'a, F> {
    data: &'a mut [F],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a, F> MatMut<'a, F> {
    /// `rows` × `cols`, each row `stride` entries after the one before.
    pub fn new(data: &'a mut [F], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows > 0 && cols > 0 && cols <= stride);
        assert!((rows - 1) * stride + cols <= data.len());
        MatMut { data, rows, cols, stride }
    }
}

/// $C = AB$, or $C \mathrel{+}= AB$ with `accumulate`, on the calling thread.
pub fn gemm<F: Real>(c: MatMut<'_, F>, accumulate: bool, a: Mat<'_, F>, b: Mat<'_, F>) {
    assert!(c.rows == a.rows && a.cols == b.rows && b.cols == c.cols);
    F::gemm(c, accumulate, a, b);
}

#[cfg(all(feature = "faer", not(miri)))]
pub(super) fn by_faer<F: faer::traits::ComplexField>(
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
pub(super) type RawGemm<F> = unsafe fn(
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
pub(super) fn by_matrixmultiply<F: num_traits::Float>(
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
