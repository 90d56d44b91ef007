//! From the public methods of a head to its engine, which is compiled in this crate and does not
//! depend on the type of the loss.

use std::ops::Range;

use ndarray::ArrayRef2;

use super::communication::Communication;
use super::prepare::StepInput;
use super::step::{nearest, step};
use super::update::prepare_update;
use super::workspace::{Workspace, WorkspaceCache};
use super::{Head, Settings};
use crate::data::{
    Batch, BatchMut, ClassSample, Classes, Forward, Output, Reduction, SampledGradients,
};
use crate::error::Error;
use crate::kernel::{Real, job};
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

    /// As [`Settings::input_of`].
    pub(crate) fn input_of<'a, F: Real>(
        &self,
        batch: &'a Batch<'_, F>,
        range: Range<usize>,
    ) -> StepInput<'a, F> {
        self.settings.input_of(batch, range)
    }

    pub(super) fn engine(&self) -> Engine<'_> {
        let Head { loss, settings, workspaces } = self;
        Engine { loss, settings: *settings, workspaces }
    }

    /// Runs one step; every public method that returns losses or gradients ends here.
    pub(crate) fn run<F: Real>(
        &self,
        input: &StepInput<'_, F>,
        communication: &dyn Communication<F>,
        output: Option<Output<'_, F>>,
    ) -> Result<Forward<F>, Error> {
        F::run::<Run<'_, '_, '_>>((self.engine(), input, communication, output))
    }

    /// Runs a step over sampled classes; `gradients` take the shapes of the sample.
    pub(crate) fn run_sampled<F: Real>(
        &self,
        input: &StepInput<'_, F>,
        communication: &dyn Communication<F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error> {
        F::run::<RunSampled<'_, '_>>((self.engine(), input, communication, gradients))
    }

    /// Runs a step that moves the parameters of the classes of a range, or of a sample of them.
    pub(crate) fn run_update<F: Real>(
        &self,
        batch: &mut BatchMut<'_, F>,
        (range, sample): (Range<usize>, Option<&ClassSample>),
        reduction: Reduction<'_, F>,
        communication: &dyn Communication<F>,
        (update, dx): (&mut dyn WeightUpdate<F>, &mut ArrayRef2<F>),
    ) -> Result<Forward<F>, Error> {
        let classes = (range, sample);
        let input = (self.engine(), batch, classes, reduction, communication, update, dx);
        F::run::<RunUpdate<'_, '_, '_, '_>>(input)
    }
}

impl Settings {
    /// The input of a step over the classes of `range`, whose weights the batch holds, without
    /// gradients. Nothing is checked yet.
    fn input_of<'a, F: Real>(
        self,
        batch: &'a Batch<'_, F>,
        range: Range<usize>,
    ) -> StepInput<'a, F> {
        let Settings { zero, precision, level, .. } = self;
        let Batch { embeddings, weights, labels, bias, ignored, sub_centers } = batch.reborrow();
        let classes = Classes { first: range.start, sub_centers, ..Classes::all(weights, bias) };
        let (labels, sample, reduction) = (Some(labels), None, None);
        StepInput {
            embeddings,
            classes,
            labels,
            ignored,
            range,
            sample,
            zero,
            precision,
            level,
            reduction,
        }
    }
}

/// What the engine needs of a head.
#[derive(Clone, Copy)]
pub(super) struct Engine<'a> {
    pub loss: &'a dyn MarginLoss,
    pub settings: Settings,
    workspaces: &'a WorkspaceCache,
}

job!(Run<'a, 'i: 'a, 'o>, RunInput<'a, 'i, 'o, F> => Result<Forward<F>, Error>, run);
type RunInput<'a, 'i, 'o, F> =
    (Engine<'a>, &'a StepInput<'i, F>, &'a dyn Communication<F>, Option<Output<'o, F>>);

fn run<F: Real>(
    (engine, input, communication, output): RunInput<'_, '_, '_, F>,
) -> Result<Forward<F>, Error> {
    let Engine { loss, settings, workspaces } = engine;
    workspaces
        .with(|workspace| step(loss, input, settings.budget, workspace, communication, output))
}

job!(RunSampled<'a, 'i: 'a>, SampledInput<'a, 'i, F> => Result<Forward<F>, Error>, run_sampled);
type SampledInput<'a, 'i, F> =
    (Engine<'a>, &'a StepInput<'i, F>, &'a dyn Communication<F>, &'a mut SampledGradients<F>);

fn run_sampled<F: Real>(
    (engine, input, communication, gradients): SampledInput<'_, '_, F>,
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
    let forward = run((engine, &input, communication, Some(output)))?;
    if let Some(fresh) = fresh {
        *gradients = fresh;
    }
    Ok(forward)
}

job!(RunUpdate<'a, 'b: 'a, 'r, 'u: 'a>, UpdateInput<'a, 'b, 'r, 'u, F> => Result<Forward<F>, Error>, run_update);
type UpdateInput<'a, 'b, 'r, 'u, F> = (
    Engine<'a>,
    &'a mut BatchMut<'b, F>,
    (Range<usize>, Option<&'a ClassSample>),
    Reduction<'r, F>,
    &'a dyn Communication<F>,
    &'a mut (dyn WeightUpdate<F> + 'u),
    &'a mut ArrayRef2<F>,
);

fn run_update<F: Real>(
    (engine, batch, (range, sample), reduction, communication, update, dx): UpdateInput<
        '_,
        '_,
        '_,
        '_,
        F,
    >,
) -> Result<Forward<F>, Error> {
    let Engine { loss, settings, workspaces } = engine;
    let k = batch.sub_centers;
    let offsets = sample.and_then(|sample| sample.offsets(k));
    let rows = sample.map(|sample| sample.selected(k));
    let selected = rows.as_deref();
    workspaces.with(|workspace| {
        let view = batch.view();
        let (reduction, input) = (Some(reduction), settings.input_of(&view, range));
        let input = StepInput { reduction, sample, ..input };
        let input = input.sampled(selected, offsets.as_deref());
        let of_head = (loss, settings.budget);
        let ready = prepare_update(of_head, &input, workspace, communication, (&*update, &*dx))?;
        let x = batch.embeddings;
        let classes = batch.classes(selected, offsets.as_deref());
        ready.run(x, classes, update, dx.view_mut(), communication)
    })
}

job!(pub(super) Nearest<'a, 'i: 'a>, NearestInput<'a, 'i, F> => Result<Vec<usize>, Error>, run_nearest);
pub(super) type NearestInput<'a, 'i, F> = (Engine<'a>, &'a StepInput<'i, F>);

fn run_nearest<F: Real>((engine, input): NearestInput<'_, '_, F>) -> Result<Vec<usize>, Error> {
    engine.workspaces.with(|workspace| nearest(engine.loss, input, workspace))
}

job!(pub(super) TargetAngles<'a, 'i: 'a>, NearestInput<'a, 'i, F> => Result<Vec<f64>, Error>, run_target_angles);

fn run_target_angles<F: Real>((engine, input): NearestInput<'_, '_, F>) -> Result<Vec<f64>, Error> {
    engine.workspaces.with(|workspace: &mut Workspace<F>| {
        input.target_angles(engine.loss, &mut workspace.prepared.samples)
    })
}
