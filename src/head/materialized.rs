//! The losses of materialized logits: steps over the vectors that these were built from, or over
//! their cosines alone.

use ndarray::{Array2, ArrayViewMut2, Axis, Zip, s};

use super::step::{Demand, Step, step};
use super::sweep::Chunk;
use crate::data::{Batch, Bounds, Forward, Given, IGNORED, Reduction, Samples, Scale, check_bound};
use crate::error::Error;
use crate::kernel::{Real, job};
use crate::logits::{LogitGradients, NormalizedLogits};
use crate::loss::{MarginLoss, cosine_slope};
use crate::math::{SINGULAR, Sample};
use crate::step::{
    NearestPair, Plan, PreparedSample, Ranks, Settings, StepInput, Workspace, ZeroEmbedding,
};

impl<F: Real> NormalizedLogits<F> {
    /// See [`MarginLoss::forward`].
    pub(crate) fn losses_of(
        &self,
        loss: &dyn MarginLoss,
        labels: &[usize],
    ) -> Result<Forward<F>, Error> {
        losses(self, loss, labels)
    }

    /// See [`MarginLoss::backward_into`].
    pub(crate) fn gradients_of(
        &self,
        loss: &dyn MarginLoss,
        labels: &[usize],
        forward: &Forward<F>,
        reduction: Reduction<'_, F>,
        gradients: &mut LogitGradients<F>,
    ) -> Result<(), Error> {
        with_gradients(self, loss, labels, forward, reduction, gradients)
    }

    /// See [`MarginLoss::margin_free_logits`].
    pub(crate) fn margin_free_of(&self, loss: &dyn MarginLoss) -> Result<Array2<F>, Error> {
        margin_free(self, loss)
    }

    /// What a step over these logits reads. Their norms alone, where only the cosines are known, are
    /// those of vectors of one dimension.
    fn input<'a>(
        &'a self,
        loss: &dyn MarginLoss,
        labels: Option<&'a [usize]>,
        reduction: Option<Reduction<'a, F>>,
    ) -> Result<StepInput<'a, F>, Error> {
        let supported = self.samples.sub_centers == 1 || loss.scale() != Scale::Unnormalized;
        let reason = "sub-centers are chosen by their cosines, and the logits of Softmax are none: \
                      only Head takes both";
        Error::check_supported(supported, reason)?;
        let samples = Samples { labels, ..self.samples };
        let cosines = self.cosines.view();
        let (embeddings, weights, samples, given) = match &self.source {
            Some(source) => {
                let [x, w] = &source.vectors;
                // Of other rows of a class, and of products out of range, the cosines are not there.
                let known =
                    samples.sub_centers == 1 && !source.extreme.iter().flatten().any(|&e| e);
                let given = Given { cosines, norms: Some(&source.norms[1]) };
                (x.view(), w.view(), samples, known.then_some(given))
            }
            None => {
                let weight_norms = self.weight_norms.slice(s![..self.cosines.ncols()]);
                let norms = [self.feature_norms.view(), weight_norms];
                let [x, w] = norms.map(|norms| norms.insert_axis(Axis(1)));
                (x, w, Samples { sub_centers: 1, ..samples }, Some(Given { cosines, norms: None }))
            }
        };
        let [bias, log_prior] = [&self.bias, &self.log_prior].map(|v| v.as_ref().map(|v| v.view()));
        let batch = Batch { embeddings, weights, bias, log_prior, samples };
        // No logit waits between the sweeps: nothing of the size of the cosines is allocated.
        let settings = Settings::default().with_memory_budget(0);
        let mut input = StepInput { reduction, ..StepInput::new(settings, batch, None) };
        input.classes.given = given;
        Ok(input)
    }
}

job!(
    fn losses<'a>(
        logits: &'a NormalizedLogits<F>,
        loss: &'a dyn MarginLoss,
        labels: &'a [usize],
    ) -> Result<Forward<F>, Error> {
        let input = logits.input(loss, Some(labels), None)?;
        let forward = step(loss, &input, &mut Workspace::default(), Ranks(None), None)?;
        if logits.source.is_some() {
            return Ok(forward);
        }
        Ok(forward.with_sub_centers(|i| logits.nearest(i, labels[i])))
    }
);

job!(
    fn with_gradients<'a>(
        logits: &'a NormalizedLogits<F>,
        loss: &'a dyn MarginLoss,
        labels: &'a [usize],
        forward: &'a Forward<F>,
        reduction: Reduction<'a, F>,
        gradients: &'a mut LogitGradients<F>,
    ) -> Result<(), Error> {
        let input = logits.input(loss, Some(labels), Some(reduction))?;
        let mut workspace = Workspace::default();
        let mut step = Step::agreed(loss, &input, &mut workspace, Ranks(None), Demand::Cosines)?;
        Error::check_shape("forward", &[labels.len()], forward.losses.shape())?;
        gradients.check(logits)?;
        step.first_sweep(&input, &mut []);
        let found = step.forward(&input)?;
        step.keep_pairs(&input, false);
        step.check_forward(forward, &found, logits.cosines.ncols())?;
        let slopes = step.cosine_slopes(loss, &input);
        step.check_cosines(&slopes)?;
        gradients.clear(labels, logits);
        if step.plan.samples < labels.len() {
            gradients.cosines.fill(F::zero());
        }
        gradients.bias_gradient = found.reduced_bias(reduction);
        if step.plan.samples > 0 {
            step.sweep_cosines(&input, gradients.cosines.view_mut())?;
            step.finish_cosines(&slopes, logits, gradients);
        }
        Ok(())
    }
);

impl<F: Real> Step<'_, F> {
    /// Writes the gradients of the cosines but for the pairs of the samples.
    fn sweep_cosines(
        &mut self,
        input: &StepInput<'_, F>,
        gradients: ArrayViewMut2<'_, F>,
    ) -> Result<(), Error> {
        let Some(cosines) = self.plan.whole_rows(&input.classes) else {
            let chunks = Chunk::with_cosines(&self.plan, input.classes, gradients);
            return self.second_sweep(input.embeddings, chunks, &mut Array2::zeros((0, 0)));
        };
        self.workspace.set_coefficients(&self.plan, &self.bounds);
        self.sweep(input.embeddings, |sweep, _, workers| {
            sweep.backward_rows(&input.classes, cosines, gradients, workers);
        });
        Ok(())
    }

    /// Refuses a `forward` that is not the one `found` in this step, but for the order of its sums.
    fn check_forward(
        &self,
        forward: &Forward<F>,
        found: &Forward<F>,
        classes: usize,
    ) -> Result<(), Error> {
        let counts = |forward: &Forward<F>, row: usize| forward.predictions()[row] != IGNORED;
        let rows = 0..found.losses.len();
        let mut different: Vec<usize> =
            rows.filter(|&row| counts(forward, row) != counts(found, row)).collect();
        for PreparedSample { row, norm, target, .. } in &self.workspace.samples {
            let value = target.map_or(0.0, |target| target.target.value);
            let largest = self.bounds.logit(*norm, value) * self.bounds.negatives.1;
            if !found.is_of_same_pass(forward, *row, (largest, classes)) {
                different.push(*row);
            }
        }
        different.into_iter().min().map_or(Ok(()), |row| Err(Error::Forward { row }))
    }

    /// df/dcos θ of each sample's target.
    fn cosine_slopes(&self, loss: &dyn MarginLoss, input: &StepInput<'_, F>) -> Vec<f64> {
        let of_sample = |sample: &PreparedSample| {
            let (target, class) = (sample.target?, sample.class?);
            let (label, row) = (input.classes.label_of(class), input.samples.first_row);
            let row = row.wrapping_add(sample.row);
            let seen = Sample::new(target.angle, sample.norm, label, row);
            Some(cosine_slope(loss, &seen, target.target))
        };
        let samples = self.workspace.samples.iter();
        samples.map(|sample| of_sample(sample).unwrap_or(0.0)).collect()
    }

    /// Refuses gradients of cosines that may leave the range of the type.
    fn check_cosines(&self, slopes: &[f64]) -> Result<(), Error> {
        let Workspace { samples, nearest, .. } = &*self.workspace;
        let mut steepest = slopes.to_vec();
        for pair in nearest {
            steepest[pair.sample] = steepest[pair.sample].abs().max(nearest_slope(pair).abs());
        }
        let Bounds { negatives: (_, of_negatives), .. } = self.bounds;
        for (PreparedSample { row, norm, upstream, target, .. }, slope) in
            samples.iter().zip(steepest)
        {
            let by_angle = target.map_or(0.0, |target| target.target.slope.abs());
            let steepest = slope.abs().max(by_angle).max(of_negatives);
            // Of the gradients of the logits none exceeds the loss's own but for label smoothing.
            let gradient = upstream.abs() * (1.0 + self.plan.form.smoothing);
            let bound = gradient * self.bounds.factor(*norm) * steepest;
            check_bound::<F>("the gradient of the cosines", Some(*row), bound)?;
        }
        Ok(())
    }

    /// Adds the pairs of the samples to the gradients of the cosines, and what follows from these: the
    /// gradients of norms and bias.
    fn finish_cosines(
        &self,
        slopes: &[f64],
        logits: &NormalizedLogits<F>,
        gradients: &mut LogitGradients<F>,
    ) {
        let Workspace { samples, nearest, lifts, chunks, .. } = &*self.workspace;
        let Plan { form, sub_centers, .. } = self.plan;
        let mut along_norms = vec![0.0; self.plan.samples];
        if form.scale == Scale::Unnormalized {
            self.finish_logits(&mut along_norms, logits, gradients);
        } else if form.scale == Scale::FeatureNorm {
            for (i, (sample, along)) in samples.iter().zip(&mut along_norms).enumerate() {
                let cosines = logits.cosines.row(sample.row);
                let products = gradients.cosines.row(sample.row).into_iter().zip(cosines);
                let products: f64 = products.map(|(g, c)| g.widen() * c.widen()).sum();
                let hard: f64 = chunks.iter().filter_map(|chunk| chunk.radial.get(i)).sum();
                let by_norm =
                    hard / lifts.get(i).unwrap_or(&1.0) / form.product_scale::<F>(sample.norm);
                *along = products + by_norm * sample.norm;
            }
        }
        for pair in nearest {
            let (i, by_function) = (pair.sample, pair.gradient * pair.pair.scale);
            let place = [samples[i].row, pair.class / sub_centers];
            gradients.cosines[place] = F::narrow(by_function * nearest_slope(pair));
            along_norms[i] += by_function * pair.pair.target.value;
        }
        for (i, sample) in samples.iter().enumerate() {
            let (Some(pair), Some(class)) = (&sample.target, sample.class) else { continue };
            let by_function = sample.terms.target_gradient * pair.scale;
            let place = [sample.row, class / sub_centers];
            gradients.cosines[place] = F::narrow(by_function * slopes[i]);
            gradients.target_angles[sample.row] = F::narrow(by_function * pair.target.slope);
            let by_loss = pair.by_norm(sample.terms.target_gradient, sample.upstream);
            let by_scale = match form.scale {
                Scale::FeatureNorm | Scale::Unnormalized if sample.norm > 0.0 => {
                    (along_norms[i] + by_function * pair.target.value) / sample.norm
                }
                _ => 0.0,
            };
            gradients.feature_norms[sample.row] = F::narrow(by_scale + by_loss);
        }
    }

    /// Turns gradients of inner products into those of their cosines and of the norms of the weights,
    /// keeps them for vectors without a direction, and adds them to those of the bias. Adds what
    /// they give the norms of the samples, times these, to `along_norms`.
    fn finish_logits(
        &self,
        along_norms: &mut [f64],
        logits: &NormalizedLogits<F>,
        gradients: &mut LogitGradients<F>,
    ) {
        let classes = logits.cosines.ncols();
        let weight_norms = logits.norms_of_weights();
        let [mut norms, mut biases] = [vec![0.0; classes], vec![0.0; classes]];
        for (i, sample) in self.workspace.samples.iter().enumerate() {
            let (Some(pair), Some(class)) = (&sample.target, sample.class) else { continue };
            let mut by_logit: Vec<f64> =
                gradients.cosines.row(sample.row).iter().map(|g| g.widen()).collect();
            for (j, (&by_logit, c)) in
                by_logit.iter().zip(logits.cosines.row(sample.row)).enumerate()
            {
                let by_cosine = by_logit * (sample.norm * weight_norms[j]);
                along_norms[i] += by_cosine * c.widen();
                norms[j] += by_logit * sample.norm * c.widen();
                biases[j] += by_logit;
                gradients.cosines[[sample.row, j]] = F::narrow(by_cosine);
            }
            norms[class] += sample.terms.target_gradient * sample.norm * pair.target.value;
            biases[class] += sample.terms.target_gradient;
            by_logit[class] = sample.terms.target_gradient;
            if let (Some(source), true) = (&logits.source, self.plan.form.plain) {
                gradients.keep_extreme(source, sample.row, &by_logit);
            }
        }
        gradients.weight_norms = norms.into_iter().map(F::narrow).collect();
        if let Some(bias) = &mut gradients.bias {
            *bias = biases.into_iter().map(F::narrow).collect();
        }
        gradients.extreme_embeddings.sort_unstable_by_key(|(row, _)| *row);
    }
}

/// d cos(θ − m′)/d cos θ of a nearest negative; 0 where there is none.
fn nearest_slope(NearestPair { pair, .. }: &NearestPair) -> f64 {
    if pair.angle.sin > SINGULAR { -pair.target.slope / pair.angle.sin } else { 0.0 }
}

job!(
    fn margin_free<'a>(
        logits: &'a NormalizedLogits<F>,
        loss: &'a dyn MarginLoss,
    ) -> Result<Array2<F>, Error> {
        let mut input = logits.input(loss, None, None)?;
        if logits.samples.ignored.is_some() {
            input.settings = input.settings.with_zero_embeddings(ZeroEmbedding::Skip);
        }
        input.check_shapes(loss)?;
        let mut workspace = Workspace::default();
        let (form, _) = workspace.prepare(loss, &input, 1)?;
        let weight_norms = logits.norms_of_weights();
        let mut out = Array2::zeros(logits.cosines.dim());
        for PreparedSample { row, norm, .. } in workspace.samples {
            let cosines = logits.cosines.row(row);
            Zip::indexed(out.row_mut(row)).and(cosines).for_each(|j, out: &mut F, c| {
                let scale = form.pair_scale(norm, weight_norms[j * logits.samples.sub_centers]);
                *out = F::narrow(scale * c.widen());
            });
            if let Some(bias) = &logits.bias {
                let mut row = out.row_mut(row);
                row += bias;
            }
        }
        Ok(out)
    }
);
