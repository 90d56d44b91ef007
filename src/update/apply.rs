//! The rows of whole matrices and vectors, updated by gradients that are there.

use std::ops::Range;

use ndarray::{ArrayRef1, ArrayRef2, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, s};

use super::{Magnitudes, RowUpdate, UpdateStep, WeightUpdate};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::parallel::run_jobs;

job!(pub(super) UpdateWeights<'a, 'u: 'a>, Weights<'a, 'u, F> => Result<(), Error>, update_weights);
type Weights<'a, 'u, F> = (
    &'a mut (dyn WeightUpdate<F> + 'u),
    &'a mut ArrayRef2<F>,
    Option<&'a [usize]>,
    &'a ArrayRef2<F>,
);

/// Updates the rows `rows` of `w`, or all.
fn update_weights<F: Real>((update, w, rows, gradient): Weights<'_, '_, F>) -> Result<(), Error> {
    let (w, gradient) = (w.view_mut(), gradient.view());
    let selection = Selection::new(rows, w.nrows())?;
    let expected = [selection.len, w.ncols()];
    Error::check_shape("gradients of class weights", &expected, gradient.shape())?;
    let magnitudes = Magnitudes {
        gradient: magnitude("gradients of class weights", &gradient, 0..selection.len)?,
        value: magnitude("class weights", &w.view(), selection.rows())?,
    };
    let chunks = selection.chunks(w.ncols());
    let ranges: Vec<_> = chunks.iter().map(|chunk| selection.span(chunk)).collect();
    let step =
        UpdateStep { shape: w.dim(), chunks: &ranges, weights: Some(magnitudes), bias: None };
    let updaters = update.begin(&step)?;
    selection.run(chunks, w, updaters, |updater, row, place, weights| {
        updater.update_row(row, weights, gradient.row(place));
    });
    Ok(())
}

job!(pub(super) UpdateBias<'a, 'u: 'a>, Bias<'a, 'u, F> => Result<(), Error>, update_bias);
type Bias<'a, 'u, F> = (
    &'a mut (dyn WeightUpdate<F> + 'u),
    &'a mut ArrayRef1<F>,
    Option<&'a [usize]>,
    &'a ArrayRef1<F>,
);

/// Updates the entries `rows` of `b`, or all.
fn update_bias<F: Real>((update, b, rows, gradient): Bias<'_, '_, F>) -> Result<(), Error> {
    let (b, gradient) = (b.view_mut(), gradient.view());
    let selection = Selection::new(rows, b.len())?;
    Error::check_shape("gradients of bias", &[selection.len], gradient.shape())?;
    let (b, column) = (b.insert_axis(Axis(1)), gradient.insert_axis(Axis(1)));
    let magnitudes = Magnitudes {
        gradient: magnitude("gradients of bias", &column, 0..selection.len)?,
        value: magnitude("bias", &b.view(), selection.rows())?,
    };
    let chunks = selection.chunks(1);
    let ranges: Vec<_> = chunks.iter().map(|chunk| selection.span(chunk)).collect();
    let step =
        UpdateStep { shape: b.dim(), chunks: &ranges, weights: None, bias: Some(magnitudes) };
    let updaters = update.begin(&step)?;
    selection.run(chunks, b, updaters, |updater, row, place, mut bias| {
        updater.update_bias(row, &mut bias[0], gradient[place]);
    });
    Ok(())
}

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

/// The rows that take part: all, or those of a list.
#[derive(Clone, Copy)]
struct Selection<'a> {
    rows: Option<&'a [usize]>,
    len: usize,
}

impl<'a> Selection<'a> {
    /// How many numbers a thread takes at a time.
    const CHUNK: usize = 1 << 16;

    fn new(rows: Option<&'a [usize]>, all: usize) -> Result<Self, Error> {
        if let Some(rows) = rows {
            check_rows(rows, all)?;
        }
        Ok(Selection { rows, len: rows.map_or(all, <[usize]>::len) })
    }

    /// The row at a place of the gradient.
    fn row(&self, place: usize) -> usize {
        self.rows.map_or(place, |rows| rows[place])
    }

    fn rows(self) -> impl Iterator<Item = usize> + 'a {
        (0..self.len).map(move |place| self.row(place))
    }

    /// The places in chunks of whole rows of `dims` numbers.
    fn chunks(&self, dims: usize) -> Vec<Range<usize>> {
        let len = (Self::CHUNK / dims.max(1)).max(1);
        (0..self.len).step_by(len).map(|start| start..self.len.min(start + len)).collect()
    }

    /// The rows from the first to the last of a chunk of places, which is not empty.
    fn span(&self, chunk: &Range<usize>) -> Range<usize> {
        self.row(chunk.start)..self.row(chunk.end - 1) + 1
    }

    /// Calls `update` with updater, row, place and values for every row, on rayon's threads.
    fn run<F: Real>(
        &self,
        chunks: Vec<Range<usize>>,
        values: ArrayViewMut2<'_, F>,
        updaters: Vec<Box<dyn RowUpdate<F> + '_>>,
        update: impl Fn(&mut dyn RowUpdate<F>, usize, usize, ArrayViewMut1<'_, F>) + Sync,
    ) {
        let (mut rest, mut first) = (values, 0);
        let mut jobs = Vec::with_capacity(chunks.len());
        for (chunk, updater) in chunks.into_iter().zip(updaters) {
            let span = self.span(&chunk);
            let (_, from_start) = rest.split_at(Axis(0), span.start - first);
            let (own, others) = from_start.split_at(Axis(0), span.len());
            jobs.push((chunk, span.start, updater, own));
            (rest, first) = (others, span.end);
        }
        let workers = rayon::current_num_threads().min(jobs.len()).max(1);
        let jobs = jobs.into_iter();
        run_jobs(jobs, &mut vec![(); workers], |(), (chunk, start, mut updater, mut own)| {
            for place in chunk {
                let row = self.row(place);
                update(&mut *updater, row, place, own.slice_mut(s![row - start, ..]));
            }
        });
    }
}
