//! Products by a kernel of our own, for CPUs whose registers hold a block of C.
//!
//! A panel of B, `COLUMNS` wide and [`DEPTH`] deep, is copied together: 32 KiB, which stay in the
//! first-level cache while [`ROWS`] rows of A after the other go by. Their block of C stays in
//! registers: 8 rows of two vectors each, one broadcast of A for two multiply-adds. A is read
//! where it lies, by rows or by columns.

use super::{Mat, MatMut};
use crate::kernel::dispatch::{Op, madd};
use crate::kernel::real::Real;

/// Entries in a row of a panel: two registers.
pub(in crate::kernel) const fn columns<F>() -> usize {
    128 / size_of::<F>()
}

/// Rows of A and of C at a time.
pub(super) const ROWS: usize = 8;
/// Rows of a panel.
const DEPTH: usize = 256;

/// A block of C.
type Block<F, const COLUMNS: usize> = [[F; COLUMNS]; ROWS];

/// $C = AB$, or $C \mathrel{+}= AB$; A has at least [`ROWS`] rows; the columns of B lie side by side
/// or B is packed.
pub(in crate::kernel) struct Product<'a, F, const COLUMNS: usize> {
    pub c: MatMut<'a, F>,
    pub accumulate: bool,
    pub a: Mat<'a, F>,
    pub b: Mat<'a, F>,
}

impl<F: Real, const COLUMNS: usize> Op for Product<'_, F, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Product { mut c, accumulate, a, b } = self;
        let (packed, _) = b.panels.as_chunks::<COLUMNS>();
        let mut copy = packed.is_empty().then(|| [[F::zero(); COLUMNS]; DEPTH]);
        for first in (0..a.cols).step_by(DEPTH) {
            let depth = DEPTH.min(a.cols - first);
            let accumulate = accumulate || first > 0;
            for column in (0..b.cols).step_by(COLUMNS) {
                let width = COLUMNS.min(b.cols - column);
                let panel = match &mut copy {
                    Some(copy) => {
                        fill(&mut copy[..depth], &b, first, column);
                        &copy[..depth]
                    }
                    None => &packed[column / COLUMNS * b.rows + first..][..depth],
                };
                for row in (0..a.rows).step_by(ROWS) {
                    // The last block reaches back to rows that are done, which it leaves alone.
                    let start = row.min(a.rows - ROWS);
                    let block = multiply::<F, COLUMNS, FMA>(&a, start, first, panel);
                    if width == COLUMNS && start == row {
                        c.put(start, column, &block, accumulate);
                    } else {
                        c.put_part(row..start + ROWS, column..column + width, block, accumulate);
                    }
                }
            }
        }
    }
}

/// All of B in panels, one after the other: each has a row for every row of B.
pub(in crate::kernel) struct Pack<'a, F, const COLUMNS: usize> {
    pub b: Mat<'a, F>,
    pub panels: &'a mut Vec<F>,
}

impl<F: Real, const COLUMNS: usize> Op for Pack<'_, F, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Pack { b, panels } = self;
        panels.resize(b.cols.div_ceil(COLUMNS) * b.rows * COLUMNS, F::zero());
        let (panels, _) = panels.as_chunks_mut::<COLUMNS>();
        for (index, panel) in panels.chunks_exact_mut(b.rows).enumerate() {
            fill(panel, &b, 0, index * COLUMNS);
        }
    }
}

/// Copies the rows of B from `first` on, `COLUMNS` of its columns from `column` on, into a panel.
/// What lies beyond the last column is left as it was.
#[inline(always)]
fn fill<F: Real, const COLUMNS: usize>(
    panel: &mut [[F; COLUMNS]],
    b: &Mat<'_, F>,
    first: usize,
    column: usize,
) {
    let width = COLUMNS.min(b.cols - column);
    if b.col_stride != 1 {
        for j in 0..width {
            let b = &b.data[(column + j) * b.col_stride + first..];
            for (out, &b) in panel.iter_mut().zip(b) {
                out[j] = b;
            }
        }
    } else if width < COLUMNS {
        for (k, out) in (first..).zip(panel) {
            out[..width].copy_from_slice(&b.data[k * b.row_stride + column..][..width]);
        }
    } else {
        for (k, out) in (first..).zip(panel) {
            out.copy_from_slice(&b.data[k * b.row_stride + column..][..COLUMNS]);
        }
    }
}

/// The block of C that the rows of A from `row` on, from column `first` on, make with a panel.
#[inline(always)]
fn multiply<F: Real, const COLUMNS: usize, const FMA: bool>(
    a: &Mat<'_, F>,
    row: usize,
    first: usize,
    panel: &[[F; COLUMNS]],
) -> Block<F, COLUMNS> {
    let (row_stride, col_stride) = (a.row_stride, a.col_stride);
    let last = (row + ROWS - 1) * row_stride + (first + panel.len() - 1) * col_stride;
    assert!(last < a.data.len());
    let mut sums = [[F::zero(); COLUMNS]; ROWS];
    let mut at = row * row_stride + first * col_stride;
    for b in panel {
        let b = *b;
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: r < ROWS and the panel's rows are counted once each, so this is at most
            // `last`. Checked one by one, these reads would take half the time of the products.
            let a = unsafe { *a.data.get_unchecked(at + r * row_stride) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = madd::<_, FMA>(a, b, *sum);
            }
        }
        at += col_stride;
    }
    sums
}

impl<F: Real> MatMut<'_, F> {
    /// Writes or adds a block.
    #[inline(always)]
    fn put<const COLUMNS: usize>(
        &mut self,
        row: usize,
        column: usize,
        block: &Block<F, COLUMNS>,
        accumulate: bool,
    ) {
        for (r, sums) in block.iter().enumerate() {
            let start = (row + r) * self.stride + column;
            let out = &mut self.data[start..start + COLUMNS];
            if accumulate {
                for (out, &sum) in out.iter_mut().zip(sums) {
                    *out += sum;
                }
            } else {
                out.copy_from_slice(sums);
            }
        }
    }

    /// Writes or adds the last rows and the first columns of a block: those that come to lie at
    /// `rows` and `columns`.
    #[inline(never)]
    fn put_part<const COLUMNS: usize>(
        &mut self,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        block: Block<F, COLUMNS>,
        accumulate: bool,
    ) {
        for (row, sums) in rows.clone().zip(&block[ROWS - rows.len()..]) {
            let start = row * self.stride;
            let out = &mut self.data[start + columns.start..start + columns.end];
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out = if accumulate { *out + sum } else { sum };
            }
        }
    }
}
