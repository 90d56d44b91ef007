//! The rows of whole matrices and vectors, updated by gradients that are there.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::{Magnitudes, RowUpdate, UpdateStep, check_entries};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::parallel::run_jobs;

/// How many numbers a thread takes at a time.
const CHUNK: usize = 1 << 16;

/// Begins the step of an update. A reference to the update itself would be one to a trait object,
/// which an update without a known size cannot become.
pub(super) type Begin<'a, F> = dyn FnOnce(&UpdateStep<'_>) -> Result<Updaters<'a, F>, Error> + 'a;
type Updaters<'a, F> = Vec<Box<dyn RowUpdate<F> + 'a>>;

/// Rows of class weights, or of a bias as a column, and their gradient.
pub(super) struct Input<'a, F> {
    pub begin: Box<Begin<'a, F>>,
    pub is_bias: bool,
    pub values: ArrayViewMut2<'a, F>,
    pub rows: &'a [usize],
    pub gradient: ArrayView2<'a, F>,
}

job!(
    pub(super) fn apply<'a>(input: Input<'a, F>) -> Result<(), Error> {
        let Input { begin, is_bias, values, rows, gradient } = input;
        let (argument, of_gradient, axes) = match is_bias {
            true => ("bias", "gradients of bias", 1),
            false => ("class weights", "gradients of class weights", 2),
        };
        let shape = values.dim();
        check_entries(shape)?;
        check_rows(rows, shape.0)?;
        let expected = [rows.len(), shape.1];
        Error::check_shape(of_gradient, &expected[..axes], &gradient.shape()[..axes])?;
        let magnitudes = Some(Magnitudes {
            gradient: magnitude(of_gradient, &gradient, 0..rows.len())?,
            value: magnitude(argument, &values.view(), rows.iter().copied())?,
        });
        let len = (CHUNK / shape.1).max(1);
        // From the first row of a chunk to its last.
        let spans = rows.chunks(len).map(|rows| rows[0]..rows[rows.len() - 1] + 1);
        let spans = &spans.collect::<Vec<_>>();
        let (weights, bias) = if is_bias { (None, magnitudes) } else { (magnitudes, None) };
        let updaters = begin(&UpdateStep { shape, chunks: spans, weights, bias })?;

        let (mut rest, mut first, mut jobs) = (values, 0, Vec::with_capacity(spans.len()));
        let chunks = rows.chunks(len).zip(gradient.axis_chunks_iter(Axis(0), len));
        for ((chunk, span), updater) in chunks.zip(spans).zip(updaters) {
            let (_, from_start) = rest.split_at(Axis(0), span.start - first);
            let (values, others) = from_start.split_at(Axis(0), span.len());
            jobs.push((chunk, span.start, values, updater));
            (rest, first) = (others, span.end);
        }
        let workers = rayon::current_num_threads().min(jobs.len()).max(1);
        let jobs = jobs.into_iter();
        run_jobs(jobs, &mut vec![(); workers], |(), (chunk, start, mut values, mut updater)| {
            let (rows, gradient) = chunk;
            for (&row, gradient) in rows.iter().zip(gradient.rows()) {
                let mut values = values.row_mut(row - start);
                match is_bias {
                    true => updater.update_bias(row, &mut values[0], gradient[0]),
                    false => updater.update_row(row, values, gradient),
                }
            }
        });
        Ok(())
    }
);

/// The largest magnitude in the `rows` of `matrix`, which holds finite numbers only.
pub(super) fn magnitude<F: Real>(
    argument: &'static str,
    matrix: &ArrayView2<'_, F>,
    rows: impl Iterator<Item = usize>,
) -> Result<f64, Error> {
    let mut largest = F::zero();
    for row in rows {
        let values = matrix.row(row);
        if !values.fold(true, |finite, v| finite & v.is_finite()) {
            let column = values.iter().position(|v| !v.is_finite()).unwrap_or_default();
            let value = values[column].widen();
            return Err(Error::NonFinite { argument, row, column, value });
        }
        largest = values.fold(largest, |largest, v| largest.max(v.abs()));
    }
    Ok(largest.widen())
}

/// Refuses row numbers that do not ascend or are too high.
fn check_rows(selected: &[usize], rows: usize) -> Result<(), Error> {
    let mut least = 0;
    for (position, &row) in selected.iter().enumerate() {
        if row < least || row >= rows {
            return Err(Error::Rows { argument: "rows", position, row, rows });
        }
        least = row + 1;
    }
    Ok(())
}
