//! A step that moves the class parameters tile by tile, as their gradient is made.

use std::ops::Range;

use ndarray::{ArrayRef2, ArrayView2};

use super::step::{Demand, Step};
use super::sweep::Chunk;
use crate::data::{ClassesMut, Forward};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::step::{Ranks, StepInput, Workspace, update_step};
use crate::update::WeightUpdate;

/// A step between its sweeps: all is known, and nothing has moved.
pub(crate) struct UpdateReady<'a, F> {
    step: Step<'a, F>,
    forward: Forward<F>,
    /// The rows of each chunk.
    chunks: Vec<Range<usize>>,
}

/// Runs a step until the class parameters are to move.
pub(crate) fn prepare_update<'a, F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &'a mut Workspace<F>,
    ranks: Ranks<'a, F>,
    (update, dx): (&dyn WeightUpdate<F>, &ArrayRef2<F>),
) -> Result<UpdateReady<'a, F>, Error> {
    let demand = Demand::Update(update, dx);
    let mut step = Step::agreed(loss, input, workspace, ranks, demand)?;
    step.first_sweep(input, &mut []);
    let forward = step.forward(input)?;
    step.keep_pairs(input, !dx.is_empty());
    let chunks = step.plan.chunk_rows(&input.classes);
    Ok(UpdateReady { step, forward, chunks })
}

impl<F: Real> UpdateReady<'_, F> {
    /// Moves the class parameters and writes the gradient of the embeddings `x`. Once they begin to
    /// move, only the sum of this gradient over the ranks can fail.
    pub fn run<'p>(
        self,
        x: ArrayView2<'_, F>,
        classes: ClassesMut<'p, F>,
        update: &'p mut dyn WeightUpdate<F>,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error> {
        let UpdateReady { mut step, forward, chunks } = self;
        let bias = classes.bias.is_some();
        let update_step = update_step(&step.bounds, classes.weights.dim(), &chunks, bias);
        let updaters = update.begin(&update_step)?;
        Error::check_shape("updaters", &[chunks.len()], &[updaters.len()])?;
        let chunks = Chunk::moving(&step.plan, classes, updaters);
        if step.plan.samples == 0 {
            step.sweep(x, |sweep, _, workers| sweep.update_by_zeros(chunks, workers));
            dx.fill(F::zero());
            return Ok(forward);
        }
        step.second_sweep(x, chunks, dx);
        step.ranks.sum_embeddings(dx)?;
        Ok(forward)
    }
}
