//! From the public methods of a head to its engine, which is compiled in this crate and depends on
//! neither the type of the loss nor that of the collective.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, ArrayRef2};

use super::step::{Demand, Step, step};
use super::sweep::Chunk;
use super::top_k::{TopK, largest};
use crate::data::{Batch, BatchMut, Forward, Gradients, Reduction, Samples};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::loss::MarginLoss;
use crate::step::{Ranks, Settings, StepInput, Workspace, WorkspaceCache, update_step};
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
        work: impl FnOnce(StepInput<'_, F>, &mut Workspace<F>) -> T,
    ) -> T {
        let (rows, offsets) = active(batch.samples, batch.weights.nrows());
        let input = self.input(batch, reduction).sampled(rows.as_deref(), offsets.as_deref());
        self.workspaces.with(|workspace| work(input, workspace))
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

job!(
    /// The losses, and the gradients of the reduced losses where these are requested.
    pub(super) fn forward<'a, 'b, 'r>(
        engine: Engine<'a, F>,
        batch: Batch<'b, F>,
        gradients: Option<(Reduction<'r, F>, &'a mut Gradients<F>)>,
    ) -> Result<Forward<F>, Error> {
        let (reduction, gradients) = gradients.unzip();
        engine.run(batch, reduction, |input, workspace| {
            step(engine.loss, &input, workspace, engine.ranks, gradients)
        })
    }
);

job!(
    /// The losses, with the class parameters moved tile by tile, as their gradient is made. Once they
    /// begin to move, only the sum of the gradient of the embeddings over the ranks can fail.
    pub(super) fn with_update<'a, 'b: 'a, 'u: 'a>(
        engine: Engine<'a, F>,
        batch: &'a mut BatchMut<'b, F>,
        reduction: Reduction<'a, F>,
        update: &'a mut (dyn WeightUpdate<F> + 'u),
        dx: &'a mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error> {
        let (rows, offsets) = active(batch.samples, batch.weights.nrows());
        let (rows, offsets) = (rows.as_deref(), offsets.as_deref());
        engine.workspaces.with(|workspace| {
            let input = engine.input(batch.view(), Some(reduction)).sampled(rows, offsets);
            let demand = Demand::Update(update, dx);
            let mut step = Step::agreed(engine.loss, &input, workspace, engine.ranks, demand)?;
            step.first_sweep(&input, &mut []);
            let forward = step.forward(&input)?;
            step.keep_pairs(&input, !dx.is_empty());
            let chunks = step.plan.chunk_rows(&input.classes);
            let (shape, bias) = (input.classes.weights.dim(), input.classes.bias.is_some());
            let updaters = update.begin(&update_step(&step.bounds, shape, &chunks, bias))?;
            Error::check_shape("updaters", &[chunks.len()], &[updaters.len()])?;
            let x = batch.embeddings;
            let chunks = Chunk::moving(&step.plan, batch.classes(rows, offsets), updaters);
            step.second_sweep(x, chunks, dx)?;
            Ok(forward)
        })
    }
);

job!(
    /// The k nearest classes of each embedding, without k the nearest.
    pub(super) fn top_k<'a, 'b>(
        engine: Engine<'a, F>,
        batch: Batch<'b, F>,
        k: Option<usize>,
    ) -> Result<TopK<F>, Error> {
        engine.run(batch.without_labels(), None, |input, workspace| {
            let input = StepInput { most: k.unwrap_or(0), ..input };
            largest(engine.loss, &input, workspace, engine.ranks, k)
        })
    }
);

job!(
    /// The angle of each sample with its class; π/2 for one that does not count.
    pub(super) fn target_angles<'a, 'b>(
        engine: Engine<'a, F>,
        batch: Batch<'b, F>,
    ) -> Result<Array1<F>, Error> {
        engine.run(batch, None, |input, _| {
            let ranks = engine.ranks;
            let angles = ranks
                .check_classes(engine.loss, &input)
                .and_then(|()| input.check_shapes(engine.loss))
                .and_then(|()| input.check_labeled())
                .and_then(|()| input.target_angles(engine.loss));
            let counted = angles.as_ref().map(|_| 0).map_err(Clone::clone);
            ranks.agree(engine.loss, &input, counted, false)?;
            let mut angles: Vec<F> = angles?.into_iter().map(F::narrow).collect();
            ranks.max(&mut angles)?;
            let right = F::narrow(std::f64::consts::FRAC_PI_2);
            let angle = |angle| if angle < F::zero() { right } else { angle };
            Ok(angles.into_iter().map(angle).collect())
        })
    }
);
