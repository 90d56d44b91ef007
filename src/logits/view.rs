//! The logits as one loss sees them: their target pairs, and what is between the sweeps.

use ndarray::Array1;

use super::NormalizedLogits;
use crate::data::{
    Bounds, LogitForm, NearestNegative, SampleStats, Scale, TargetLogit, TargetPair, check_norm,
    check_reported_norm, largest_safe,
};
use crate::error::Error;
use crate::kernel::{self, HardRow, Level, Real, RowLogSumExp, RowLogits};
use crate::math::{Angle, LogSumExp, Sample, SampleTarget, SampleTerms, Smoothing};

/// What a loss returns for the target angle of one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetAnswer {
    pub target: SampleTarget,
    /// df/dcos θ, or its convention at the ends.
    pub cosine_slope: f64,
}

/// The target pair of a sample that counts.
#[derive(Clone)]
pub(super) struct RowTarget {
    pub pair: TargetPair,
    pub cosine_slope: f64,
    /// The row of class weights that the pair is of.
    pub row: usize,
    /// The sample's nearest negatives, where they have a margin.
    pub nearest: Vec<RowNearest>,
}

/// A sample and one of its nearest negatives.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowNearest {
    pub class: usize,
    pub pair: TargetPair,
    /// d cos(θ − m′)/d cos θ; 0 where it has none.
    pub cosine_slope: f64,
}

impl RowNearest {
    /// The logit without class prior.
    pub fn logit_without_prior(&self) -> f64 {
        self.pair.scale * self.pair.target.value
    }
}

/// What evaluates a loss for a sample.
pub(crate) type Answer<'a> = &'a dyn Fn(&Sample) -> Result<TargetAnswer, Error>;

/// The logits in the form of one loss.
pub(super) struct View<'a, F> {
    pub logits: &'a NormalizedLogits<F>,
    pub labels: &'a [usize],
    pub form: LogitForm,
    /// The class prior, in training.
    pub log_prior: Option<&'a Array1<F>>,
    /// What is added to the logits: bias and class prior.
    pub biases: Option<Vec<F>>,
}

/// The values of a vector that [`NormalizedLogits`] made.
fn values<F>(vector: &Array1<F>) -> &[F] {
    vector.as_slice().expect("a vector that this type made lies in one piece")
}

impl<'a, F: Real> View<'a, F> {
    pub fn new(
        form: LogitForm,
        logits: &'a NormalizedLogits<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        let (bias, log_prior) = (logits.bias.as_ref(), logits.log_prior.as_ref());
        let biases = match (bias, log_prior) {
            (Some(bias), Some(prior)) => Some((bias + prior).to_vec()),
            (bias, prior) => bias.or(prior).map(|vector| vector.to_vec()),
        };
        let view = View { logits, labels, form, log_prior, biases };
        view.check_form()?;
        Error::check_shape("labels", &[logits.cosines.nrows()], &[labels.len()])?;
        Error::check_labels(labels, logits.cosines.ncols(), logits.ignored)?;
        view.check_directions(|i| view.label(i).is_some())?;
        Ok(view)
    }

    pub fn check_form(&self) -> Result<(), Error> {
        let View { logits, form, .. } = self;
        form.check_bias(logits.bias.is_some())?;
        if logits.sub_centers.count > 1 && form.scale == Scale::Unnormalized {
            let reason = "sub-centers are chosen by their cosines, and the logits of Softmax are none: \
                          only Head takes both";
            return Err(Error::Unsupported(reason));
        }
        Ok(())
    }

    /// Refuses norms that the loss cannot take: zero rows unless the logits are plain inner products,
    /// and then norms beyond `F`. The embedding of a sample that does not `count` may be anything
    /// finite.
    pub fn check_directions(&self, counts: impl Fn(usize) -> bool) -> Result<(), Error> {
        let Some(source) = &self.logits.source else { return Ok(()) };
        let plain = self.form.plain;
        for (i, (x, &norm)) in source.x.rows().into_iter().zip(&source.x_norms).enumerate() {
            if counts(i) {
                check_norm("embeddings", i, x, norm, !plain)?;
                check_reported_norm::<F>(i, norm)?;
            }
        }
        if plain {
            return Ok(());
        }
        for (j, (w, &norm)) in source.w.rows().into_iter().zip(&source.w_norms).enumerate() {
            check_norm("class weights", j, w, norm, true)?;
        }
        Ok(())
    }

    /// The class of sample `i`; `None` where the sample is left out.
    pub fn label(&self, i: usize) -> Option<usize> {
        Some(self.labels[i]).filter(|&label| Some(label) != self.logits.ignored)
    }

    /// |x_i| and |w_j|, in f64 where the vectors are known.
    pub fn norms(&self, i: usize, j: usize) -> (f64, f64) {
        let row = self.logits.sub_centers.row(i, j);
        match &self.logits.source {
            Some(source) => (source.x_norms[i], source.w_norms[row]),
            None => (self.logits.feature_norms[i].widen(), self.logits.weight_norms[row].widen()),
        }
    }

    /// The class prior of a class, 0 without.
    pub fn log_prior(&self, class: usize) -> f64 {
        self.log_prior.map_or(0.0, |prior| prior[class].widen())
    }

    /// The logits of sample `i` with its target. Where they have factors of their own, these are
    /// products of two norms, either of which may be beyond `F`, and lie in `factors`.
    pub fn row<'f>(
        &'f self,
        i: usize,
        target: &RowTarget,
        factors: &'f mut Vec<F>,
    ) -> RowLogits<'f, F> {
        let (logits, f) = (self.logits, target.pair.target.value);
        let unnormalized = self.form.scale == Scale::Unnormalized;
        let product_scale = self.form.product_scale::<F>(self.norms(i, 0).0);
        let scale = if unnormalized { 1.0 } else { product_scale };
        if unnormalized {
            let factor = |j| {
                let (norm, weight_norm) = self.norms(i, j);
                F::narrow(norm * weight_norm)
            };
            factors.clear();
            factors.extend((0..logits.cosines.ncols()).map(factor));
        }
        RowLogits {
            cosines: super::row(&logits.cosines, i),
            scale: F::narrow(scale),
            columns: unnormalized.then_some(&factors[..]),
            biases: self.biases.as_deref(),
            target: self.labels[i],
            hard: self.form.hard.map(|hard| HardRow {
                threshold: F::narrow(hard.limit::<F>(f)),
                coefficients: hard.coefficients().map(F::narrow),
            }),
        }
    }

    pub fn bounds(&self) -> Bounds {
        let norms: Vec<f64> = match &self.logits.source {
            Some(source) => source.w_norms.clone(),
            None => self.logits.weight_norms.iter().map(|norm| norm.widen()).collect(),
        };
        let widest = |(least, most): (f64, f64), norm: f64| (least.min(norm), most.max(norm));
        let norms = norms.into_iter().fold((f64::INFINITY, 0.0), widest);
        let (bias, prior) =
            (self.logits.bias.iter().flatten(), self.log_prior.into_iter().flatten());
        Bounds::new(self.form, self.logits.cosines.ncols(), norms, bias, prior)
    }

    pub fn smoothing(&self) -> Smoothing {
        Smoothing::new(self.form.smoothing, self.logits.cosines.ncols())
    }

    /// The target pair of every sample that counts; refuses what may leave the type's range, the
    /// loss of sample `i` counting `upstream(i)` times.
    pub fn targets(
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
            // Of the gradients of the logits none exceeds the loss's own but for label smoothing.
            let slopes = target.nearest.iter().map(|nearest| nearest.cosine_slope.abs());
            let slope = slopes.fold(target.cosine_slope.abs(), f64::max);
            let steepest = slope.max(target.pair.target.slope.abs()).max(bounds.negatives.1);
            let gradient = upstream(i).abs() * (1.0 + self.form.smoothing);
            let bound = gradient * bounds.factor(norm) * steepest;
            let maximum = largest_safe::<F>();
            if bound > maximum {
                let quantity = "the gradient of the cosines";
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
            let row = self.logits.first_row.wrapping_add(i);
            let answer = answer(&Sample::new(*angle, norm, label, row))?;
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
                let scale = self.form.pair_scale(norm, weight_norm);
                TargetPair::of_angle(self.form, angle, (scale, bias), answer)?
            }
        };
        let (pair, nearest) = (pair.with_log_prior(self.log_prior(label)), self.nearest(i, label));
        Ok(RowTarget { pair, cosine_slope, row, nearest })
    }

    /// The row of its own class that is nearest to sample `i`, which has one.
    fn own_row(&self, i: usize) -> usize {
        let (label, sub_centers) = (self.labels[i], &self.logits.sub_centers);
        match &self.logits.source {
            Some(source) => source.nearest_row(i, label * sub_centers.count, sub_centers.count),
            None => sub_centers.row(i, label),
        }
    }

    pub fn terms(&self, negatives: LogSumExp, target: &RowTarget, upstream: f64) -> SampleTerms {
        let terms = self.form.terms(negatives, target.pair.logit, upstream);
        self.smoothing().gradients(terms, upstream)
    }

    fn nearest_negative(&self, i: usize, found: RowLogSumExp<F>) -> NearestNegative {
        if found.nearest == F::neg_infinity() {
            return NearestNegative::NONE;
        }
        let cosine = match &self.logits.source {
            Some(source) => source.cosine(i, self.logits.sub_centers.row(i, found.class)),
            None => self.logits.cosines[[i, found.class]],
        };
        let (label, logit) = (found.class, found.nearest.widen());
        NearestNegative { label, logit, cosine: cosine.widen() }
    }

    /// The negatives of a row, of which the nearest may have a margin and count by `logit`: those
    /// without, and the log-sum-exp of all; for a binary loss their sums of softplus and of sigmoids.
    fn sum(
        &self,
        row: RowLogits<'_, F>,
        nearest: &[RowNearest],
        logit: fn(&RowNearest) -> f64,
    ) -> (RowLogSumExp<F>, LogSumExp, f64) {
        let mut copy = Vec::new();
        let others = Self::others(row, nearest, &mut copy);
        let found = kernel::row_log_sum_exp(Level::detect(), others);
        if let Some(binary) = self.form.binary_logits() {
            let (level, none) = (Level::detect(), F::zero());
            let [losses, sigmoids] = kernel::row_binary(level, row, binary, none, &mut []);
            return (found, LogSumExp::new(0.0, losses), sigmoids);
        }
        let mut all = LogSumExp::new(found.max.widen(), found.sum);
        for nearest in nearest {
            all = all.merge(LogSumExp::new(logit(nearest), 1.0));
        }
        (found, all, 0.0)
    }

    /// The same for the logits as they count.
    pub fn negatives(
        &self,
        row: RowLogits<'_, F>,
        nearest: &[RowNearest],
    ) -> (RowLogSumExp<F>, LogSumExp, f64) {
        self.sum(row, nearest, |nearest| nearest.pair.logit)
    }

    pub fn stats(&self, i: usize, target: &RowTarget, factors: &mut Vec<F>) -> SampleStats {
        let label = self.labels[i];
        let row = self.row(i, target, factors);
        let (found, negatives, sigmoids) = self.negatives(row, &target.nearest);
        let plain = RowLogits { biases: self.logits.bias.as_ref().map(values), ..row };
        let (mut found, margin_free_negatives, _) = match self.log_prior {
            Some(_) => self.sum(plain, &target.nearest, RowNearest::logit_without_prior),
            None => (found, negatives, sigmoids),
        };
        if let Some(RowNearest { class, .. }) = target.nearest.first() {
            (found.class, found.nearest) = (*class, row.scale * row.cosines[*class]);
        }
        let mut own = row.scale * row.cosines[label];
        if let Some(columns) = row.columns {
            own *= columns[label];
        }
        if let Some(biases) = plain.biases {
            own += biases[label];
        }
        let mut mean_share = self.smoothing().share(sigmoids);
        if self.form.smoothing > 0.0 {
            let plain = kernel::row_logit_sum(Level::detect(), row);
            mean_share =
                self.smoothing().share(plain + Self::added_by_margins(&row, &target.nearest));
        }
        let beaten = found.nearest > own || (found.nearest == own && found.class < label);
        SampleStats {
            row: i,
            label,
            norm: self.norms(i, label).0,
            negatives,
            margin_free_negatives,
            mean_share,
            target: Some(TargetLogit::new(
                &target.pair,
                target.row % self.logits.sub_centers.count,
            )),
            prediction: if beaten { found.class } else { label },
            best: found.nearest.max(own).widen(),
            nearest_negative: self.nearest_negative(i, found),
        }
    }
}
