//! Matrices in the slices of a caller.

/// A matrix that is read: rows of `data`, a stride apart, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mat<'a, F> {
    // The entry (i, j), which lies at i · row_stride + j · col_stride, is inside `data` for every
    // i < rows and j < cols.
    pub(super) data: &'a [F],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, F> Mat<'a, F> {
    /// `rows` × `cols`, row after row.
    pub fn new(data: &'a [F], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0);
        assert!(rows.checked_mul(cols).is_some_and(|entries| entries <= data.len()));
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
