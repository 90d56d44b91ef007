//! From the public methods of a head to its engine, which is compiled in this crate and depends on
//! neither the type of the loss nor that of the collective.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, ArrayRef2};

use super::step::{nearest, step};
use super::top_k::{TopK, top_k};
use super::update::prepare_update;
use crate::data::{Batch, BatchMut, Forward, Gradients, Reduction, Samples};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::loss::MarginLoss;
use crate::step::{Ranks, Settings, StepInput, Workspace, WorkspaceCache};
use crate::update::WeightUpdate;

/// What the engine needs of a head.
pub(crate) struct Engine<'a, F> {
    pub loss: &'a dyn MarginLoss,
    pub settings: Settings,
    pub workspaces: &'a WorkspaceCache,
    pub ranks: Ranks<'a, F>,
    /// The classes of this rank, where classes are split.
    pub range: Option<Range<usize>>,
}

impl<F: Real> Engine<'_, F> {
    /// Runs `work` on the input of this batch, with a workspace.
    fn run<T>(
        &self,
        batch: Batch<'_, F>,
        reduction: Option<Reduction<'_, F>>,
        work: impl FnOnce(&StepInput<'_, F>, &mut Workspace<F>) -> T,
    ) -> T {
        let (rows, offsets) = active(batch.samples, batch.weights.nrows());
        let input = self.input(batch, reduction).sampled(rows.as_deref(), offsets.as_deref());
        self.workspaces.with(|workspace| work(&input, workspace))
    }

    fn input<'b>(
        &self,
        batch: Batch<'b, F>,
        reduction: Option<Reduction<'b, F>>,
    ) -> StepInput<'b, F> {
        StepInput { reduction, ..StepInput::new(self.settings, batch, self.range.clone()) }
    }
}

/// The rows that a sample makes active, and their offsets; `None` where all rows are, and where
/// there is no correction, as in inference. Of a sample with classes beyond these `rows` none: the
/// step is going to refuse it.
fn active<F: Real>(
    samples: Samples<'_>,
    rows: usize,
) -> (Option<Cow<'_, [usize]>>, Option<Vec<F>>) {
    let Samples { labels, sample, sub_centers, .. } = samples;
    let classes = rows / sub_centers.max(1);
    let sample = sample.filter(|sample| sample.classes.iter().all(|&class| class < classes));
    let corrected = sample.filter(|_| labels.is_some());
    let selected = sample.map(|sample| sample.selected(sub_centers));
    (selected, corrected.and_then(|sample| sample.offsets(sub_centers)))
}

job!(pub(super) Losses<'a, 'b>, (Engine<'a, F>, Batch<'b, F>) => Result<Forward<F>, Error>, losses);

fn losses<F: Real>((engine, batch): (Engine<'_, F>, Batch<'_, F>)) -> Result<Forward<F>, Error> {
    engine.run(batch, None, |input, workspace| {
        step(engine.loss, input, workspace, engine.ranks, None)
    })
}

job!(
    pub(super) WithGradients<'a, 'b, 'r>,
    (Engine<'a, F>, Batch<'b, F>, Reduction<'r, F>, &'a mut Gradients<F>)
        => Result<Forward<F>, Error>,
    with_gradients
);

fn with_gradients<F: Real>(
    (engine, batch, reduction, gradients): (
        Engine<'_, F>,
        Batch<'_, F>,
        Reduction<'_, F>,
        &mut Gradients<F>,
    ),
) -> Result<Forward<F>, Error> {
    engine.run(batch, Some(reduction), |input, workspace| {
        step(engine.loss, input, workspace, engine.ranks, Some(gradients))
    })
}

job!(
    pub(super) WithUpdate<'a, 'b: 'a, 'r, 'u: 'a>,
    UpdateInput<'a, 'b, 'r, 'u, F> => Result<Forward<F>, Error>,
    with_update
);
pub(super) type UpdateInput<'a, 'b, 'r, 'u, F> = (
    Engine<'a, F>,
    &'a mut BatchMut<'b, F>,
    Reduction<'r, F>,
    &'a mut (dyn WeightUpdate<F> + 'u),
    &'a mut ArrayRef2<F>,
);

fn with_update<F: Real>(
    (engine, batch, reduction, update, dx): UpdateInput<'_, '_, '_, '_, F>,
) -> Result<Forward<F>, Error> {
    let (rows, offsets) = active(batch.samples, batch.weights.nrows());
    let (rows, offsets) = (rows.as_deref(), offsets.as_deref());
    engine.workspaces.with(|workspace| {
        let input = engine.input(batch.view(), Some(reduction)).sampled(rows, offsets);
        let wanted = (&*update, &*dx);
        let ready = prepare_update(engine.loss, &input, workspace, engine.ranks, wanted)?;
        let x = batch.embeddings;
        ready.run(x, batch.classes(rows, offsets), update, dx)
    })
}

job!(
    pub(super) Predict<'a, 'b>,
    (Engine<'a, F>, Batch<'b, F>) => Result<Vec<usize>, Error>,
    predict
);

fn predict<F: Real>((engine, batch): (Engine<'_, F>, Batch<'_, F>)) -> Result<Vec<usize>, Error> {
    engine.run(batch.without_labels(), None, |input, workspace| {
        nearest(engine.loss, input, workspace, engine.ranks)
    })
}

job!(
    pub(super) Largest<'a, 'b>,
    (Engine<'a, F>, Batch<'b, F>, usize) => Result<TopK<F>, Error>,
    largest
);

fn largest<F: Real>(
    (engine, batch, k): (Engine<'_, F>, Batch<'_, F>, usize),
) -> Result<TopK<F>, Error> {
    engine.run(batch.without_labels(), None, |input, workspace| {
        let input = StepInput { most: k, ..input.clone() };
        top_k(engine.loss, &input, workspace, engine.ranks)
    })
}

job!(
    pub(super) TargetAngles<'a, 'b>,
    (Engine<'a, F>, Batch<'b, F>) => Result<Array1<F>, Error>,
    target_angles
);

fn target_angles<F: Real>(
    (engine, batch): (Engine<'_, F>, Batch<'_, F>),
) -> Result<Array1<F>, Error> {
    engine.run(batch, None, |input, _| {
        let ranks = engine.ranks;
        let angles = ranks
            .check_classes(engine.loss, input)
            .and_then(|()| input.check_shapes(engine.loss))
            .and_then(|()| input.check_labeled())
            .and_then(|()| input.target_angles(engine.loss));
        let counted = angles.as_ref().map(|_| 0).map_err(Clone::clone);
        ranks.agree(engine.loss, input, counted, false)?;
        let mut angles: Vec<F> = angles?.into_iter().map(F::narrow).collect();
        ranks.max(&mut angles)?;
        let right = F::narrow(std::f64::consts::FRAC_PI_2);
        Ok(angles.into_iter().map(|angle| if angle < F::zero() { right } else { angle }).collect())
    })
}
