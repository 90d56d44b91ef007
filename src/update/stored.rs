//! The state of an update as it is read: checked as if a stranger had written it.

use ndarray::ArrayView1;

use super::apply::magnitude;
use super::rules::Rule;
use super::state::{RowState, State};
use crate::error::Error;
use crate::kernel::Real;

impl<F: Real> RowState<F> {
    /// The state of one matrix, with a name for each of its moments, the second of which is a square;
    /// refuses counts that no row reaches, and moments that do not fill the shape or are not finite.
    pub fn stored(
        (rows, dims): (usize, usize),
        steps: Option<Vec<u64>>,
        moments: Vec<(&'static str, Vec<F>)>,
    ) -> Result<Self, Error> {
        let most = steps.iter().flatten().copied().max().unwrap_or_default();
        let valid = most <= Self::MOST_STEPS;
        Error::check_parameter("number of steps of a row", most as f64, "at most 2^53", valid)?;
        for (_, second) in moments.iter().skip(1) {
            let least = second.iter().fold(0.0_f64, |least, v| least.min(v.widen()));
            Error::check_parameter("second moment", least, ">= 0", least >= 0.0)?;
        }
        Error::check_not_empty("row of the state", &[dims])?;
        let mut bounds = [0.0; 2];
        for ((argument, moments), bound) in moments.iter().zip(&mut bounds) {
            // ndarray also refuses a shape whose size overflows.
            let matrix = ArrayView1::from(moments).into_shape_with_order((rows, dims));
            let matrix = matrix.map_err(|_| {
                let (expected, actual) = (vec![rows, dims], vec![moments.len()]);
                Error::Shape { argument, expected, actual }
            })?;
            *bound = magnitude(argument, &matrix, 0..rows)?;
        }
        let moments = moments.into_iter().map(|(_, moments)| moments).collect();
        Ok(RowState { rows, dims, steps, moments, bounds })
    }
}

impl<F: Real> State<F> {
    /// The states of class weights and bias, which must have as many rows.
    pub fn new(rule: Rule, state: [Option<RowState<F>>; 2]) -> Result<Self, Error> {
        let valid = rule.moments() > 0 || state.iter().all(Option::is_none);
        Error::check_parameter("momentum", 0.0, "in (0, 1) where rows have one", valid)?;
        if let [weights, Some(bias)] = &state {
            let rows = weights.as_ref().map_or(bias.rows, |weights| weights.rows);
            Error::check_shape("state of the bias", &[rows, 1], &[bias.rows, bias.dims])?;
        }
        Ok(State(state))
    }
}
