//! What an update remembers of each row: numbers for every entry, and how often it was updated.

use std::fmt::{self, Debug};
use std::ops::Range;

use ndarray::ArrayView2;

use super::rules::Rule;
use crate::error::Error;
use crate::kernel::Real;
use crate::parallel::split_off;

/// The state of class weights and of a bias; none before their first step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct State<F>(pub [Option<RowState<F>>; 2]);

/// The state of one matrix, or of a bias as a column.
#[derive(Clone)]
pub(super) struct RowState<F> {
    pub dims: usize,
    /// How often each row was updated; 0 under a rule that does not depend on it.
    pub steps: Vec<u64>,
    /// Each moment row after row.
    pub moments: Vec<Vec<F>>,
    /// No moment exceeds these in magnitude. They follow what grows; what shrinks, only when a step
    /// would be refused: reading the state at every step would cost as much as the step.
    pub bounds: [f64; 2],
}

impl<F: Real> State<F> {
    pub const NONE: Self = State([None, None]);

    pub fn weights(&self) -> Option<&RowState<F>> {
        self.0[0].as_ref()
    }

    pub fn rows(&self) -> Option<usize> {
        self.0.iter().flatten().map(RowState::rows).next()
    }

    /// Adds rows of zeros; where there is no memory for them, nothing has changed.
    pub fn extend(&mut self, rows: usize) -> Result<(), Error> {
        self.0.iter_mut().flatten().try_for_each(|state| state.reserve(rows))?;
        self.0.iter_mut().flatten().for_each(|state| state.extend(rows));
        Ok(())
    }

    /// The state of a range of rows.
    pub fn cut(&self, range: Range<usize>) -> Result<Self, Error> {
        Error::check_range("range end of the rows", &range)?;
        if let Some(rows) = self.rows()
            && range.end > rows
        {
            return Err(Error::Rows { argument: "range", position: 1, row: range.end - 1, rows });
        }
        let cut = |state: &RowState<F>| RowState {
            steps: state.steps[range.clone()].to_vec(),
            moments: state.moments.iter().map(|m| m[state.entries(&range)].to_vec()).collect(),
            ..*state
        };
        Ok(State(self.0.each_ref().map(|state| state.as_ref().map(cut))))
    }

    /// The states of all parts, one after the other.
    pub fn join<'a>(mut parts: impl Iterator<Item = &'a Self>) -> Result<Self, Error> {
        let mut all = parts.next().cloned().unwrap_or(State::NONE);
        for part in parts {
            let ([weights, bias], [part_weights, part_bias]) = (&mut all.0, &part.0);
            append(weights, part_weights, "weights' state of the parts")?;
            append(bias, part_bias, "bias' state of the parts")?;
        }
        Ok(all)
    }
}

/// Appends the rows of `part`, which has a state if and only if `all` has one.
fn append<F: Real>(
    all: &mut Option<RowState<F>>,
    part: &Option<RowState<F>>,
    argument: &'static str,
) -> Result<(), Error> {
    let (Some(all), Some(part)) = (&mut *all, part) else {
        // Of a part that has made no step, the number of rows is unknown.
        let [all, part] = [all, part].map(|state| state.as_ref().map(|s| [s.rows(), s.dims]));
        return Error::check_shape(
            argument,
            all.as_slice().as_flattened(),
            part.as_slice().as_flattened(),
        );
    };
    Error::check_shape(argument, &[part.rows(), all.dims], &[part.rows(), part.dims])?;
    all.steps.extend_from_slice(&part.steps);
    for (all, part) in all.moments.iter_mut().zip(&part.moments) {
        all.extend_from_slice(part);
    }
    all.bounds = larger(all.bounds, part.bounds);
    Ok(())
}

pub(super) fn larger(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0].max(b[0]), a[1].max(b[1])]
}

impl<F: Real> RowState<F> {
    /// The most steps that are counted: `f64`, in which they are used, has every integer up to
    /// here, and no training comes near.
    pub const MOST_STEPS: u64 = 1 << 53;

    pub fn zeros(rule: Rule, rows: usize, dims: usize) -> Result<Self, Error> {
        let moments = vec![Vec::new(); rule.moments()];
        let mut state = RowState { dims, steps: Vec::new(), moments, bounds: [0.0; 2] };
        state.reserve(rows)?;
        state.extend(rows);
        Ok(state)
    }

    pub fn rows(&self) -> usize {
        self.steps.len()
    }

    /// Finds the memory for more rows.
    fn reserve(&mut self, rows: usize) -> Result<(), Error> {
        let all = self.rows().checked_add(rows).and_then(|all| all.checked_mul(self.dims));
        let valid = all.is_some()
            && self.moments.iter_mut().all(|m| m.try_reserve(rows * self.dims).is_ok())
            && self.steps.try_reserve(rows).is_ok();
        let expected = "so small that their state fits into memory";
        Error::check_parameter("number of new rows", rows as f64, expected, valid).map(drop)
    }

    /// Adds rows of zeros, for which there is memory.
    fn extend(&mut self, rows: usize) {
        self.steps.resize(self.rows() + rows, 0);
        let entries = self.rows() * self.dims;
        self.moments.iter_mut().for_each(|moments| moments.resize(entries, F::zero()));
    }

    /// Where the entries of some rows are in a moment.
    fn entries(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.dims..rows.end * self.dims
    }

    /// One moment of every weight (C, D).
    pub fn moment(&self, k: usize) -> ArrayView2<'_, F> {
        let shape = (self.rows(), self.dims);
        ArrayView2::from_shape(shape, &self.moments[k]).expect("moments fill their shape")
    }

    /// The largest magnitudes of the moments in these rows.
    pub fn largest(&self, rows: &[Range<usize>]) -> [f64; 2] {
        let mut largest = [0.0; 2];
        for (largest, moments) in largest.iter_mut().zip(&self.moments) {
            let entries = rows.iter().flat_map(|rows| &moments[self.entries(rows)]);
            *largest = entries.fold(F::zero(), |largest, v| largest.max(v.abs())).widen();
        }
        largest
    }
}

/// Only the shape: a state may have billions of numbers.
impl<F> Debug for RowState<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = [self.steps.len(), self.dims];
        f.debug_struct("RowState").field("shape", &shape).finish_non_exhaustive()
    }
}

/// The bounds are not part of the state: they depend on how it came about.
impl<F: PartialEq> PartialEq for RowState<F> {
    fn eq(&self, other: &Self) -> bool {
        (self.dims, &self.steps, &self.moments) == (other.dims, &other.steps, &other.moments)
    }
}

/// The state of some rows, borrowed; empty where the rule has none.
#[derive(Default)]
pub(super) struct Rows<'s, F> {
    dims: usize,
    steps: &'s mut [u64],
    moments: Vec<&'s mut [F]>,
}

impl<'s, F: Real> Rows<'s, F> {
    pub fn of(state: &'s mut RowState<F>) -> Self {
        let moments = state.moments.iter_mut().map(|moments| &mut moments[..]).collect();
        Rows { dims: state.dims, steps: &mut state.steps, moments }
    }

    /// Takes the next rows off.
    pub fn take(&mut self, rows: usize) -> Self {
        let (dims, entries) = (self.dims, rows * self.dims);
        let moments = self.moments.iter_mut().map(|moments| split_off(moments, entries)).collect();
        Rows { dims, steps: split_off(&mut self.steps, rows), moments }
    }

    /// Counts an update of a row and returns how many there were.
    pub fn count(&mut self, row: usize) -> u64 {
        self.steps[row] = (self.steps[row] + 1).min(RowState::<F>::MOST_STEPS);
        self.steps[row]
    }

    /// The moments of a row.
    pub fn moments(&mut self, row: usize) -> impl Iterator<Item = &mut [F]> {
        let entries = row * self.dims..(row + 1) * self.dims;
        self.moments.iter_mut().map(move |moments| &mut moments[entries.clone()])
    }
}
