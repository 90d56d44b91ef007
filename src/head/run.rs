//! From the public methods of a head to its engine.

use std::ops::Range;

use ndarray::ArrayRef2;

use super::Head;
use super::communication::Communication;
use super::prepare::StepInput;
use super::step::step;
use super::update::prepare_update;
use crate::data::{
    Batch, BatchMut, ClassSample, Classes, Forward, Output, Reduction, SampledGradients,
};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::update::WeightUpdate;

impl<L: MarginLoss> Head<L> {
    /// The input of a step on one rank: all classes, no gradients.
    pub(super) fn input<'a, F: Real>(
        &self,
        batch: &'a Batch<'_, F>,
    ) -> Result<StepInput<'a, F>, Error> {
        Ok(self.input_of(batch, 0..batch.classes()?))
    }

    /// The input of a step over the classes of `range`, whose weights the batch holds, without
    /// gradients. Nothing is checked yet.
    pub(crate) fn input_of<'a, F: Real>(
        &self,
        batch: &'a Batch<'_, F>,
        range: Range<usize>,
    ) -> StepInput<'a, F> {
        let Batch { embeddings, weights, labels, bias, ignored, sub_centers } = batch.reborrow();
        let first = range.start;
        let classes = Classes { first, sub_centers, ..Classes::all(weights, bias) };
        let (zero, precision, labels) = (self.zero, self.precision, Some(labels));
        let (sample, reduction) = (None, None);
        StepInput {
            embeddings,
            classes,
            labels,
            ignored,
            range,
            sample,
            zero,
            precision,
            level: self.level,
            reduction,
        }
    }

    /// Runs a step over sampled classes; `gradients` take the shapes of the sample.
    pub(crate) fn run_sampled<F: Real>(
        &self,
        input: &StepInput<'_, F>,
        communication: &impl Communication<F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error> {
        let k = input.classes.sub_centers;
        let rows = input.sample.map(|sample| sample.selected(k));
        let mut fresh = rows.as_ref().and_then(|rows| {
            let (shape, bias) = (input.embeddings.dim(), input.classes.bias.is_some());
            gradients.fresh_unless_fit(shape, bias, rows.len())
        });
        let offsets = input.sample.and_then(|sample| sample.offsets(k));
        let input = input.sampled(rows.as_deref(), offsets.as_deref());
        let output = fresh.as_mut().unwrap_or(gradients).output();
        let forward = self.run(&input, communication, Some(output))?;
        if let Some(fresh) = fresh {
            *gradients = fresh;
        }
        Ok(forward)
    }

    /// Runs a step that moves the parameters of the classes of a range, or of a sample of them.
    pub(crate) fn run_update<F: Real>(
        &self,
        batch: &mut BatchMut<'_, F>,
        (range, sample): (Range<usize>, Option<&ClassSample>),
        reduction: Reduction<'_, F>,
        communication: &impl Communication<F>,
        (update, dx): (&mut dyn WeightUpdate<F>, &mut ArrayRef2<F>),
    ) -> Result<Forward<F>, Error> {
        let k = batch.sub_centers;
        let offsets = sample.and_then(|sample| sample.offsets(k));
        let rows = sample.map(|sample| sample.selected(k));
        let selected = rows.as_deref();
        self.workspaces.with(|workspace| {
            let view = batch.view();
            let (reduction, input) = (Some(reduction), self.input_of(&view, range));
            let input = StepInput { reduction, sample, ..input };
            let input = input.sampled(selected, offsets.as_deref());
            let of_head = (&self.loss, self.budget);
            let ready =
                prepare_update(of_head, &input, workspace, communication, (&*update, &*dx))?;
            let x = batch.embeddings;
            let classes = batch.classes(selected, offsets.as_deref());
            ready.run(x, classes, update, dx.view_mut(), communication)
        })
    }

    /// Runs one step; every public method that returns losses or gradients ends here.
    pub(crate) fn run<F: Real>(
        &self,
        input: &StepInput<'_, F>,
        communication: &impl Communication<F>,
        output: Option<Output<'_, F>>,
    ) -> Result<Forward<F>, Error> {
        self.workspaces.with(|workspace| {
            step(&self.loss, input, self.budget, workspace, communication, output)
        })
    }
}
