//! Where the scores of a search come from: products of unit rows, or a matrix of the user's own.

use std::ops::Range;

use ndarray::{Array2, ArrayRef2, ArrayView2};
use rayon::prelude::*;

use crate::error::Error;
use crate::real::Real;
use crate::tiles::cosines;

/// The scores of queries with a gallery. Both are sorted: rows and columns are places.
pub(crate) trait Scores<F>: Sync {
    /// A tile of them, in the buffer.
    fn tile<'a>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        buffer: &'a mut Array2<F>,
    ) -> ArrayView2<'a, F>;
}

/// The cosines of unit rows.
pub(crate) struct Cosines<'a, F> {
    pub queries: ArrayView2<'a, F>,
    pub gallery: ArrayView2<'a, F>,
}

impl<F: Real> Scores<F> for Cosines<'_, F> {
    fn tile<'a>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        buffer: &'a mut Array2<F>,
    ) -> ArrayView2<'a, F> {
        cosines((self.queries, rows), (self.gallery, columns), buffer)
    }
}

/// A matrix of scores, and the row and the column at each place.
pub(crate) struct Given<'a, F> {
    pub scores: ArrayView2<'a, F>,
    pub rows: &'a [usize],
    pub columns: &'a [usize],
}

impl<F: Real> Scores<F> for Given<'_, F> {
    fn tile<'a>(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        buffer: &'a mut Array2<F>,
    ) -> ArrayView2<'a, F> {
        let (rows, columns) = (&self.rows[rows], &self.columns[columns]);
        let score = |(row, column)| self.scores[[rows[row], columns[column]]];
        *buffer = Array2::from_shape_fn((rows.len(), columns.len()), score);
        buffer.view()
    }
}

/// Refuses an empty matrix of scores, and the first number that is not finite among those that a
/// search reads: `read(row, column)`.
pub(crate) fn check_matrix<F: Real>(
    scores: &ArrayRef2<F>,
    read: impl Fn(usize, usize) -> bool + Sync,
) -> Result<(), Error> {
    Error::check_not_empty("scores", scores.shape())?;
    let refused = (0..scores.nrows()).into_par_iter().find_map_first(|row| {
        let mut values = scores.row(row).into_iter().enumerate();
        let (column, &value) =
            values.find(|&(column, value)| !value.is_finite() && read(row, column))?;
        Some(Error::NonFinite { argument: "scores", row, column, value: value.as_() })
    });
    refused.map_or(Ok(()), Err)
}
