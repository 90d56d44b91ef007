//! One step, from its input to losses and gradients.

use std::mem::take;

use ndarray::{Array, ArrayRef2, ArrayView2, Dimension};

use super::sweep::{Chunk, Sweep};
use crate::data::{Bounds, Forward, Gradients};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::math::Smoothing;
use crate::step::{ChunkStats, Plan, Ranks, Scratch, StepInput, Workspace, update_step};
use crate::update::WeightUpdate;

/// What is requested of a step besides the losses.
#[derive(Clone, Copy)]
pub(super) enum Demand<'a, F> {
    /// The nearest classes, without losses: no sample has a class of its own.
    Nearest,
    Losses,
    Gradients(&'a Gradients<F>),
    /// Gradients of the cosines and of the norms.
    Cosines,
    /// Updated parameters, and the gradient of the embeddings unless it is empty.
    Update(&'a dyn WeightUpdate<F>, &'a ArrayRef2<F>),
}

impl<F: Real> Demand<'_, F> {
    fn check_shapes(&self, input: &StepInput<'_, F>) -> Result<(), Error> {
        if matches!(self, Demand::Nearest) {
            return Ok(());
        }
        input.check_labeled()?;
        let (rows, dims) = input.embeddings.dim();
        match self {
            Demand::Gradients(gradients) => {
                gradients.check((rows, dims), input.classes.len(), input.classes.bias.is_some())
            }
            Demand::Update(_, embeddings) if !embeddings.is_empty() => {
                Error::check_shape("gradients of embeddings", &[rows, dims], embeddings.shape())
            }
            _ => Ok(()),
        }
    }

    /// Whether the gradient of the embeddings is requested.
    fn embeddings(&self) -> bool {
        match self {
            Demand::Nearest | Demand::Losses | Demand::Cosines => false,
            Demand::Gradients(gradients) => !gradients.embeddings.is_empty(),
            Demand::Update(_, embeddings) => !embeddings.is_empty(),
        }
    }
}

/// Runs the step; `gradients` are untouched where this rank or another refuses its input.
pub(crate) fn step<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    ranks: Ranks<'_, F>,
    gradients: Option<&mut Gradients<F>>,
) -> Result<Forward<F>, Error> {
    let demand = gradients.as_deref().map_or(Demand::Losses, Demand::Gradients);
    let mut step = Step::agreed(loss, input, workspace, ranks, demand)?;
    let Some(gradients) = gradients else {
        step.first_sweep(input, &mut []);
        return step.forward(input);
    };
    step.forward_backward(input, gradients)
}

/// Checks everything and sizes the buffers of the sweeps; returns how these are cut, and bounds on
/// weights and gradients.
fn prepare<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    demand: Demand<'_, F>,
) -> Result<(Plan, Bounds), Error> {
    input.check_shapes(loss)?;
    demand.check_shapes(input)?;
    let (rows, dims) = input.embeddings.dim();
    let workers = Plan::workers(rows, dims, input.classes.len());
    let (form, bounds) = workspace.prepare(loss, input, workers)?;
    // Without gradients no logit waits for a second sweep.
    let keeps = !matches!(demand, Demand::Losses | Demand::Nearest);
    let weight_rows =
        matches!(demand, Demand::Gradients(gradients) if !gradients.weights.is_empty());
    let plan = Plan::new(input, form, workspace.samples.len(), [keeps, weight_rows]);
    let (embeddings, update) = (demand.embeddings(), matches!(demand, Demand::Update(..)));
    let norms = embeddings || matches!(demand, Demand::Cosines);
    let k = form.top.map_or(input.most, |top| top.k);
    workspace.resize(&plan, k, keeps.then_some([embeddings, norms, update]));
    if let Demand::Update(update, _) = demand {
        let (shape, chunks) = (input.classes.weights.dim(), plan.chunk_rows(&input.classes));
        update.check(&update_step(&bounds, shape, &chunks, input.classes.bias.is_some()))?;
    }
    Ok((plan, bounds))
}

/// A step whose input has passed the checks.
pub(super) struct Step<'a, F> {
    pub plan: Plan,
    pub bounds: Bounds,
    /// Label smoothing among the classes of all ranks.
    pub smoothing: Smoothing,
    pub ranks: Ranks<'a, F>,
    pub workspace: &'a mut Workspace<F>,
}

impl<'a, F: Real> Step<'a, F> {
    /// Prepares the step, unless this rank or another refuses its input.
    pub fn agreed(
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        workspace: &'a mut Workspace<F>,
        ranks: Ranks<'a, F>,
        demand: Demand<'_, F>,
    ) -> Result<Self, Error> {
        let checked = ranks.check_classes(loss, input);
        let prepared = checked.and_then(|()| prepare(loss, input, workspace, demand));
        let counted = prepared.as_ref().map(|(plan, _)| plan.samples).map_err(Clone::clone);
        let classes = ranks.agree(loss, input, counted, demand.embeddings())?;
        let (plan, bounds) = prepared?;
        workspace.nearest.clear(); // of an earlier loss: a binary one finds none of its own
        if let Some(negatives) = plan.form.hard {
            let targets = workspace.write_targets(input.embeddings.nrows());
            if negatives.cosine().is_none() {
                ranks.sum(targets)?;
            }
            workspace.set_hard(plan.form, |norm| plan.form.product_scale::<F>(norm));
        }
        let smoothing = Smoothing::new(plan.form.smoothing, classes);
        Ok(Step { plan, bounds, smoothing, ranks, workspace })
    }

    /// How many classes are active, on all ranks.
    pub fn classes(&self) -> usize {
        self.smoothing.classes()
    }

    fn forward_backward(
        &mut self,
        input: &StepInput<'_, F>,
        gradients: &mut Gradients<F>,
    ) -> Result<Forward<F>, Error> {
        let Gradients { embeddings, weights, bias } = gradients;
        let (mut weights_copy, mut bias_copy) = (None, None);
        let rows = in_order(weights, &mut weights_copy);
        let bias_row = bias.as_mut().map(|bias| in_order(bias, &mut bias_copy));
        let binary = self.plan.form.binary.is_some();
        let mut forward = None;
        if binary {
            self.binary_terms();
        } else {
            self.first_sweep(input, rows);
            forward = Some(self.forward(input)?);
        }
        self.keep_pairs(input, !embeddings.is_empty());
        let outputs = [rows, bias_row.unwrap_or_default()];
        let chunks = Chunk::fixed(&self.plan, input.classes, outputs);
        self.second_sweep(input.embeddings, chunks, embeddings)?;
        if let Some(copy) = weights_copy {
            weights.assign(&copy);
        }
        if let (Some(bias), Some(copy)) = (bias, bias_copy) {
            bias.assign(&copy);
        }
        forward.map_or_else(|| self.forward(input), Ok)
    }

    /// The terms of a binary loss, whose pairs need nothing of each other: its losses come from the
    /// sweep that makes the gradients. They are those of this rank's target logits, which no other
    /// rank has rounded.
    fn binary_terms(&mut self) {
        let Some(binary) = self.plan.form.binary else { return };
        for sample in &mut self.workspace.samples {
            let logit = sample.target.map_or(0.0, |target| target.logit);
            sample.terms = binary.terms(0.0, logit, sample.upstream);
        }
    }

    /// The first sweep. With a second sweep to come, the logits wait in the rows of the weights'
    /// gradient, if these are long enough, or in the workspace.
    pub fn first_sweep(&mut self, input: &StepInput<'_, F>, rows: &mut [F]) {
        if self.plan.samples == 0 {
            return;
        }
        let n = self.plan.samples;
        let mut logits = take(&mut self.workspace.logits);
        let stored = if self.plan.in_weight_rows {
            (rows, self.plan.dims)
        } else {
            (&mut logits[..self.plan.stored * n], n)
        };
        self.sweep(input.embeddings, |sweep, chunks, workers| {
            sweep.forward(&input.classes, chunks, stored, workers);
        });
        self.workspace.logits = logits;
    }

    /// Combines the statistics of the chunks and of the other ranks, and computes each sample's
    /// terms for the second sweep.
    pub fn forward(&mut self, input: &StepInput<'_, F>) -> Result<Forward<F>, Error> {
        let rows = input.embeddings.nrows();
        let apart = self.nearest_pairs(input)?;
        let mut stats = take(&mut self.workspace.stats);
        stats.clear();
        let samples = 0..self.workspace.samples.len();
        stats.extend(samples.map(|i| self.sample_stats(input, i, apart.get(i).copied())));
        if !stats.is_empty() {
            self.ranks.complete(rows, &mut stats)?;
        }
        let mut forward = Forward::with_samples(rows, self.plan.form);
        for (sample, stats) in self.workspace.samples.iter_mut().zip(&stats) {
            sample.terms = forward.record(stats, self.smoothing, sample.upstream);
        }
        self.workspace.stats = stats;
        self.binary_terms();
        Ok(forward.with_reduction(input.reduction))
    }

    /// The second sweep: writes the gradients of the `chunks` or updates them, and writes the
    /// gradient of the `embeddings`, summed over the ranks, unless it is empty. Zeros where no sample
    /// counts.
    pub fn second_sweep(
        &mut self,
        x: ArrayView2<'_, F>,
        chunks: Vec<Chunk<'_, F>>,
        embeddings: &mut ArrayRef2<F>,
    ) -> Result<(), Error> {
        if self.plan.samples == 0 {
            self.sweep(x, |sweep, _, workers| sweep.update_by_zeros(chunks, workers));
            embeddings.fill(F::zero());
            return Ok(());
        }
        self.workspace.set_coefficients(&self.plan, &self.bounds);
        self.sweep(x, |sweep, found, workers| {
            sweep.backward(chunks, found, workers);
            if !embeddings.is_empty() {
                sweep.embedding_gradients(found, embeddings.view_mut(), workers);
            }
        });
        self.ranks.sum_embeddings(embeddings)
    }

    /// Runs a sweep, which reads the workspace while it writes these parts of it.
    pub fn sweep(
        &mut self,
        x: ArrayView2<'_, F>,
        run: impl FnOnce(Sweep<'_, F>, &mut [ChunkStats<F>], &mut [Scratch<F>]),
    ) {
        let (mut chunks, mut scratch) =
            (take(&mut self.workspace.chunks), take(&mut self.workspace.scratch));
        run(
            Sweep { plan: &self.plan, workspace: self.workspace, x },
            &mut chunks,
            &mut scratch[..self.plan.workers],
        );
        (self.workspace.chunks, self.workspace.scratch) = (chunks, scratch);
    }
}

/// The numbers of a gradient one row after the other: in place, or in a `copy` where they lie
/// otherwise.
fn in_order<'a, F: Real, D: Dimension>(
    gradient: &'a mut Array<F, D>,
    copy: &'a mut Option<Array<F, D>>,
) -> &'a mut [F] {
    if !gradient.is_standard_layout() {
        *copy = Some(Array::zeros(gradient.raw_dim()));
    }
    let rows = copy.as_mut().unwrap_or(gradient).as_slice_mut();
    rows.expect("a matrix in standard layout is a slice")
}
