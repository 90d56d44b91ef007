//! A step that moves the class parameters tile by tile, as their gradient is made.

use std::ops::Range;

use ndarray::{ArrayRef2, ArrayView2, ArrayViewMut2};

use super::step::{Demand, KeptGradients, Step};
use super::sweep::{Parameters, Sweep, TargetRows};
use crate::data::{Classes, ClassesMut, Forward};
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
    ranks: Ranks<'_, F>,
    (update, dx): (&dyn WeightUpdate<F>, &ArrayRef2<F>),
) -> Result<UpdateReady<'a, F>, Error> {
    let demand = Demand::Update(update, dx);
    let mut step = Step::agreed(loss, input, workspace, ranks, demand)?;
    step.first_sweep(input, None);
    let forward = step.forward(input, ranks)?;
    step.nearest_gradients(input, !dx.is_empty());
    if !dx.is_empty() {
        step.copy_target_rows(&input.classes);
    }
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
        mut dx: ArrayViewMut2<'_, F>,
        ranks: Ranks<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let UpdateReady { mut step, forward, chunks } = self;
        let bias = classes.bias.is_some();
        let update_step = update_step(&step.bounds, classes.weights.dim(), &chunks, bias);
        let updaters = update.begin(&update_step)?;
        Error::check_shape("updaters", &[chunks.len()], &[updaters.len()])?;
        let parameters = Parameters::Moving { classes: Some(classes), updaters };
        if step.plan.samples == 0 {
            step.update_by_zeros(parameters);
            dx.fill(F::zero());
            return Ok(forward);
        }
        let rows = std::mem::take(&mut step.workspace.target_rows);
        let embeddings = (!dx.is_empty()).then_some(dx);
        let targets = TargetRows::Copied(&rows);
        let kept = KeptGradients::default();
        let embeddings = step.second_sweep(x, parameters, &targets, kept, embeddings);
        step.workspace.target_rows = rows;
        if let Some(embeddings) = embeddings {
            ranks.sum_embeddings(embeddings)?;
        }
        Ok(forward)
    }
}

impl<F: Real> Step<'_, F> {
    /// Keeps what the gradient of the embeddings needs of the weights as they are before they move.
    fn copy_target_rows(&mut self, classes: &Classes<'_, F>) {
        let Workspace { prepared, target_rows, .. } = &mut *self.workspace;
        target_rows.resize(self.plan.samples * self.plan.dims, F::zero());
        let rows = target_rows.chunks_exact_mut(self.plan.dims).zip(&prepared.samples);
        for (copy, sample) in rows {
            if let Some(class) = sample.class {
                copy.iter_mut().zip(classes.weight(class)).for_each(|(copy, &w)| *copy = w);
            }
        }
    }

    fn update_by_zeros(&mut self, parameters: Parameters<'_, F>) {
        let Workspace { prepared, hard, scratch, .. } = &mut *self.workspace;
        let sweep = Sweep { plan: &self.plan, prepared, hard };
        sweep.update_by_zeros(parameters, &mut scratch[..self.workers]);
    }
}
