//! What an update remembers: numbers for every weight, and a counter for every row.

use std::fmt::{self, Debug};
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1};

use super::{Magnitudes, RowUpdate, UpdateStep, check_bound};
use crate::data::contiguous;
use crate::error::Error;
use crate::kernel::{self, Level, Real, UpdateEntry};
use crate::parallel::split_off;

/// An update with K numbers of state per weight, and a counter T per row.
pub(super) trait Rule<T, const K: usize>: Copy + Send + Sync {
    type Entry: UpdateEntry<K> + Send;

    /// The update of the entries of a row that is updated for the `counter`-th time.
    fn entry(&self, counter: T) -> Self::Entry;

    /// Bounds on value and state after an update, from those before.
    fn bounds(&self, before: Magnitudes, state: [f64; K]) -> (f64, [f64; K]);
}

/// How often a row was updated, for the rules that depend on it.
pub(crate) trait Counter: Copy + Default + PartialEq + Send + Sync + 'static {
    fn advance(&mut self);
}

impl Counter for () {
    fn advance(&mut self) {}
}

impl Counter for u64 {
    fn advance(&mut self) {
        *self += 1;
    }
}

/// The state of class weights and bias; none before their first step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State<F, T, const K: usize> {
    pub weights: Option<RowState<F, T, K>>,
    pub bias: Option<RowState<F, T, K>>,
}

/// The state of one matrix.
#[derive(Clone)]
pub(crate) struct RowState<F, T, const K: usize> {
    pub(super) dims: usize,
    /// One for each row.
    pub(super) counters: Vec<T>,
    /// Row after row.
    pub(super) moments: [Vec<F>; K],
    /// No moment exceeds these in magnitude.
    pub(super) bounds: [f64; K],
}

impl<F: Real, T: Counter, const K: usize> State<F, T, K> {
    pub const NONE: Self = State { weights: None, bias: None };

    fn rows(&self) -> Option<usize> {
        self.weights.as_ref().or(self.bias.as_ref()).map(RowState::rows)
    }

    /// Checks a step: [`WeightUpdate::check`](super::WeightUpdate::check). Returns the bounds of the
    /// state after it, of class weights and bias.
    pub fn check<R: Rule<T, K>>(
        &self,
        rule: R,
        step: &UpdateStep<'_>,
    ) -> Result<[Option<[f64; K]>; 2], Error> {
        step.check()?;
        let ((rows, dims), held) = (step.shape, self.rows());
        if step.weights.is_some() {
            let dims_held = self.weights.as_ref().map_or(dims, |state| state.dims);
            let expected = [held.unwrap_or(rows), dims_held];
            Error::check_shape("class weights", &expected, &[rows, dims])?;
        }
        if step.bias.is_some() {
            Error::check_shape("bias", &[held.unwrap_or(rows)], &[rows])?;
        }
        let weight_bounds = step
            .weights
            .map(|before| check_bounds::<F, T, _, K>(rule, NAMES[0], before, &self.weights));
        let bias_bounds =
            step.bias.map(|before| check_bounds::<F, T, _, K>(rule, NAMES[1], before, &self.bias));
        Ok([weight_bounds.transpose()?, bias_bounds.transpose()?])
    }

    /// Begins a step: [`WeightUpdate::begin`](super::WeightUpdate::begin).
    pub fn begin<'s, R: Rule<T, K> + 's>(
        &'s mut self,
        rule: R,
        step: &UpdateStep<'_>,
    ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error> {
        let [weight_bounds, bias_bounds] = self.check(rule, step)?;
        let (rows, dims) = step.shape;
        let mut weights = weight_bounds.map(|bounds| {
            let state = self.weights.get_or_insert_with(|| RowState::zeros(rows, dims));
            state.bounds = bounds;
            state.split(step.chunks)
        });
        let mut bias = bias_bounds.map(|bounds| {
            let state = self.bias.get_or_insert_with(|| RowState::zeros(rows, 1));
            state.bounds = bounds;
            state.split(step.chunks)
        });
        let updaters = step.chunks.iter().map(|_| {
            let weights = weights.as_mut().and_then(Iterator::next);
            let bias = bias.as_mut().and_then(Iterator::next);
            let updater = Updater { rule, weights, bias, buffers: [Vec::new(), Vec::new()] };
            Box::new(updater) as Box<dyn RowUpdate<F> + 's>
        });
        Ok(updaters.collect())
    }

    /// Adds rows without a past.
    pub fn extend(&mut self, rows: usize) {
        for state in [&mut self.weights, &mut self.bias].into_iter().flatten() {
            let all = state.rows() + rows;
            state.counters.resize(all, T::default());
            state
                .moments
                .iter_mut()
                .for_each(|moments| moments.resize(all * state.dims, F::zero()));
        }
    }

    /// The state of a range of rows.
    pub fn cut(&self, range: Range<usize>) -> Result<Self, Error> {
        Error::check_range("range end of the rows", &range)?;
        if let Some(rows) = self.rows()
            && range.end > rows
        {
            return Err(Error::Rows { argument: "range", position: 1, row: range.end - 1, rows });
        }
        let part = |state: &RowState<F, T, K>| RowState {
            dims: state.dims,
            counters: state.counters[range.clone()].to_vec(),
            moments: state
                .moments
                .each_ref()
                .map(|moments| moments[range.start * state.dims..range.end * state.dims].to_vec()),
            bounds: state.bounds,
        };
        Ok(State { weights: self.weights.as_ref().map(part), bias: self.bias.as_ref().map(part) })
    }

    /// The states of all parts, one after the other.
    pub fn join<'a>(mut parts: impl Iterator<Item = &'a Self>) -> Result<Self, Error> {
        let mut all = parts.next().cloned().unwrap_or(State::NONE);
        for part in parts {
            append(&mut all.weights, part.weights.as_ref(), "weights' state of the parts")?;
            append(&mut all.bias, part.bias.as_ref(), "bias' state of the parts")?;
        }
        Ok(all)
    }
}

/// What may overflow: values and state of class weights and of a bias.
const NAMES: [[&str; 2]; 2] =
    [["a class weight", "the state of the class weights"], ["the bias", "the state of the bias"]];

/// The bounds of the state after a step; refuses a step after which a value or the state may be too
/// large.
fn check_bounds<F: Real, T: Counter, R: Rule<T, K>, const K: usize>(
    rule: R,
    [value_name, state_name]: [&'static str; 2],
    before: Magnitudes,
    state: &Option<RowState<F, T, K>>,
) -> Result<[f64; K], Error> {
    let held = state.as_ref().map_or([0.0; K], |state| state.bounds);
    let (value, mut after) = rule.bounds(before, held);
    check_bound::<F>(value_name, value)?;
    for (after, held) in after.iter_mut().zip(held) {
        check_bound::<F>(state_name, *after)?;
        // Rows that take no part keep what they have.
        *after = after.max(held);
    }
    Ok(after)
}

/// Appends the rows of `part`, which has a state if and only if `all` has one.
fn append<F: Real, T: Counter, const K: usize>(
    all: &mut Option<RowState<F, T, K>>,
    part: Option<&RowState<F, T, K>>,
    argument: &'static str,
) -> Result<(), Error> {
    let shape = |state: Option<&RowState<F, T, K>>| match state {
        Some(state) => vec![state.rows(), state.dims],
        None => vec![],
    };
    let (Some(all), Some(part)) = (&mut *all, part) else {
        // Of a part that has made no step, the number of rows is unknown.
        return Error::check_shape(argument, &shape(all.as_ref()), &shape(part));
    };
    Error::check_shape(argument, &[part.rows(), all.dims], &[part.rows(), part.dims])?;
    all.counters.extend_from_slice(&part.counters);
    for (all, part) in all.moments.iter_mut().zip(&part.moments) {
        all.extend_from_slice(part);
    }
    for (all, part) in all.bounds.iter_mut().zip(part.bounds) {
        *all = all.max(part);
    }
    Ok(())
}

impl<F: Real, T: Counter, const K: usize> RowState<F, T, K> {
    fn zeros(rows: usize, dims: usize) -> Self {
        RowState {
            dims,
            counters: vec![T::default(); rows],
            moments: [(); K].map(|()| vec![F::zero(); rows * dims]),
            bounds: [0.0; K],
        }
    }

    pub fn rows(&self) -> usize {
        self.counters.len()
    }

    /// One moment of every weight (C, D).
    pub fn moment(&self, k: usize) -> ArrayView2<'_, F> {
        let column = ArrayView1::from(&self.moments[k][..]);
        column.into_shape_with_order((self.rows(), self.dims)).expect("moments fill their shape")
    }

    /// The counters of all rows.
    pub fn counters(&self) -> &[T] {
        &self.counters
    }

    /// The state of each range; the ranges are disjoint and ascend.
    fn split<'s, 'r, E>(
        &'s mut self,
        ranges: &'r [Range<usize>],
    ) -> impl Iterator<Item = Rows<'s, F, T, E, K>> + use<'s, 'r, F, T, E, K> {
        let dims = self.dims;
        let mut counters = &mut self.counters[..];
        let mut moments = self.moments.each_mut().map(|moments| &mut moments[..]);
        let mut end = 0;
        ranges.iter().map(move |range| {
            let (skipped, len) = (range.start - end, range.len());
            end = range.end;
            split_off(&mut counters, skipped);
            let counters = split_off(&mut counters, len);
            let moments = moments.each_mut().map(|rest| {
                split_off(rest, skipped * dims);
                split_off(rest, len * dims)
            });
            Rows { first: range.start, dims, counters, moments, latest: None }
        })
    }
}

/// Only the shape: a state may have billions of numbers.
impl<F, T, const K: usize> Debug for RowState<F, T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = [self.counters.len(), self.dims];
        f.debug_struct("RowState").field("shape", &shape).finish_non_exhaustive()
    }
}

/// The bounds are not part of the state: they depend on how it came about.
impl<F: PartialEq, T: PartialEq, const K: usize> PartialEq for RowState<F, T, K> {
    fn eq(&self, other: &Self) -> bool {
        (self.dims, &self.counters, &self.moments) == (other.dims, &other.counters, &other.moments)
    }
}

/// The state of a range of rows, borrowed.
struct Rows<'s, F, T, E, const K: usize> {
    first: usize,
    dims: usize,
    counters: &'s mut [T],
    moments: [&'s mut [F]; K],
    /// The entry update of the latest row: most rows have the same counter.
    latest: Option<(T, E)>,
}

impl<F: Real, T: Counter, E: UpdateEntry<K>, const K: usize> Rows<'_, F, T, E, K> {
    fn update<R: Rule<T, K, Entry = E>>(
        &mut self,
        rule: &R,
        row: usize,
        values: &mut [F],
        gradient: &[F],
    ) {
        let row = row - self.first;
        let counter = &mut self.counters[row];
        counter.advance();
        let entry = match self.latest {
            Some((latest, entry)) if latest == *counter => entry,
            _ => rule.entry(*counter),
        };
        self.latest = Some((*counter, entry));
        let range = row * self.dims..(row + 1) * self.dims;
        let state = self.moments.each_mut().map(|moments| &mut moments[range.clone()]);
        kernel::update_row(Level::detect(), entry, values, gradient, state);
    }
}

/// Updates the rows of one range.
struct Updater<'s, F, T, R: Rule<T, K>, const K: usize> {
    rule: R,
    weights: Option<Rows<'s, F, T, R::Entry, K>>,
    bias: Option<Rows<'s, F, T, R::Entry, K>>,
    /// Copies of values and gradient, where these do not lie in one piece.
    buffers: [Vec<F>; 2],
}

impl<F: Real, T: Counter, R: Rule<T, K>, const K: usize> RowUpdate<F> for Updater<'_, F, T, R, K> {
    fn update_row(
        &mut self,
        row: usize,
        weights: ArrayViewMut1<'_, F>,
        gradient: ArrayView1<'_, F>,
    ) {
        let state = self.weights.as_mut().expect("the step has class weights");
        in_one_piece(weights, gradient, &mut self.buffers, |weights, gradient| {
            state.update(&self.rule, row, weights, gradient);
        });
    }

    fn update_bias(&mut self, row: usize, bias: &mut F, gradient: F) {
        let state = self.bias.as_mut().expect("the step has a bias");
        state.update(&self.rule, row, std::slice::from_mut(bias), &[gradient]);
    }
}

/// Calls `update` with values and gradient as slices.
pub(super) fn in_one_piece<F: Real>(
    mut values: ArrayViewMut1<'_, F>,
    gradient: ArrayView1<'_, F>,
    [value_buffer, gradient_buffer]: &mut [Vec<F>; 2],
    update: impl FnOnce(&mut [F], &[F]),
) {
    let gradient = contiguous(gradient, gradient_buffer);
    if let Some(values) = values.as_slice_mut() {
        return update(values, gradient);
    }
    value_buffer.clear();
    value_buffer.extend(values.iter());
    update(value_buffer, gradient);
    values.iter_mut().zip(value_buffer).for_each(|(value, &mut new)| *value = new);
}
