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
pub(crate) struct RowState<F> {
    pub rows: usize,
    pub dims: usize,
    /// How often each row was updated, for the rules that depend on it.
    pub steps: Option<Vec<u64>>,
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
        self.0.iter().flatten().map(|state| state.rows).next()
    }

    /// Adds rows of zeros; where there is no memory for them, nothing has changed.
    pub fn extend(&mut self, rows: usize) -> Result<(), Error> {
        for state in self.0.iter_mut().flatten() {
            state.reserve(rows)?;
        }
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
            rows: range.len(),
            steps: state.steps.as_ref().map(|steps| steps[range.clone()].to_vec()),
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
        let [all, part] = [all, part].map(|state| state.as_ref().map(|s| [s.rows, s.dims]));
        return Error::check_shape(
            argument,
            all.as_slice().as_flattened(),
            part.as_slice().as_flattened(),
        );
    };
    Error::check_shape(argument, &[part.rows, all.dims], &[part.rows, part.dims])?;
    all.rows += part.rows;
    for (all, part) in all.steps.iter_mut().zip(&part.steps) {
        all.extend_from_slice(part);
    }
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

    pub(super) fn zeros(rule: Rule, rows: usize, dims: usize) -> Result<Self, Error> {
        let steps = rule.counts_steps().then(Vec::new);
        let moments = vec![Vec::new(); rule.moments()];
        let mut state = RowState { rows: 0, dims, steps, moments, bounds: [0.0; 2] };
        state.reserve(rows)?;
        state.extend(rows);
        Ok(state)
    }

    /// Finds the memory for more rows.
    fn reserve(&mut self, rows: usize) -> Result<(), Error> {
        let refused = Error::Parameter {
            parameter: "number of new rows",
            value: rows as f64,
            expected: "so small that their state fits into memory",
        };
        let all = self.rows.checked_add(rows).and_then(|all| all.checked_mul(self.dims));
        let (Some(_), Some(entries)) = (all, rows.checked_mul(self.dims)) else {
            return Err(refused);
        };
        let mut results = Vec::new();
        results.extend(self.steps.iter_mut().map(|steps| steps.try_reserve(rows)));
        results.extend(self.moments.iter_mut().map(|moments| moments.try_reserve(entries)));
        results.into_iter().collect::<Result<(), _>>().map_err(|_| refused)
    }

    /// Adds rows of zeros, for which there is memory.
    fn extend(&mut self, rows: usize) {
        self.rows += rows;
        self.steps.iter_mut().for_each(|steps| steps.resize(self.rows, 0));
        let entries = self.rows * self.dims;
        self.moments.iter_mut().for_each(|moments| moments.resize(entries, F::zero()));
    }

    /// Where the entries of some rows are in a moment.
    fn entries(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.dims..rows.end * self.dims
    }

    /// One moment of every weight (C, D).
    pub fn moment(&self, k: usize) -> ArrayView2<'_, F> {
        let shape = (self.rows, self.dims);
        ArrayView2::from_shape(shape, &self.moments[k]).expect("moments fill their shape")
    }

    /// The largest magnitudes of the moments in these rows.
    pub(super) fn largest(&self, rows: &[Range<usize>]) -> [f64; 2] {
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
        f.debug_struct("RowState").field("shape", &[self.rows, self.dims]).finish_non_exhaustive()
    }
}

/// The bounds are not part of the state: they depend on how it came about.
impl<F: PartialEq> PartialEq for RowState<F> {
    fn eq(&self, other: &Self) -> bool {
        (self.rows, self.dims, &self.steps, &self.moments)
            == (other.rows, other.dims, &other.steps, &other.moments)
    }
}

/// The state of a range of rows, borrowed; empty where the rule has none.
pub(super) struct Rows<'s, F> {
    dims: usize,
    steps: Option<&'s mut [u64]>,
    moments: Vec<&'s mut [F]>,
}

impl<'s, F: Real> Rows<'s, F> {
    /// The state of each chunk of rows of `dims` entries.
    pub fn split(
        state: &'s mut Option<RowState<F>>,
        dims: usize,
        chunks: &[Range<usize>],
    ) -> impl Iterator<Item = Self> + use<'s, F> {
        let (mut steps, mut moments) = match state {
            Some(state) => {
                (state.steps.as_deref_mut(), state.moments.iter_mut().map(|m| &mut m[..]).collect())
            }
            None => (None, Vec::new()),
        };
        let mut end = 0;
        let parts = chunks.iter().map(|chunk| {
            let (skipped, len) = (chunk.start - end, chunk.len());
            end = chunk.end;
            let steps = steps.as_mut().map(|rest| take(rest, skipped, len));
            let moments = moments.iter_mut().map(|rest| take(rest, skipped * dims, len * dims));
            Rows { dims, steps, moments: moments.collect() }
        });
        parts.collect::<Vec<_>>().into_iter()
    }

    /// Counts an update of a row and returns how many there were; 0 where they are not counted.
    pub fn count(&mut self, row: usize) -> u64 {
        let Some(steps) = &mut self.steps else { return 0 };
        steps[row] = (steps[row] + 1).min(RowState::<F>::MOST_STEPS);
        steps[row]
    }

    /// The moments of a row.
    pub fn moments(&mut self, row: usize) -> impl Iterator<Item = &mut [F]> {
        let entries = row * self.dims..(row + 1) * self.dims;
        self.moments.iter_mut().map(move |moments| &mut moments[entries.clone()])
    }
}

/// Takes `len` entries off `rest`, after `skipped` others.
fn take<'s, T>(rest: &mut &'s mut [T], skipped: usize, len: usize) -> &'s mut [T] {
    split_off(rest, skipped);
    split_off(rest, len)
}
