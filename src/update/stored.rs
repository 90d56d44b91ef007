//! The state of an update as it is written, checked when it is read.

use ndarray::ArrayView1;

use super::apply::magnitude;
use super::state::{Counter, RowState, State};
use super::{AdamW, Sgd};
use crate::error::Error;
use crate::kernel::Real;

/// The momentum of one matrix.
pub(crate) type SgdState<F> = RowState<F, (), 1>;

/// Both moments of one matrix, and how often each row was updated.
pub(crate) type AdamWState<F> = RowState<F, u64, 2>;

impl<F: Real, T: Counter, const K: usize> RowState<F, T, K> {
    /// The state of `dims` entries in each of as many rows as there are counters; each moment has
    /// the name that an error gives it.
    pub fn new(
        dims: usize,
        counters: Vec<T>,
        moments: [(&'static str, Vec<F>); K],
    ) -> Result<Self, Error> {
        let rows = counters.len();
        Error::check_not_empty("row of the state", &[dims])?;
        let mut bounds = [0.0; K];
        for (bound, (argument, moments)) in bounds.iter_mut().zip(&moments) {
            if rows.checked_mul(dims) != Some(moments.len()) {
                let (expected, actual) = (vec![rows, dims], vec![moments.len()]);
                return Err(Error::Shape { argument, expected, actual });
            }
            let matrix = ArrayView1::from(&moments[..]).into_shape_with_order((rows, dims));
            let matrix = matrix.expect("the length has been checked");
            *bound = magnitude(argument, &matrix, 0..rows)?;
        }
        Ok(RowState { dims, counters, moments: moments.map(|(_, moments)| moments), bounds })
    }

    pub fn dims(&self) -> usize {
        self.dims
    }

    pub fn moments(&self) -> &[Vec<F>; K] {
        &self.moments
    }
}

impl<F: Real, T: Counter, const K: usize> State<F, T, K> {
    /// The states of class weights and bias, which must have as many rows.
    fn new(
        weights: Option<RowState<F, T, K>>,
        bias: Option<RowState<F, T, K>>,
    ) -> Result<Self, Error> {
        if let Some(bias) = &bias {
            let rows = weights.as_ref().map_or(bias.rows(), RowState::rows);
            Error::check_shape("state of the bias", &[rows, 1], &[bias.rows(), bias.dims])?;
        }
        Ok(State { weights, bias })
    }
}

impl<F: Real> Sgd<F> {
    /// The state of class weights and bias.
    pub(crate) fn state(&self) -> [Option<&SgdState<F>>; 2] {
        [self.state.weights.as_ref(), self.state.bias.as_ref()]
    }

    /// The same update with this state of class weights and bias, which is checked.
    pub(crate) fn with_state(
        mut self,
        weights: Option<SgdState<F>>,
        bias: Option<SgdState<F>>,
    ) -> Result<Self, Error> {
        let momentum = self.momentum();
        let valid = momentum > 0.0 || (weights.is_none() && bias.is_none());
        Error::check_parameter("momentum", momentum, "in (0, 1) where rows have one", valid)?;
        self.state = State::new(weights, bias)?;
        Ok(self)
    }
}

impl<F: Real> AdamW<F> {
    /// The state of class weights and bias.
    pub(crate) fn state(&self) -> [Option<&AdamWState<F>>; 2] {
        [self.state.weights.as_ref(), self.state.bias.as_ref()]
    }

    /// The same update with this state of class weights and bias, which is checked.
    pub(crate) fn with_state(
        mut self,
        weights: Option<AdamWState<F>>,
        bias: Option<AdamWState<F>>,
    ) -> Result<Self, Error> {
        for moments in [&weights, &bias].into_iter().flatten().map(|state| &state.moments()[1]) {
            let least = moments.iter().fold(0.0_f64, |least, v| least.min(v.widen()));
            Error::check_parameter("second moment", least, ">= 0", least >= 0.0)?;
        }
        self.state = State::new(weights, bias)?;
        Ok(self)
    }
}
