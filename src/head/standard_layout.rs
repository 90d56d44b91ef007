//! Rows one after the other, whatever the caller's layout.

use ndarray::{ArrayView1, ArrayViewMut2};

use crate::kernel::Real;

/// The rows of a gradient one after the other: in place, or in a copy where they lie otherwise.
pub(super) struct StandardLayout<'a, F> {
    target: ArrayViewMut2<'a, F>,
    copy: Vec<F>,
}

impl<'a, F: Real> StandardLayout<'a, F> {
    pub fn new(mut target: ArrayViewMut2<'a, F>) -> Self {
        let in_place = target.as_slice_mut().is_some();
        let copy = if in_place { Vec::new() } else { vec![F::zero(); target.len()] };
        StandardLayout { target, copy }
    }

    pub fn rows(&mut self) -> &mut [F] {
        match self.target.as_slice_mut() {
            Some(rows) => rows,
            None => &mut self.copy,
        }
    }

    pub fn finish(mut self) {
        if self.target.as_slice_mut().is_none() {
            let dims = self.target.ncols();
            let rows = self.target.rows_mut().into_iter().zip(self.copy.chunks_exact(dims));
            rows.for_each(|(mut row, copy)| row.assign(&ArrayView1::from(copy)));
        }
    }
}
