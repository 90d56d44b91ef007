//! One step, from its input to losses and gradients.

use ndarray::{ArrayRef2, ArrayView1, ArrayView2, ArrayViewMut2};

use super::standard_layout::StandardLayout;
use super::sweep::{LogitCoefficients, Parameters, Sweep, SweepOutput, TargetRows};
use crate::data::{Bounds, Forward, IGNORED, NearestNegative, Output, SampleStats, TargetLogit};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::math::Smoothing;
use crate::step::{
    Apart, Plan, Prepared, PreparedSample, Ranks, StepInput, Workspace, check_update,
};
use crate::update::WeightUpdate;

/// What is requested of a step besides the losses.
#[derive(Clone, Copy)]
pub(super) enum Demand<'a, 'b, F> {
    /// The nearest classes, without losses: no sample has a class of its own.
    Nearest,
    Losses,
    Gradients(&'a Output<'b, F>),
    /// Updated parameters, and the gradient of the embeddings unless it is empty.
    Update(&'a dyn WeightUpdate<F>, &'a ArrayRef2<F>),
}

impl<F: Real> Demand<'_, '_, F> {
    fn check_shapes(&self, input: &StepInput<'_, F>) -> Result<(), Error> {
        let (rows, dims) = input.embeddings.dim();
        match self {
            Demand::Nearest => Ok(()),
            Demand::Losses => input.check_labeled(),
            Demand::Gradients(output) => {
                input.check_labeled()?;
                output.check((rows, dims), input.classes.len(), input.classes.bias.is_some())
            }
            Demand::Update(_, embeddings) if embeddings.is_empty() => Ok(()),
            Demand::Update(_, embeddings) => {
                Error::check_shape("gradients of embeddings", &[rows, dims], embeddings.shape())
            }
        }
    }

    fn embeddings(&self) -> bool {
        match self {
            Demand::Nearest | Demand::Losses => false,
            Demand::Gradients(output) => output.embeddings.is_some(),
            Demand::Update(_, embeddings) => !embeddings.is_empty(),
        }
    }
}

/// Runs the step; `output` is untouched where this rank or another refuses its input.
pub(crate) fn step<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    ranks: Ranks<'_, F>,
    output: Option<Output<'_, F>>,
) -> Result<Forward<F>, Error> {
    let demand = output.as_ref().map_or(Demand::Losses, Demand::Gradients);
    let mut step = Step::agreed(loss, input, workspace, ranks, demand)?;
    let Some(output) = output else {
        step.first_sweep(input, None);
        return step.forward(input, ranks);
    };
    if step.plan.samples == 0 {
        output.clear();
        return step.forward(input, ranks);
    }
    step.forward_backward(input, ranks, output)
}

/// The nearest class of every embedding, without margin: a first sweep whose samples have no class
/// of their own.
pub(super) fn nearest<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    ranks: Ranks<'_, F>,
) -> Result<Vec<usize>, Error> {
    let mut step = Step::agreed(loss, input, workspace, ranks, Demand::Nearest)?;
    step.first_sweep(input, None);
    let rows = input.embeddings.nrows();
    let (mut logits, mut classes) = (vec![F::neg_infinity(); rows], vec![IGNORED; rows]);
    for (i, sample) in step.workspace.prepared.samples.iter().enumerate() {
        let nearest = step.workspace.negatives(i).1;
        logits[sample.row] = nearest.max;
        classes[sample.row] = nearest.class.map_or(IGNORED, |class| input.classes.label_of(class));
    }
    ranks.nearest(&mut logits, &mut classes)?;
    Ok(classes)
}

/// Checks everything and sizes the buffers of the sweeps; returns how these are cut, and bounds on
/// weights and gradients.
fn prepare<F: Real>(
    loss: &dyn MarginLoss,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
    demand: Demand<'_, '_, F>,
) -> Result<(Plan, Bounds), Error> {
    input.check_shapes(loss)?;
    demand.check_shapes(input)?;
    let (rows, dims) = input.embeddings.dim();
    let weight_rows = matches!(demand, Demand::Gradients(output) if output.weights.is_some());
    // Without gradients no logit waits for a second sweep.
    let keeps = !matches!(demand, Demand::Losses | Demand::Nearest);
    let plan = |samples, binary: bool| {
        // The only sweep of a binary loss keeps no logits.
        let budget = if keeps && !binary { input.settings.budget } else { 0 };
        Plan::new(
            (input.settings.level, input.settings.precision),
            (samples, dims, input.classes.len(), input.classes.sub_centers),
            size_of::<F>(),
            budget,
            weight_rows && !binary,
        )
    };
    let threads = rayon::current_num_threads();
    let parallel = plan(rows, false).workers(threads) > 1;
    let earlier = std::mem::take(&mut workspace.prepared);
    let (prepared, bounds) = Prepared::new(loss, input, earlier, parallel)?;
    let plan = plan(prepared.samples.len(), prepared.form.binary.is_some());
    workspace.prepared = prepared;
    let workers = plan.workers(threads);
    workspace.prepare(&plan, workers);
    if keeps {
        let update = matches!(demand, Demand::Update(..));
        workspace.prepare_gradients(&plan, workers, demand.embeddings(), update);
    }
    if let Demand::Update(update, _) = demand {
        check_update(&plan, &bounds, &input.classes, update)?;
    }
    Ok((plan, bounds))
}

/// A step whose input has passed the checks.
pub(super) struct Step<'a, F> {
    pub plan: Plan,
    pub workers: usize,
    pub bounds: Bounds,
    /// Label smoothing among the classes of all ranks.
    smoothing: Smoothing,
    pub workspace: &'a mut Workspace<F>,
}

impl<'a, F: Real> Step<'a, F> {
    /// Prepares the step, unless this rank or another refuses its input.
    pub fn agreed(
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        workspace: &'a mut Workspace<F>,
        ranks: Ranks<'_, F>,
        demand: Demand<'_, '_, F>,
    ) -> Result<Self, Error> {
        let checked = ranks.check_classes(loss, input);
        let prepared = checked.and_then(|()| prepare(loss, input, workspace, demand));
        let counted = prepared.as_ref().map(|(plan, _)| plan.samples).map_err(Clone::clone);
        let classes = ranks.agree(loss, input, counted, demand.embeddings())?;
        let (plan, bounds) = prepared?;
        let Workspace { prepared, hard, targets, .. } = &mut *workspace;
        if let Some(negatives) = prepared.form.hard {
            prepared.write_targets(input.embeddings.nrows(), targets);
            if negatives.cosine().is_none() {
                ranks.sum(targets)?;
            }
            let form = prepared.form;
            let scale = |sample: &PreparedSample| form.product_scale::<F>(sample.norm);
            let samples = prepared.samples.iter();
            hard.set(form, samples.map(|s| (scale(s), targets[s.row].widen())));
        }
        Ok(Step {
            workers: plan.workers(rayon::current_num_threads()),
            plan,
            bounds,
            smoothing: Smoothing::new(prepared.form.smoothing, classes),
            workspace,
        })
    }

    /// How many classes are active, on all ranks.
    pub fn classes(&self) -> usize {
        self.smoothing.classes()
    }

    fn forward_backward(
        &mut self,
        input: &StepInput<'_, F>,
        ranks: Ranks<'_, F>,
        output: Output<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let Output { embeddings, weights, bias } = output;
        let mut weights = weights.map(StandardLayout::new);
        let mut forward = None;
        if self.workspace.prepared.form.binary.is_some() {
            self.binary_terms();
        } else {
            self.first_sweep(input, weights.as_mut().map(StandardLayout::rows));
            forward = Some(self.forward(input, ranks)?);
        }
        self.nearest_gradients(input, embeddings.is_some());
        let mut bias_row = bias.as_ref().map(|bias| vec![F::zero(); bias.len()]);
        let kept = KeptGradients {
            weights: weights.as_mut().map(StandardLayout::rows),
            bias: bias_row.as_deref_mut(),
        };
        let parameters = Parameters::Fixed(input.classes);
        let targets = TargetRows::InPlace(input.classes);
        let x = input.embeddings;
        let embeddings = self.second_sweep(x, parameters, &targets, kept, embeddings);
        if let Some(weights) = weights {
            weights.finish();
        }
        let forward = match forward {
            Some(forward) => forward,
            None => self.forward(input, ranks)?,
        };
        if let (Some(mut out), Some(bias)) = (bias, bias_row) {
            out.assign(&ArrayView1::from(&bias));
        }
        if let Some(embeddings) = embeddings {
            ranks.sum_embeddings(embeddings)?;
        }
        Ok(forward)
    }

    /// The terms of a binary loss, whose pairs need nothing of each other: its losses come from the
    /// sweep that makes the gradients. They are those of this rank's target logits, which no other
    /// rank has rounded.
    fn binary_terms(&mut self) {
        let Workspace { prepared, terms, .. } = &mut *self.workspace;
        let Some(binary) = prepared.form.binary else { return };
        terms.clear();
        terms.extend(prepared.samples.iter().map(|sample| {
            let logit = sample.target.map_or(0.0, |target| target.logit);
            binary.terms(0.0, logit, sample.upstream)
        }));
    }

    /// The first sweep. With a second sweep to come, the logits wait in the rows of the weights'
    /// gradient, if these are long enough, or in the workspace.
    pub fn first_sweep(&mut self, input: &StepInput<'_, F>, rows: Option<&mut [F]>) {
        if self.plan.samples == 0 {
            return;
        }
        let Workspace { prepared, hard, chunks, logits, scratch, .. } = &mut *self.workspace;
        let n = self.plan.samples;
        let stored = match rows {
            Some(rows) if self.plan.in_weight_rows => (rows, self.plan.dims),
            _ => (&mut logits[..self.plan.stored * n], n),
        };
        let sweep = Sweep { plan: &self.plan, prepared, hard };
        sweep.forward(&input.classes, chunks, stored, &mut scratch[..self.workers]);
    }

    /// Combines the statistics of the chunks and of the other ranks, and computes each sample's
    /// terms for the second sweep.
    pub fn forward(
        &mut self,
        input: &StepInput<'_, F>,
        ranks: Ranks<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let rows = input.embeddings.nrows();
        let apart = self.nearest_pairs(input, ranks)?;
        let mut stats = std::mem::take(&mut self.workspace.stats);
        stats.clear();
        let samples = 0..self.workspace.prepared.samples.len();
        stats.extend(samples.map(|i| {
            let apart = apart.get(i).copied().unwrap_or(Apart::NONE);
            self.sample_stats(input, i, apart)
        }));
        let Workspace { prepared, terms, .. } = &mut *self.workspace;
        if !stats.is_empty() {
            ranks.complete(rows, &mut stats)?;
        }
        let mut forward = Forward::with_samples(rows, prepared.form);
        terms.clear();
        for (sample, stats) in prepared.samples.iter().zip(&stats) {
            terms.push(forward.record(stats, self.smoothing, sample.upstream));
        }
        self.workspace.stats = stats;
        self.binary_terms();
        Ok(forward.with_reduction(input.reduction))
    }

    /// The statistics of sample `i` over all chunks.
    fn sample_stats(&self, input: &StepInput<'_, F>, i: usize, apart: Apart) -> SampleStats {
        let sample = &self.workspace.prepared.samples[i];
        let label = input.labels.map_or(IGNORED, |labels| labels[sample.row]);
        let (negatives, nearest) = self.workspace.negatives(i);
        let own = self.workspace.target_logit(&self.plan, i, sample.class);
        let nearer = |class: usize| {
            nearest.max > own || (nearest.max == own && sample.class.is_some_and(|own| class < own))
        };
        let sub_center = sample.class.map_or(0, |class| input.classes.sub_center_of(class));
        let target = sample.target.map(|pair| TargetLogit::new(&pair, sub_center));
        let prediction = match nearest.class {
            Some(class) if target.is_none() || nearer(class) => input.classes.label_of(class),
            _ if target.is_some() => label,
            _ => IGNORED,
        };
        let best = nearest.max.max(own).widen();
        let negative = |class| {
            let form = self.workspace.prepared.form;
            let factor = form.product_scale::<F>(sample.norm);
            input.nearest_negative(form, factor, (class, nearest.max.widen()))
        };
        SampleStats {
            row: sample.row,
            label,
            norm: sample.norm,
            negatives: negatives.merge(apart.negatives),
            margin_free_negatives: self
                .workspace
                .margin_free_negatives(i, negatives)
                .merge(apart.margin_free),
            mean_share: self.smoothing.share(self.workspace.logit_sum(i) + apart.logits),
            target,
            prediction,
            best,
            nearest_negative: nearest.class.map_or(NearestNegative::NONE, negative),
        }
    }

    /// The second sweep; returns the gradient of the embeddings, which it has written.
    pub fn second_sweep<'e>(
        &mut self,
        x: ArrayView2<'_, F>,
        parameters: Parameters<'_, F>,
        targets: &TargetRows<'_, F>,
        KeptGradients { weights, bias }: KeptGradients<'_, F>,
        mut embeddings: Option<ArrayViewMut2<'e, F>>,
    ) -> Option<ArrayViewMut2<'e, F>> {
        let workspace = &mut *self.workspace;
        let Workspace { prepared, logits, partials, shift, coefficients, scratch, .. } = workspace;
        let Workspace { hard, nearest, terms, lifts, uniform, radial, chunks: found, .. } =
            workspace;
        let (n, dims) = (self.plan.samples, self.plan.dims);
        prepared.lift(&self.plan, &self.bounds, terms, lifts);
        for (i, terms) in terms.iter().enumerate() {
            let lift = lifts.get(i).copied().unwrap_or(1.0);
            shift[i] = F::narrow(terms.shift);
            coefficients[i] = F::narrow(terms.coefficient * lift);
            if let Some(uniform) = uniform.get_mut(i) {
                *uniform = F::narrow(terms.uniform * lift);
            }
        }
        let (shift, coefficients, terms) = (&shift[..n], &coefficients[..n], &terms[..]);
        let factors = LogitCoefficients {
            shift,
            coefficients,
            uniform,
            lifts,
            terms,
            nearest,
            embeddings: x.view(),
        };
        let scratch = &mut scratch[..self.workers];
        let asked_for = if embeddings.is_some() { self.plan.chunks * n * dims } else { 0 };
        let partials = &mut partials[..asked_for];
        let stored = &logits[..self.plan.stored * n];
        let sweep = Sweep { plan: &self.plan, prepared, hard };
        let output = SweepOutput { parameters, weights, bias, partials, radial, found };
        sweep.backward(factors, output, stored, scratch);
        if let Some(embeddings) = &mut embeddings {
            let parts = (&*partials, &radial[..]);
            sweep.embedding_gradients(factors, targets, parts, embeddings.view_mut(), scratch);
        }
        embeddings
    }
}

/// The gradients of the class parameters requested from a step.
#[derive(Default)]
pub(super) struct KeptGradients<'a, F> {
    pub weights: Option<&'a mut [F]>,
    pub bias: Option<&'a mut [F]>,
}
