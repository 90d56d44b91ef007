//! Matrices as the products take them: read, written, or packed.

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
    pub(super) panels: Option<&'a Panels<F>>,
    pub(super) strips: Option<&'a Panels<F>>,
}

impl<'a, F> Mat<'a, F> {
    /// `rows` × `cols`, row after row.
    pub fn new(data: &'a [F], rows: usize, cols: usize) -> Self {
        assert!(rows > 0 && cols > 0);
        assert!(rows.checked_mul(cols).is_some_and(|entries| entries <= data.len()));
        Mat { data, rows, cols, row_stride: cols, col_stride: 1, panels: None, strips: None }
    }

    /// The transpose; nothing moves.
    pub fn t(self) -> Self {
        Mat {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            panels: None,
            strips: None,
        }
    }

    /// Whether the entries of a row lie side by side.
    pub fn is_by_rows(&self) -> bool {
        self.col_stride == 1
    }

    /// The same matrix, which [`pack`](super::pack) has laid out as `panels`.
    pub fn in_panels(self, panels: &'a Panels<F>) -> Self {
        assert!(self.rows == panels.rows && self.cols == panels.cols);
        Mat { panels: Some(panels), ..self }
    }

    /// The same matrix, which [`pack_left`](super::pack_left) has laid out as `strips`.
    pub fn in_strips(self, strips: &'a Panels<F>) -> Self {
        assert!(self.rows == strips.cols && self.cols == strips.rows);
        Mat { strips: Some(strips), ..self }
    }
}

/// A matrix that is written: rows of `data`, `stride` apart.
#[derive(Debug)]
pub(crate) struct MatMut<'a, F> {
    pub(super) data: &'a mut [F],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
}

impl<'a, F> MatMut<'a, F> {
    /// `rows` × `cols`, each row `stride` entries after the one before.
    pub fn new(data: &'a mut [F], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows > 0 && cols > 0 && cols <= stride);
        let before_last = (rows - 1).checked_mul(stride);
        assert!(before_last.is_some_and(|start| start < data.len() && cols <= data.len() - start));
        MatMut { data, rows, cols, stride }
    }
}

/// A right factor, or a left one transposed, packed for the products of one level: panels of `nr` columns one after the
/// other, each with a row of `nr` entries for every row of the matrix. Columns beyond the last are
/// zeros.
#[derive(Debug)]
pub(crate) struct Panels<F> {
    pub(super) data: Vec<F>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) nr: usize,
    /// Rounded to bf16, two rows to a row of `pairs`; `data` is not in use then.
    pub(super) in_pairs: bool,
    pub(super) pairs: Vec<u32>,
}

impl<F> Panels<F> {
    /// Sets the shape.
    pub(super) fn begin(&mut self, b: &Mat<'_, F>, nr: usize, in_pairs: bool) {
        (self.rows, self.cols, self.nr, self.in_pairs) = (b.rows, b.cols, nr, in_pairs);
    }
}

impl<F> Default for Panels<F> {
    fn default() -> Self {
        let (data, pairs) = (Vec::new(), Vec::new());
        Panels { data, rows: 0, cols: 0, nr: 0, in_pairs: false, pairs }
    }
}
