//! The steps of [`Sgd`](super::Sgd) and [`AdamW`](super::AdamW): checked, begun, and made row by
//! row.

use std::ops::Range;
use std::{mem, slice};

use ndarray::{ArrayView1, ArrayViewMut1};

use super::rules::{Entry, Rule};
use super::state::{RowState, Rows, State, larger};
use super::{Magnitudes, RowUpdate, UpdateStep};
use crate::data::{check_bound, contiguous};
use crate::error::Error;
use crate::kernel::{Real, job};

job!(
    /// [`WeightUpdate::check`](super::WeightUpdate::check). Returns the bounds of the state after the
    /// step, of class weights and bias.
    pub(super) fn check<'a, 's: 'a>(
        rule: Rule,
        state: &'a State<F>,
        step: &'a UpdateStep<'s>,
    ) -> Result<[Option<[f64; 2]>; 2], Error> {
        step.check::<F>()?;
        let (rows, dims) = step.shape;
        let held = state.rows().unwrap_or(rows);
        let State([weights, bias]) = state;
        if step.weights.is_some() {
            let expected = [held, weights.as_ref().map_or(dims, |state| state.dims)];
            Error::check_shape("class weights", &expected, &[rows, dims])?;
        }
        if step.bias.is_some() {
            Error::check_shape("bias", &[held], &[rows])?;
        }
        let of_weights = ["a class weight", "the state of the class weights"];
        let of_bias = ["the bias", "the state of the bias"];
        let after = |state, names, before: Option<Magnitudes>| {
            before.map(|before| bounds(rule, state, step.chunks, names, before)).transpose()
        };
        Ok([after(weights, of_weights, step.weights)?, after(bias, of_bias, step.bias)?])
    }
);

/// Bounds on the state of one matrix after a step; refuses a step after which a value or the state
/// may be too large.
fn bounds<F: Real>(
    rule: Rule,
    state: &Option<RowState<F>>,
    chunks: &[Range<usize>],
    [value_name, state_name]: [&'static str; 2],
    before: Magnitudes,
) -> Result<[f64; 2], Error> {
    let after = |held: [f64; 2]| {
        let (value, after) = rule.bounds(before, held);
        check_bound::<F>(value_name, None, value)?;
        after[..rule.moments()].iter().try_for_each(|&m| check_bound::<F>(state_name, None, m))?;
        Ok(after)
    };
    let Some(state) = state else { return after([0.0; 2]) };
    // Rows that are not updated keep what they have.
    if let Ok(after) = after(state.bounds) {
        return Ok(larger(after, state.bounds));
    }
    // The numbers may have become smaller than their bound, or the rows that hold large ones may
    // not be in this step.
    Ok(larger(after(state.largest(chunks))?, state.largest(slice::from_ref(&(0..state.rows())))))
}

type Updaters<'a, F> = Vec<Box<dyn RowUpdate<F> + 'a>>;

job!(
    /// [`WeightUpdate::begin`](super::WeightUpdate::begin).
    pub(super) fn begin<'a, 'b, 's: 'b>(
        rule: Rule,
        state: &'a mut State<F>,
        step: &'b UpdateStep<'s>,
    ) -> Result<Updaters<'a, F>, Error> {
        let after = check(rule, state, step)?;
        let dims = [step.shape.1, 1];
        // All that is new before any of it is kept: there may be no memory for it.
        let mut new = [None, None];
        for i in 0..2 {
            if rule.moments() > 0 && after[i].is_some() && state.0[i].is_none() {
                new[i] = Some(RowState::zeros(rule, step.shape.0, dims[i])?);
            }
        }
        let mut parts = [None, None];
        for (i, state) in state.0.iter_mut().enumerate() {
            let Some(after) = after[i] else { continue };
            *state = state.take().or(new[i].take());
            state.iter_mut().for_each(|state| state.bounds = after);
            parts[i] = Some(state.as_mut().map(Rows::of).unwrap_or_default());
        }
        let mut end = 0;
        let updaters = step.chunks.iter().map(|rows| {
            let skipped = rows.start - mem::replace(&mut end, rows.end);
            let parts = parts.each_mut().map(|part| {
                let rest = part.as_mut()?;
                rest.take(skipped);
                Some(rest.take(rows.len()))
            });
            let updater = Updater { rule, rows: rows.clone(), parts, latest: (0, rule.entry(0)) };
            Box::new(updater) as Box<dyn RowUpdate<F> + 'a>
        });
        Ok(updaters.collect())
    }
);

/// Updates the rows of one range.
struct Updater<'s, F> {
    rule: Rule,
    rows: Range<usize>,
    /// The state of class weights and bias, where the step has them.
    parts: [Option<Rows<'s, F>>; 2],
    /// The update at the step of the latest row: most rows have made as many.
    latest: (u64, Entry),
}

impl<F: Real> Updater<'_, F> {
    /// Updates a row of the class weights, part 0, or of the bias, part 1.
    fn update(&mut self, part: usize, row: usize, values: &mut [F], gradient: &[F]) {
        assert!(self.rows.contains(&row), "row {row} is not in {:?}", self.rows);
        let row = row - self.rows.start;
        let state = self.parts[part].as_mut().expect("the step has these parameters");
        let step = if self.rule.counts_steps() { state.count(row) } else { 0 };
        if self.latest.0 != step {
            self.latest = (step, self.rule.entry(step));
        }
        self.latest.1.update(values, gradient, state.moments(row));
    }
}

impl<F: Real> RowUpdate<F> for Updater<'_, F> {
    fn update_row(
        &mut self,
        row: usize,
        mut weights: ArrayViewMut1<'_, F>,
        gradient: ArrayView1<'_, F>,
    ) {
        let mut buffer = Vec::new();
        let gradient = contiguous(gradient, &mut buffer);
        if let Some(weights) = weights.as_slice_mut() {
            return self.update(0, row, weights, gradient);
        }
        let mut copy = weights.to_vec();
        self.update(0, row, &mut copy, gradient);
        weights.assign(&ArrayView1::from(&copy));
    }

    fn update_bias(&mut self, row: usize, bias: &mut F, gradient: F) {
        self.update(1, row, slice::from_mut(bias), &[gradient]);
    }
}
