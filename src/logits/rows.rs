//! Forward and backward over the rows of the cosines, one pass each.

use ndarray::Array2;

use super::{LogitGradients, NormalizedLogits, for_workers};
use crate::data::{
    Bounds, Forward, IGNORED, LogitForm, Reduction, SampleStats, Scale, TargetLogit, TargetPair,
    check_norm, has_direction, largest_safe,
};
use crate::error::Error;
use crate::kernel::{self, HardRow, Level, Real, RowLogits, job};
use crate::math::{Angle, LogSumExp, Sample, SampleTarget, SampleTerms, Smoothing, sample_terms};
use crate::parallel::run_jobs;

/// What a loss returns for the target angle of one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetAnswer {
    pub target: SampleTarget,
    /// df/dcos θ, or its convention at the ends.
    pub cosine_slope: f64,
}

/// The target pair of a sample that counts.
#[derive(Clone, Copy)]
struct RowTarget {
    pair: TargetPair,
    cosine_slope: f64,
    /// The row of class weights that the pair is of.
    row: usize,
}

/// See [`MarginLoss::forward`](crate::MarginLoss::forward); `answer` evaluates the loss for
/// a sample.
pub(crate) fn forward<F: Real>(
    form: LogitForm,
    logits: &NormalizedLogits<F>,
    labels: &[usize],
    answer: Answer<'_>,
) -> Result<Forward<F>, Error> {
    F::run::<RunForward<'_>>((form, logits, labels, answer))
}

/// What evaluates a loss for a sample.
pub(crate) type Answer<'a> = &'a dyn Fn(&Sample) -> Result<TargetAnswer, Error>;

job!(RunForward<'a>, ForwardInput<'a, F> => Result<Forward<F>, Error>, run_forward);
type ForwardInput<'a, F> = (LogitForm, &'a NormalizedLogits<F>, &'a [usize], Answer<'a>);

fn run_forward<F: Real>(
    (form, logits, labels, answer): ForwardInput<'_, F>,
) -> Result<Forward<F>, Error> {
    let view = View::new(form, logits, labels)?;
    let targets = view.targets(answer, |_| 0.0)?;
    let mut stats: Vec<Option<SampleStats>> = vec![None; labels.len()];
    run_jobs(stats.iter_mut().zip(&targets).enumerate(), &mut for_workers::<()>(), {
        |(), (i, (stats, target))| *stats = target.map(|target| view.stats(i, &target))
    });
    let mut forward = Forward::with_samples(labels.len(), form);
    for stats in stats.iter().flatten() {
        forward.record(stats, view.smoothing(), 0.0);
    }
    Ok(forward)
}

/// See [`MarginLoss::backward_into`](crate::MarginLoss::backward_into).
pub(crate) fn backward<F: Real>(input: BackwardInput<'_, '_, F>) -> Result<(), Error> {
    F::run::<RunBackward<'_, '_>>(input)
}

job!(RunBackward<'a, 'r>, BackwardInput<'a, 'r, F> => Result<(), Error>, run_backward);
pub(crate) type BackwardInput<'a, 'r, F> = (
    LogitForm,
    &'a NormalizedLogits<F>,
    &'a [usize],
    Answer<'a>,
    &'a Forward<F>,
    Reduction<'r, F>,
    &'a mut LogitGradients<F>,
);

fn run_backward<F: Real>(
    (form, logits, labels, answer, forward, reduction, gradients): BackwardInput<'_, '_, F>,
) -> Result<(), Error> {
    let view = View::new(form, logits, labels)?;
    Error::check_shape("forward", &[labels.len()], forward.losses.shape())?;
    gradients.check(logits)?;
    reduction.check(labels.len())?;
    let counted = (0..labels.len()).filter(|&i| view.label(i).is_some()).count();
    let upstream = |i| reduction.weight(i, counted);
    let targets = view.targets(answer, upstream)?;
    let differs = |(i, target): (usize, &Option<RowTarget>)| match target {
        Some(target) => !forward.fits(i, form, &target.pair),
        None => forward.predictions()[i] != IGNORED,
    };
    if let Some(row) = targets.iter().enumerate().position(differs) {
        return Err(Error::Forward { row });
    }
    let terms: Vec<Option<SampleTerms>> = (targets.iter().enumerate())
        .map(|(i, target)| Some(view.terms(forward.negatives[i], target.as_ref()?, upstream(i))))
        .collect();
    let classes = logits.cosines.ncols();
    gradients.set_labels(labels, logits);
    if !gradients.cosines.is_standard_layout() {
        gradients.cosines = Array2::zeros(logits.cosines.dim());
    }
    let rows = super::slice_mut(&mut gradients.cosines).chunks_exact_mut(classes);
    let vectors = gradients.target_angles.iter_mut().zip(&mut gradients.feature_norms);
    let jobs = rows.zip(vectors).enumerate();
    run_jobs(jobs, &mut for_workers::<()>(), |(), (i, (row, (angle, norm)))| {
        (*angle, *norm) = match (&targets[i], &terms[i]) {
            (Some(target), Some(terms)) => view.row_gradient(i, target, (terms, upstream(i)), row),
            _ => {
                row.fill(F::zero());
                (F::zero(), F::zero())
            }
        };
    });
    view.column_gradients(&targets, &terms, gradients);
    Ok(())
}

/// See [`MarginLoss::margin_free_logits`](crate::MarginLoss::margin_free_logits).
pub(crate) fn margin_free<F: Real>(
    form: LogitForm,
    logits: &NormalizedLogits<F>,
) -> Result<Array2<F>, Error> {
    let labels = vec![0; logits.cosines.nrows()];
    let view = View::new(form, logits, &labels)?;
    let mut out = logits.cosines.clone();
    let mut bounds = view.bounds();
    for (i, mut row) in out.rows_mut().into_iter().enumerate() {
        bounds.check::<F>(i, view.norms(i, 0).0, None, 0.0)?;
        let scale = F::narrow(view.row_scale(i));
        row.mapv_inplace(|c| scale * c);
        if form.scale == Scale::Unnormalized {
            row *= &logits.weight_norms;
        }
        if let Some(bias) = &logits.bias {
            row += bias;
        }
    }
    Ok(out)
}

/// The logits in the form of one loss.
struct View<'a, F> {
    logits: &'a NormalizedLogits<F>,
    labels: &'a [usize],
    form: LogitForm,
}

impl<'a, F: Real> View<'a, F> {
    fn new(
        form: LogitForm,
        logits: &'a NormalizedLogits<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        form.check_bias(logits.bias.is_some())?;
        if logits.sub_centers.count > 1 && form.scale == Scale::Unnormalized {
            return Err(Error::SubCenters);
        }
        Error::check_shape("labels", &[logits.cosines.nrows()], &[labels.len()])?;
        Error::check_labels(labels, logits.cosines.ncols(), logits.ignored)?;
        let view = View { logits, labels, form };
        view.check_directions()?;
        Ok(view)
    }

    /// Refuses zero rows unless the logits are plain inner products. The embedding of a sample that
    /// is left out may be anything finite.
    fn check_directions(&self) -> Result<(), Error> {
        let Some(source) = &self.logits.source else { return Ok(()) };
        if self.form.plain {
            return Ok(());
        }
        for (i, (x, &norm)) in source.x.rows().into_iter().zip(&source.x_norms).enumerate() {
            check_norm("embeddings", i, x, norm, self.label(i).is_some())?;
        }
        for (j, (w, &norm)) in source.w.rows().into_iter().zip(&source.w_norms).enumerate() {
            check_norm("class weights", j, w, norm, true)?;
        }
        Ok(())
    }

    /// The class of sample `i`; `None` where the sample is left out.
    fn label(&self, i: usize) -> Option<usize> {
        Some(self.labels[i]).filter(|&label| Some(label) != self.logits.ignored)
    }

    /// |x_i| and |w_j|, in f64 where the vectors are known.
    fn norms(&self, i: usize, j: usize) -> (f64, f64) {
        let row = self.logits.sub_centers.row(i, j);
        match &self.logits.source {
            Some(source) => (source.x_norms[i], source.w_norms[row]),
            None => (self.logits.feature_norms[i].widen(), self.logits.weight_norms[row].widen()),
        }
    }

    /// What multiplies the cosines of sample `i`, apart from a class's own norm.
    fn row_scale(&self, i: usize) -> f64 {
        self.form.row_scale(self.norms(i, 0).0)
    }

    /// The logits of sample `i`, whose target is f.
    fn row(&self, i: usize, f: f64) -> RowLogits<'a, F> {
        let logits = self.logits;
        let contiguous = "a vector that this type made lies in one piece";
        let columns = (self.form.scale == Scale::Unnormalized).then_some(&logits.weight_norms);
        RowLogits {
            cosines: super::row(&logits.cosines, i),
            scale: F::narrow(self.row_scale(i)),
            columns: columns.map(|norms| norms.as_slice().expect(contiguous)),
            biases: logits.bias.as_ref().map(|bias| bias.as_slice().expect(contiguous)),
            target: self.labels[i],
            hard: self.form.hard.map(|hard| HardRow {
                threshold: F::narrow(hard.threshold(f)),
                coefficients: hard.coefficients().map(F::narrow),
            }),
        }
    }

    fn bounds(&self) -> Bounds {
        let norms: Vec<f64> = match &self.logits.source {
            Some(source) => source.w_norms.clone(),
            None => self.logits.weight_norms.iter().map(|norm| norm.widen()).collect(),
        };
        let widest = |(least, most): (f64, f64), norm: f64| (least.min(norm), most.max(norm));
        let norms = norms.into_iter().fold((f64::INFINITY, 0.0), widest);
        Bounds::new(self.form.scale, norms, self.logits.bias.iter().flatten())
            .with_smoothing(self.form.smoothing, self.logits.cosines.ncols())
            .with_hard_negatives(self.form.hard)
    }

    fn smoothing(&self) -> Smoothing {
        Smoothing::new(self.form.smoothing, self.logits.cosines.ncols())
    }

    /// The target pair of every sample that counts; refuses what may leave the type's range, the
    /// loss of sample `i` counting `upstream(i)` times.
    fn targets(
        &self,
        answer: Answer<'_>,
        upstream: impl Fn(usize) -> f64,
    ) -> Result<Vec<Option<RowTarget>>, Error> {
        let mut bounds = self.bounds();
        let targets = (0..self.labels.len()).map(|i| {
            let Some(label) = self.label(i) else { return Ok(None) };
            let target = self.target(&answer, i, label)?;
            let norm = self.norms(i, label).0;
            bounds.check::<F>(i, norm, Some(target.pair.target), upstream(i))?;
            let bound = upstream(i).abs() * target.pair.scale * target.cosine_slope.abs();
            let maximum = largest_safe::<F>();
            if bound > maximum {
                let quantity = "the gradient of the target's cosine";
                return Err(Error::Overflow { quantity, row: i, bound, maximum });
            }
            Ok(Some(target))
        });
        targets.collect()
    }

    fn target(&self, answer: Answer<'_>, i: usize, label: usize) -> Result<RowTarget, Error> {
        let (norm, mut weight_norm) = self.norms(i, label);
        let row = self.own_row(i);
        let bias = self.logits.bias.as_ref().map_or(0.0, |bias| bias[label].widen());
        let mut cosine_slope = 0.0;
        let answer = |angle: &Angle| {
            let answer = answer(&Sample::new(*angle, norm, label, i))?;
            cosine_slope = answer.cosine_slope;
            Ok(answer.target)
        };
        let pair = match &self.logits.source {
            Some(source) => {
                weight_norm = source.w_norms[row];
                let (x, w) = ((source.x(i), norm), (source.w(row), weight_norm));
                TargetPair::new(self.form, x, w, bias, answer)?
            }
            None => {
                let angle = Angle::from_cos(self.logits.cosines[[i, label]].widen());
                TargetPair::of_angle(angle, self.form.pair_scale(norm, weight_norm), bias, answer)?
            }
        };
        Ok(RowTarget { pair, cosine_slope, row })
    }

    /// The row of its own class that is nearest to sample `i`, which has one.
    fn own_row(&self, i: usize) -> usize {
        let (label, sub_centers) = (self.labels[i], &self.logits.sub_centers);
        match &self.logits.source {
            Some(source) => source.nearest_row(i, label * sub_centers.count, sub_centers.count),
            None => sub_centers.row(i, label),
        }
    }

    fn terms(&self, negatives: LogSumExp, target: &RowTarget, upstream: f64) -> SampleTerms {
        self.smoothing().gradients(sample_terms(negatives, target.pair.logit, upstream), upstream)
    }

    fn stats(&self, i: usize, target: &RowTarget) -> SampleStats {
        let label = self.labels[i];
        let row = self.row(i, target.pair.target.value);
        let found = kernel::row_log_sum_exp(Level::detect(), row);
        let mut own = row.scale * row.cosines[label];
        if let Some(columns) = row.columns {
            own *= columns[label];
        }
        if let Some(biases) = row.biases {
            own += biases[label];
        }
        let mean_share = if self.form.smoothing > 0.0 {
            self.smoothing().share(kernel::row_logit_sum(Level::detect(), row))
        } else {
            0.0
        };
        let beaten = found.nearest > own || (found.nearest == own && found.class < label);
        SampleStats {
            row: i,
            label,
            norm: self.norms(i, label).0,
            negatives: LogSumExp::new(found.max.widen(), found.sum),
            mean_share,
            target: Some(TargetLogit::new(
                &target.pair,
                target.row % self.logits.sub_centers.count,
            )),
            prediction: if beaten { found.class } else { label },
            best: found.nearest.max(own).widen(),
        }
    }

    /// Writes the gradient of one row's cosines; returns those of its target angle and of the norm
    /// of its embedding.
    fn row_gradient(
        &self,
        i: usize,
        target: &RowTarget,
        (terms, upstream): (&SampleTerms, f64),
        out: &mut [F],
    ) -> (F, F) {
        let row = self.row(i, target.pair.target.value);
        kernel::row_gradient(
            Level::detect(),
            row,
            F::narrow(terms.shift),
            F::narrow(terms.coefficient),
            out,
        );
        if terms.uniform != 0.0 {
            kernel::row_smoothing(Level::detect(), row, F::narrow(terms.uniform), out);
        }
        let by_function = terms.target_gradient * target.pair.scale;
        let norm = self.norms(i, 0).0;
        let by_loss = target.pair.by_norm(terms.target_gradient, upstream);
        let along_norm = match self.form.scale {
            Scale::Fixed(_) => by_loss,
            _ if norm == 0.0 => 0.0,
            _ => {
                let products = out.iter().zip(row.cosines).map(|(g, c)| g.widen() * c.widen());
                let hard = self.hard_radial(i, &row, terms);
                (products.sum::<f64>() + hard + by_function * target.pair.target.value) / norm
                    + by_loss
            }
        };
        out[self.labels[i]] = F::narrow(by_function * target.cosine_slope);
        (F::narrow(by_function * target.pair.target.slope), F::narrow(along_norm))
    }

    /// What the negatives of sample `i` that count harder add to the derivative by its norm, times
    /// the norm, beyond what the products of cosines and their gradients do.
    fn hard_radial(&self, i: usize, row: &RowLogits<'_, F>, terms: &SampleTerms) -> f64 {
        let Some(hard) = row.hard else { return 0.0 };
        let (scale, shift) = (row.scale, F::narrow(terms.shift));
        let [q0, q1, q2] = hard.coefficients;
        let parts = row.cosines.iter().enumerate().map(|(j, &c)| {
            let radial = hard.radial(c);
            if radial == 0.0 || j == self.labels[i] {
                return 0.0;
            }
            let z = scale * (q0 + c * (q1 + c * q2));
            let gradient = terms.coefficient * (z - shift).exp().widen() - terms.uniform;
            gradient * scale.widen() * radial
        });
        parts.sum()
    }

    /// The gradients that sum over samples, of the norms of the class weights and of the bias; and
    /// the gradients of the logits themselves wherever a vector has no direction.
    fn column_gradients(
        &self,
        targets: &[Option<RowTarget>],
        terms: &[Option<SampleTerms>],
        gradients: &mut LogitGradients<F>,
    ) {
        gradients.weight_norms.fill(F::zero());
        gradients.undirected.clear();
        if self.form.scale != Scale::Unnormalized {
            return;
        }
        let classes = self.logits.cosines.ncols();
        let (mut norms, mut biases) = (vec![0.0; classes], vec![0.0; classes]);
        let mut by_logit = vec![0.0; classes];
        let samples = targets.iter().zip(terms).enumerate();
        for (i, (target, terms)) in samples {
            let (Some(target), Some(terms)) = (target, terms) else { continue };
            let label = self.labels[i];
            let row = self.row(i, target.pair.target.value);
            let norm = self.norms(i, label).0;
            let cosines = super::row(&gradients.cosines, i);
            self.logit_gradients(i, &row, terms, cosines, &mut by_logit);
            for j in (0..classes).filter(|&j| j != label) {
                norms[j] += by_logit[j] * norm * row.cosines[j].widen();
                biases[j] += by_logit[j];
            }
            norms[label] += terms.target_gradient * norm * target.pair.target.value;
            biases[label] += terms.target_gradient;
            by_logit[label] = terms.target_gradient;
            if let Some(source) = &self.logits.source {
                gradients.undirected.keep(source, i, &by_logit);
            }
        }
        gradients.weight_norms = norms.into_iter().map(F::narrow).collect();
        if let Some(bias) = &mut gradients.bias {
            *bias = biases.into_iter().map(F::narrow).collect();
        }
    }

    /// ∂objective/∂z_ij for the negatives of sample `i`: from the gradients of their cosines where
    /// embedding and class weight have norms to divide by, else from the logits.
    fn logit_gradients(
        &self,
        i: usize,
        row: &RowLogits<'_, F>,
        terms: &SampleTerms,
        cosines: &[F],
        out: &mut [f64],
    ) {
        let shift = F::narrow(terms.shift);
        for (j, out) in out.iter_mut().enumerate() {
            let (r, q) = self.norms(i, j);
            *out = if has_direction::<F>(r) && has_direction::<F>(q) {
                cosines[j].widen() / q / r
            } else {
                let factor = row.columns.map_or(F::one(), |columns| columns[j]);
                let bias = row.biases.map_or(F::zero(), |biases| biases[j]);
                let z = row.scale * row.cosines[j] * factor + bias;
                terms.coefficient * (z - shift).exp().widen() - terms.uniform
            };
        }
    }
}
