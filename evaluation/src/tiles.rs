//! The cosines of rows with columns, tile by tile.
//!
//! A job is a stripe of rows. Its cosines with a block of columns are one matrix product into the
//! worker's buffer. The tiles do not depend on the number of threads, and so neither do the cosines.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use crate::real::Real;

/// Rows per job.
pub(crate) const ROWS: usize = 256;
/// Columns per product: with the rows, 512 KiB of cosines in f32.
pub(crate) const COLUMNS: usize = 512;

/// The columns `start..n` in blocks.
pub(crate) fn blocks(start: usize, n: usize) -> impl Iterator<Item = Range<usize>> {
    (start..n).step_by(COLUMNS).map(move |start| start..n.min(start + COLUMNS))
}

/// The part of the columns that is in the block, as columns of its tile.
pub(crate) fn overlap(columns: &Range<usize>, block: &Range<usize>) -> Range<usize> {
    let within = |column: usize| column.clamp(block.start, block.end) - block.start;
    within(columns.start)..within(columns.end)
}

/// Hands the jobs `0..jobs` out in ascending order, one at a time to each worker.
pub(crate) fn run_jobs<W: Send>(
    jobs: usize,
    workers: &mut [W],
    run: impl Fn(&mut W, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    workers.par_iter_mut().with_max_len(1).for_each(|worker| {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                break;
            }
            run(worker, job);
        }
    });
}

/// One value per thread of the current pool.
pub(crate) fn workers<W>(new: impl Fn() -> W) -> Vec<W> {
    (0..rayon::current_num_threads()).map(|_| new()).collect()
}

/// The cosines of the `rows` of one matrix with the `columns`, rows of another, clamped to [−1, 1].
pub(crate) fn cosines<'a, F: Real>(
    (a, rows): (ArrayView2<'_, F>, Range<usize>),
    (b, columns): (ArrayView2<'_, F>, Range<usize>),
    buffer: &'a mut Array2<F>,
) -> ArrayView2<'a, F> {
    let shape = (rows.len(), columns.len());
    if buffer.dim() != shape {
        *buffer = Array2::zeros(shape);
    }
    let (a, b) = (a.slice_axis(Axis(0), rows.into()), b.slice_axis(Axis(0), columns.into()));
    general_mat_mul(F::one(), &a, &b.t(), F::zero(), buffer);
    buffer.mapv_inplace(|cosine| cosine.max(-F::one()).min(F::one()));
    buffer.view()
}

/// Visits the cosines of every pair of rows once: those of row i with the columns
/// `first..first + cosines.len()`, all beyond i.
pub(crate) fn upper_triangle<F: Real, W: Send>(
    x: ArrayView2<'_, F>,
    workers: &mut [W],
    visit: impl Fn(&mut W, usize, usize, &[F]) + Sync,
) {
    let n = x.nrows();
    let mut workers: Vec<_> =
        workers.iter_mut().map(|worker| (worker, Array2::zeros((0, 0)))).collect();
    run_jobs(n.div_ceil(ROWS), &mut workers, |(worker, buffer), job| {
        let rows = job * ROWS..n.min((job + 1) * ROWS);
        for columns in blocks(rows.start, n) {
            let tile = cosines((x, rows.clone()), (x, columns.clone()), buffer);
            for (row, cosines) in rows.clone().zip(tile.rows()) {
                let first = (row + 1).clamp(columns.start, columns.end);
                let cosines = cosines.to_slice().unwrap_or_default();
                visit(worker, row, first, &cosines[first - columns.start..]);
            }
        }
    });
}
