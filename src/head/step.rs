//! One step, from inputs to losses and gradients.

use ndarray::{ArrayView1, ArrayViewMut1, ArrayViewMut2};

use super::backward::{Shares, embedding_gradients};
use super::exchange::{Alone, Exchange, Finding, Own};
use super::forward::Sweep;
use super::plan::Plan;
use super::samples::Inputs;
use super::workspace::Workspace;
use crate::batch::{Forward, Reduction};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::{MarginLoss, Scale};

/// Where the gradients go.
pub(crate) struct Output<'a, F> {
    pub embeddings: ArrayViewMut2<'a, F>,
    pub weights: ArrayViewMut2<'a, F>,
    pub bias: Option<ArrayViewMut1<'a, F>>,
}

/// What a step is asked to do.
pub(crate) struct Task<'a, F> {
    pub inputs: Inputs<'a, F>,
    /// The class of each embedding, by the caller's numbers.
    pub labels: &'a [usize],
    /// What the gradients are those of; `None` where there are to be none.
    pub reduction: Option<Reduction<'a, F>>,
    /// What was found wrong before any number was looked at.
    pub checked: Result<(), Error>,
}

/// Runs the step; `output` is untouched where the inputs are refused.
pub(crate) fn step<F: Real, L: MarginLoss>(
    loss: &L,
    task: &Task<'_, F>,
    budget: usize,
    workspace: &mut Workspace<F>,
    exchange: &impl Exchange<F>,
    output: Option<Output<'_, F>>,
) -> Result<Forward<F>, Error> {
    let Some(mut step) = Step::begin(loss, task, budget, workspace, exchange)? else {
        if let Some(output) = output {
            output.clear();
        }
        return Ok(Forward::with_samples(task.labels.len()));
    };
    match output {
        None => {
            step.forward(None);
            step.record(task.labels, exchange)
        }
        Some(output) => step.forward_backward(task.labels, exchange, output),
    }
}

/// The nearest class of every embedding, without margin: a first sweep whose samples have no class
/// of their own.
pub(crate) fn nearest<F: Real, L: MarginLoss>(
    loss: &L,
    inputs: Inputs<'_, F>,
    workspace: &mut Workspace<F>,
) -> Result<Vec<usize>, Error> {
    let mut nearest = vec![0; inputs.labels.len()];
    let task = Task { inputs, labels: inputs.labels, reduction: None, checked: Ok(()) };
    if let Some(mut step) = Step::begin(loss, &task, 0, workspace, &Alone)? {
        step.forward(None);
        for (i, sample) in step.workspace.look.samples.iter().enumerate() {
            nearest[sample.row] = step.workspace.negatives(&step.plan, i).1.class;
        }
    }
    Ok(nearest)
}

struct Step<'a, 'b, F> {
    inputs: &'a Inputs<'b, F>,
    scale: Scale,
    plan: Plan,
    workers: usize,
    workspace: &'a mut Workspace<F>,
}

impl<'a, 'b, F: Real> Step<'a, 'b, F> {
    /// Checks everything and makes room for the first sweep; `None` where no sample counts.
    fn begin<L: MarginLoss>(
        loss: &L,
        task: &'a Task<'b, F>,
        budget: usize,
        workspace: &'a mut Workspace<F>,
        exchange: &impl Exchange<F>,
    ) -> Result<Option<Self>, Error> {
        let Task { inputs, reduction, checked, .. } = task;
        let (rows, dims) = inputs.embeddings.dim();
        let plan = |samples| Plan::new(samples, dims, inputs.classes.len(), size_of::<F>(), budget);
        let threads = rayon::current_num_threads();
        let parallel = plan(rows).workers(threads) > 1;
        let prepared = checked
            .clone()
            .and_then(|()| inputs.prepare(loss, *reduction, &mut workspace.look, parallel))
            .map(|()| workspace.look.samples.len());
        exchange.agree(prepared)?;
        let samples = workspace.look.samples.len();
        if samples == 0 {
            return Ok(None);
        }
        let plan = plan(samples);
        let workers = plan.workers(threads);
        workspace.prepare(&plan, workers);
        Ok(Some(Step { inputs, scale: loss.scale(), plan, workers, workspace }))
    }

    fn forward_backward(
        &mut self,
        labels: &[usize],
        exchange: &impl Exchange<F>,
        mut output: Output<'_, F>,
    ) -> Result<Forward<F>, Error> {
        self.workspace.prepare_gradients(&self.plan, self.workers);
        let mut copy = Vec::new();
        let weights = match output.weights.as_slice_mut() {
            Some(weights) => weights,
            None => {
                copy.resize(self.plan.classes * self.plan.dims, F::zero());
                &mut copy[..]
            }
        };
        self.forward(Some(weights));
        let forward = self.record(labels, exchange)?;
        let target_logits = self.share(&forward);
        let mut bias = output.bias.as_ref().map(|bias| vec![F::zero(); bias.len()]);
        self.backward(&target_logits, weights, bias.as_deref_mut(), output.embeddings.view_mut());
        if !copy.is_empty() {
            for (mut row, copy) in
                output.weights.rows_mut().into_iter().zip(copy.chunks_exact(self.plan.dims))
            {
                row.assign(&ArrayView1::from(copy));
            }
        }
        if let (Some(mut out), Some(bias)) = (output.bias, bias) {
            out.assign(&ArrayView1::from(&bias));
        }
        exchange.add_up(output.embeddings)?;
        Ok(forward)
    }

    /// The first sweep. With a weight gradient to come, the logits stay in its rows, if they fit,
    /// or in the workspace.
    fn forward(&mut self, gradient: Option<&mut [F]>) {
        let Workspace { look, found, logits, scratch, .. } = &mut *self.workspace;
        let n = self.plan.samples;
        let kept = match gradient {
            Some(gradient) if self.plan.logits_fit_in_gradient() => (gradient, self.plan.dims),
            Some(_) => (&mut logits[..self.plan.stored * n], n),
            None => (&mut [][..], n),
        };
        let Step { plan, inputs, scale, .. } = self;
        let sweep = Sweep { plan, inputs, scale: *scale, look };
        sweep.forward(found, kept, &mut scratch[..self.workers]);
    }

    /// Puts together what the chunks found, and what is found elsewhere.
    fn record(
        &mut self,
        labels: &[usize],
        exchange: &impl Exchange<F>,
    ) -> Result<Forward<F>, Error> {
        let mut findings = std::mem::take(&mut self.workspace.findings);
        findings.clear();
        findings.extend((0..self.workspace.look.samples.len()).map(|i| self.finding(i, labels)));
        exchange.complete(labels.len(), &mut findings)?;
        let mut forward = Forward::with_samples(labels.len());
        for finding in &findings {
            if let Some(outcome) = finding.outcome() {
                forward.record(finding.row, finding.label, outcome);
            }
        }
        self.workspace.findings = findings;
        Ok(forward)
    }

    /// What the chunks together found of sample `i`.
    fn finding(&self, i: usize, labels: &[usize]) -> Finding {
        let sample = &self.workspace.look.samples[i];
        let (negatives, nearest) = self.workspace.negatives(&self.plan, i);
        let plain = self.workspace.target_logit(&self.plan, i, sample.class);
        let beaten = nearest.max > plain || (nearest.max == plain && nearest.class < sample.class);
        let own = sample.target.map(|t| Own { logit: t.logit, angle: t.pair.angle.theta });
        Finding {
            row: sample.row,
            label: labels[sample.row],
            negatives,
            own,
            prediction: match own {
                Some(_) if !beaten => labels[sample.row],
                _ if nearest.class < self.plan.classes => {
                    self.inputs.classes.number_of(nearest.class)
                }
                _ => usize::MAX,
            },
            best: nearest.max.max(plain).widen(),
        }
    }

    /// Fills each sample's shift and coefficient for the second sweep; answers
    /// $\gamma = -g\sigma$.
    fn share(&mut self, forward: &Forward<F>) -> Vec<f64> {
        let Workspace { look, shift, coefficients, .. } = &mut *self.workspace;
        let shares = look.samples.iter().zip(shift).zip(coefficients);
        shares
            .map(|((sample, shift), coefficient)| {
                let negatives = forward.negatives[sample.row];
                let pull = sample.upstream * forward.misses[sample.row];
                // Without a negative the shift is -inf and nothing is shared.
                *shift = F::narrow(negatives.max).max(F::min_value());
                *coefficient =
                    if negatives.sum > 0.0 { F::narrow(pull / negatives.sum) } else { F::zero() };
                -pull
            })
            .collect()
    }

    fn backward(
        &mut self,
        target_logits: &[f64],
        weights: &mut [F],
        bias: Option<&mut [F]>,
        gradients: ArrayViewMut2<'_, F>,
    ) {
        let Workspace { look, logits, partials, shift, coefficients, scratch, .. } =
            &mut *self.workspace;
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let shares = Shares { shift: &shift[..n], coefficients: &coefficients[..n], target_logits };
        let scratch = &mut scratch[..self.workers];
        let partials = &mut partials[..self.plan.chunks * n * dims];
        let stored = &logits[..self.plan.stored * n];
        let Step { plan, inputs, scale, .. } = self;
        let sweep = Sweep { plan, inputs, scale: *scale, look };
        sweep.backward(shares, (weights, bias), stored, partials, scratch);
        embedding_gradients(&sweep, shares, partials, gradients, scratch);
    }
}

impl<F: Real> Output<'_, F> {
    /// Zeros: the gradient of nothing.
    fn clear(mut self) {
        self.embeddings.fill(F::zero());
        self.weights.fill(F::zero());
        if let Some(mut bias) = self.bias {
            bias.fill(F::zero());
        }
    }
}
