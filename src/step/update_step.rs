//! A step as an update of the class parameters sees it.

use std::ops::Range;

use super::plan::Plan;
use crate::data::{Bounds, Classes};
use crate::error::Error;
use crate::kernel::Real;
use crate::update::{Magnitudes, UpdateStep, WeightUpdate};

/// Refuses a step that the update refuses.
pub(crate) fn check_update<F: Real>(
    plan: &Plan,
    bounds: &Bounds,
    classes: &Classes<'_, F>,
    update: &dyn WeightUpdate<F>,
) -> Result<(), Error> {
    let chunks = plan.chunk_rows(classes);
    update.check(&update_step(bounds, classes.weights.dim(), &chunks, classes.bias.is_some()))
}

/// The step as an update sees it. The largest norm of a row bounds its entries.
pub(crate) fn update_step<'c>(
    bounds: &Bounds,
    shape: (usize, usize),
    chunks: &'c [Range<usize>],
    bias: bool,
) -> UpdateStep<'c> {
    let of_weights = Magnitudes { value: bounds.weight_norms.1, gradient: bounds.weight_gradient };
    let of_bias = Magnitudes { value: bounds.bias.unwrap_or(0.0), gradient: bounds.bias_gradient };
    UpdateStep { shape, chunks, weights: Some(of_weights), bias: bias.then_some(of_bias) }
}

impl Plan {
    /// The rows of each chunk in the caller's matrix, from its first to its last.
    pub fn chunk_rows<F: Real>(&self, classes: &Classes<'_, F>) -> Vec<Range<usize>> {
        (0..self.chunks).map(|index| classes.span(&self.chunk(index))).collect()
    }
}
