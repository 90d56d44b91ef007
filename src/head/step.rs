//! One step, from its input to losses and gradients.

use ndarray::{ArrayView1, ArrayViewMut2};

use super::communication::{Communication, SampleStats, StepReport, TargetLogit};
use super::first_sweep::Sweep;
use super::plan::Plan;
use super::prepare::StepInput;
use super::second_sweep::{LogitCoefficients, SweepOutput};
use super::workspace::Workspace;
use crate::data::{Forward, IGNORED, Output};
use crate::error::Error;
use crate::kernel::{Level, Real};
use crate::loss::MarginLoss;
use crate::math::{Smoothing, sample_terms};

/// Runs the step; `output` is untouched where this rank or another refuses its input.
pub(crate) fn step<F: Real, L: MarginLoss>(
    loss: &L,
    input: &StepInput<'_, F>,
    budget: usize,
    workspace: &mut Workspace<F>,
    communication: &impl Communication<F>,
    output: Option<Output<'_, F>>,
) -> Result<Forward<F>, Error> {
    let prepared = Step::prepare(loss, input, budget, workspace, output.as_ref());
    let report = match &prepared {
        Ok(step) => Ok(StepReport {
            counted: step.plan.samples,
            classes: step.plan.classes,
            embeddings: output.as_ref().is_some_and(|output| output.embeddings.is_some()),
            precision: input.precision,
        }),
        Err(error) => Err(error.clone()),
    };
    let classes = communication.agree(loss, report)?;
    let mut step = prepared?;
    step.smoothing = Smoothing::new(step.workspace.prepared.form.smoothing, classes);
    let Some(output) = output else {
        step.first_sweep(None);
        return step.forward(communication);
    };
    if step.plan.samples == 0 {
        output.clear();
        return step.forward(communication);
    }
    step.forward_backward(communication, output)
}

/// The nearest class of every embedding, without margin: a first sweep whose samples have no class
/// of their own.
pub(crate) fn nearest<F: Real, L: MarginLoss>(
    loss: &L,
    input: &StepInput<'_, F>,
    workspace: &mut Workspace<F>,
) -> Result<Vec<usize>, Error> {
    let mut step = Step::prepare(loss, input, 0, workspace, None)?;
    step.first_sweep(None);
    let mut nearest = vec![IGNORED; input.embeddings.nrows()];
    for (i, sample) in step.workspace.prepared.samples.iter().enumerate() {
        let class = step.workspace.negatives(&step.plan, i).1.class;
        nearest[sample.row] = class.map_or(IGNORED, |class| input.classes.label_of(class));
    }
    Ok(nearest)
}

struct Step<'a, 'b, F> {
    input: &'a StepInput<'b, F>,
    plan: Plan,
    workers: usize,
    /// Label smoothing among the classes of all ranks, once these agree.
    smoothing: Smoothing,
    workspace: &'a mut Workspace<F>,
}

impl<'a, 'b, F: Real> Step<'a, 'b, F> {
    /// Checks everything and sizes the buffers of the sweeps.
    fn prepare<L: MarginLoss>(
        loss: &L,
        input: &'a StepInput<'b, F>,
        budget: usize,
        workspace: &'a mut Workspace<F>,
        output: Option<&Output<'_, F>>,
    ) -> Result<Self, Error> {
        input.check_shapes()?;
        let (rows, dims) = input.embeddings.dim();
        let classes = input.classes.len();
        if let Some(output) = output {
            output.check((rows, dims), classes, input.classes.bias.is_some())?;
        }
        let level = Level::detect();
        let weight_rows = output.is_some_and(|output| output.weights.is_some());
        // Without gradients no logit waits for a second sweep.
        let budget = if output.is_some() { budget } else { 0 };
        let plan = |samples| {
            Plan::new(
                (level, input.precision),
                (samples, dims, classes),
                size_of::<F>(),
                budget,
                weight_rows,
            )
        };
        let threads = rayon::current_num_threads();
        let parallel = plan(rows).workers(threads) > 1;
        input.prepare(loss, level, &mut workspace.prepared, parallel)?;
        let plan = plan(workspace.prepared.samples.len());
        let workers = plan.workers(threads);
        workspace.prepare(&plan, workers);
        if let Some(output) = output {
            workspace.prepare_gradients(&plan, workers, output.embeddings.is_some());
        }
        Ok(Step { input, plan, workers, smoothing: Smoothing::new(0.0, 0), workspace })
    }

    fn forward_backward(
        &mut self,
        communication: &impl Communication<F>,
        output: Output<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let Output { mut embeddings, weights, bias } = output;
        let mut weights = weights.map(StandardLayout::new);
        self.first_sweep(weights.as_mut().map(StandardLayout::rows));
        let forward = self.forward(communication)?;
        let mut bias_row = bias.as_ref().map(|bias| vec![F::zero(); bias.len()]);
        let rows = weights.as_mut().map(StandardLayout::rows);
        self.second_sweep(rows, bias_row.as_deref_mut(), embeddings.as_mut().map(|e| e.view_mut()));
        if let Some(weights) = weights {
            weights.finish();
        }
        if let (Some(mut out), Some(bias)) = (bias, bias_row) {
            out.assign(&ArrayView1::from(&bias));
        }
        if let Some(embeddings) = embeddings {
            communication.sum_embeddings(embeddings)?;
        }
        Ok(forward)
    }

    /// The first sweep. With a second sweep to come, the logits wait in the rows of the weights'
    /// gradient, if these are long enough, or in the workspace.
    fn first_sweep(&mut self, rows: Option<&mut [F]>) {
        if self.plan.samples == 0 {
            return;
        }
        let Workspace { prepared, chunks, logits, scratch, .. } = &mut *self.workspace;
        let n = self.plan.samples;
        let stored = match rows {
            Some(rows) if self.plan.in_weight_rows => (rows, self.plan.dims),
            _ => (&mut logits[..self.plan.stored * n], n),
        };
        let sweep = Sweep { plan: &self.plan, input: self.input, prepared };
        sweep.forward(chunks, stored, &mut scratch[..self.workers]);
    }

    /// Combines the statistics of the chunks and of the other ranks, and computes each sample's
    /// terms for the second sweep.
    fn forward(&mut self, communication: &impl Communication<F>) -> Result<Forward<F>, Error> {
        let rows = self.input.embeddings.nrows();
        let mut stats = std::mem::take(&mut self.workspace.stats);
        stats.clear();
        let samples = 0..self.workspace.prepared.samples.len();
        stats.extend(samples.map(|i| self.sample_stats(i)));
        let Workspace { prepared, terms, .. } = &mut *self.workspace;
        if !stats.is_empty() {
            communication.complete(rows, prepared.form.smoothing > 0.0, &mut stats)?;
        }
        let mut forward = Forward::with_samples(rows, prepared.form);
        terms.clear();
        for (sample, stats) in prepared.samples.iter().zip(&stats) {
            let outcome = stats.outcome();
            let target_logit = outcome.map_or(f64::INFINITY, |outcome| outcome.target_logit);
            let plain = sample_terms(stats.negatives, target_logit, sample.upstream);
            terms.push(self.smoothing.gradients(plain, sample.upstream));
            if let Some(outcome) = outcome {
                let added = self.smoothing.loss(outcome.target_logit, outcome.mean_share);
                forward.record(stats.row, stats.label, plain.loss + added, &outcome);
            }
        }
        self.workspace.stats = stats;
        Ok(forward)
    }

    /// The statistics of sample `i` over all chunks.
    fn sample_stats(&self, i: usize) -> SampleStats {
        let sample = &self.workspace.prepared.samples[i];
        let label = self.input.labels.map_or(IGNORED, |labels| labels[sample.row]);
        let (negatives, nearest) = self.workspace.negatives(&self.plan, i);
        let own = self.workspace.target_logit(&self.plan, i, sample.class);
        let nearer = |class: usize| {
            nearest.max > own || (nearest.max == own && sample.class.is_some_and(|own| class < own))
        };
        let target = sample.target.map(|target| TargetLogit {
            logit: target.logit,
            margin_free: target.margin_free_logit,
            angle: target.angle.theta,
        });
        let prediction = match nearest.class {
            Some(class) if target.is_none() || nearer(class) => self.input.classes.label_of(class),
            _ if target.is_some() => label,
            _ => IGNORED,
        };
        let best = nearest.max.max(own).widen();
        SampleStats {
            row: sample.row,
            label,
            norm: sample.norm,
            negatives,
            mean_share: self.smoothing.share(self.workspace.logit_sum(&self.plan, i)),
            target,
            prediction,
            best,
        }
    }

    fn second_sweep(
        &mut self,
        weights: Option<&mut [F]>,
        bias: Option<&mut [F]>,
        embeddings: Option<ArrayViewMut2<'_, F>>,
    ) {
        let workspace = &mut *self.workspace;
        let Workspace { prepared, logits, partials, shift, coefficients, scratch, .. } = workspace;
        let Workspace { terms, uniform, .. } = workspace;
        let (n, dims) = (self.plan.samples, self.plan.dims);
        for ((terms, shift), coefficient) in terms.iter().zip(&mut *shift).zip(&mut *coefficients) {
            *shift = F::narrow(terms.shift);
            *coefficient = F::narrow(terms.coefficient);
        }
        for (terms, uniform) in terms.iter().zip(&mut *uniform) {
            *uniform = F::narrow(terms.uniform);
        }
        let terms = &terms[..];
        let (shift, coefficients) = (&shift[..n], &coefficients[..n]);
        let factors = LogitCoefficients { shift, coefficients, uniform, terms };
        let scratch = &mut scratch[..self.workers];
        let asked_for = if embeddings.is_some() { self.plan.chunks * n * dims } else { 0 };
        let partials = &mut partials[..asked_for];
        let stored = &logits[..self.plan.stored * n];
        let sweep = Sweep { plan: &self.plan, input: self.input, prepared };
        sweep.backward(factors, SweepOutput { weights, bias, partials }, stored, scratch);
        if let Some(embeddings) = embeddings {
            sweep.embedding_gradients(terms, partials, embeddings, scratch);
        }
    }
}

/// The rows of a gradient one after the other: in place, or in a copy where they lie otherwise.
struct StandardLayout<'a, F> {
    target: ArrayViewMut2<'a, F>,
    copy: Vec<F>,
}

impl<'a, F: Real> StandardLayout<'a, F> {
    fn new(mut target: ArrayViewMut2<'a, F>) -> Self {
        let in_place = target.as_slice_mut().is_some();
        let copy = if in_place { Vec::new() } else { vec![F::zero(); target.len()] };
        StandardLayout { target, copy }
    }

    fn rows(&mut self) -> &mut [F] {
        match self.target.as_slice_mut() {
            Some(rows) => rows,
            None => &mut self.copy,
        }
    }

    fn finish(mut self) {
        if self.target.as_slice_mut().is_none() {
            let dims = self.target.ncols();
            let rows = self.target.rows_mut().into_iter().zip(self.copy.chunks_exact(dims));
            rows.for_each(|(mut row, copy)| row.assign(&ArrayView1::from(copy)));
        }
    }
}
