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
use crate::step::{
    Collective, Communication, Ranks, Settings, SingleProcess, StepInput, StepReport, Workspace,
    WorkspaceCache,
};
use crate::update::WeightUpdate;

/// What the engine needs of a head.
pub(crate) struct Engine<'a, F> {
    pub loss: &'a dyn MarginLoss,
    pub settings: Settings,
    pub workspaces: &'a WorkspaceCache,
    /// The other ranks and the classes of this one, where classes are split.
    pub ranks: Option<(&'a dyn Collective<F>, Range<usize>)>,
}

impl<F: Real> Engine<'_, F> {
    /// Runs `work` on the input of this batch, with a workspace and the communication with the
    /// other ranks.
    fn run<T>(
        &self,
        batch: Batch<'_, F>,
        reduction: Option<Reduction<'_, F>>,
        work: impl FnOnce(&StepInput<'_, F>, &mut Workspace<F>, &dyn Communication<F>) -> T,
    ) -> T {
        let active = Active::new(batch.samples, batch.weights.nrows());
        let input = self.input(batch.reborrow(), reduction);
        let input = input.sampled(active.rows.as_deref(), active.offsets.as_deref());
        self.workspaces.with(|workspace| {
            self.communicate(|communication| work(&input, workspace, communication))
        })
    }

    fn input<'b>(
        &self,
        batch: Batch<'b, F>,
        reduction: Option<Reduction<'b, F>>,
    ) -> StepInput<'b, F> {
        let range = self.ranks.as_ref().map(|(_, range)| range.clone());
        StepInput { reduction, ..StepInput::new(self.settings, batch, range) }
    }

    fn communicate<T>(&self, work: impl FnOnce(&dyn Communication<F>) -> T) -> T {
        match self.ranks {
            Some((collective, _)) => work(&Ranks { collective }),
            None => work(&SingleProcess),
        }
    }
}

/// The rows that a sample makes active, and their offsets; `None` where all rows are, and where
/// there is no correction, as in inference.
struct Active<'a, F> {
    rows: Option<Cow<'a, [usize]>>,
    offsets: Option<Vec<F>>,
}

impl<'a, F: Real> Active<'a, F> {
    /// Of a sample with classes beyond these rows none: the step is going to refuse it.
    fn new(Samples { labels, sample, sub_centers, .. }: Samples<'a>, rows: usize) -> Self {
        let classes = rows / sub_centers.max(1);
        let sample = sample.filter(|sample| sample.classes.iter().all(|&class| class < classes));
        let corrected = sample.filter(|_| labels.is_some());
        Active {
            rows: sample.map(|sample| sample.selected(sub_centers)),
            offsets: corrected.and_then(|sample| sample.offsets(sub_centers)),
        }
    }
}

job!(pub(super) Losses<'a, 'b>, (Engine<'a, F>, Batch<'b, F>) => Result<Forward<F>, Error>, losses);

fn losses<F: Real>((engine, batch): (Engine<'_, F>, Batch<'_, F>)) -> Result<Forward<F>, Error> {
    engine.run(batch, None, |input, workspace, communication| {
        step(engine.loss, input, workspace, communication, None)
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
    engine.run(batch, Some(reduction), |input, workspace, communication| {
        step(engine.loss, input, workspace, communication, Some(gradients.output()))
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
    let active = Active::new(batch.samples, batch.weights.nrows());
    let (rows, offsets) = (active.rows.as_deref(), active.offsets.as_deref());
    engine.workspaces.with(|workspace| {
        engine.communicate(|communication| {
            let view = batch.view();
            let input = engine.input(view, Some(reduction));
            let input = input.sampled(rows, offsets);
            let wanted = (&*update, &*dx);
            let ready = prepare_update(engine.loss, &input, workspace, communication, wanted)?;
            let x = batch.embeddings;
            let classes = batch.classes(rows, offsets);
            ready.run(x, classes, update, dx.view_mut(), communication)
        })
    })
}

job!(
    pub(super) Predict<'a, 'b>,
    (Engine<'a, F>, Batch<'b, F>) => Result<Vec<usize>, Error>,
    predict
);

fn predict<F: Real>((engine, batch): (Engine<'_, F>, Batch<'_, F>)) -> Result<Vec<usize>, Error> {
    engine.run(batch.without_labels(), None, |input, workspace, communication| {
        nearest(engine.loss, input, workspace, communication)
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
    engine.run(batch.without_labels(), None, |input, workspace, communication| {
        let input = StepInput { most: k, ..input.clone() };
        top_k(engine.loss, &input, workspace, communication)
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
    engine.run(batch, None, |input, _, communication| {
        let angles = communication
            .check_classes(engine.loss, input)
            .and_then(|()| input.check_shapes(engine.loss))
            .and_then(|()| input.check_labeled())
            .and_then(|()| input.target_angles(engine.loss));
        let report = angles.as_ref().map_err(Clone::clone).map(|_| StepReport::of(input));
        communication.agree(engine.loss, input, report)?;
        let mut angles: Vec<F> = angles?.into_iter().map(F::narrow).collect();
        communication.largest(&mut angles)?;
        let right = F::narrow(std::f64::consts::FRAC_PI_2);
        Ok(angles.into_iter().map(|angle| if angle < F::zero() { right } else { angle }).collect())
    })
}
