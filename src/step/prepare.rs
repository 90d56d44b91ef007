//! Preparation: every check, every norm and every target pair. All invalid input is refused here,
//! before any buffer of the caller is written.

use std::ops::Range;

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::hard_samples::HardSamples;
use super::settings::{Settings, ZeroEmbedding};
use crate::data::{
    Batch, Bounds, ClassSample, Classes, LogitForm, Reduction, Samples, Scale, TargetPair,
    check_finite, check_norm, check_sub_centers, contiguous, norm_of,
};
use crate::error::Error;
use crate::kernel::{self, Mat, Packed, Precision, Real};
use crate::loss::{MarginLoss, checked_target, form_of};
use crate::math::{Pair, Sample, SampleTarget};

/// Classes whose factors are kept from the preparation: those of further classes are computed
/// again, so that memory does not grow with the classes. A multiple of every block and tile.
const KNOWN_FACTORS: usize = 1 << 16;

/// The smallest and the largest norm of no rows.
const NO_NORMS: (f64, f64) = (f64::INFINITY, 0.0);

/// Everything that a step reads.
#[derive(Debug, Clone)]
pub(crate) struct StepInput<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub classes: Classes<'a, F>,
    /// The label of each embedding; `None` in inference, where no sample has a class.
    pub labels: Option<&'a [usize]>,
    /// The label of samples that are left out.
    pub ignored: Option<usize>,
    /// The classes that this rank holds.
    pub range: Range<usize>,
    /// Whether these are all classes.
    pub whole: bool,
    /// Which of them are active, if not all.
    pub sample: Option<&'a ClassSample>,
    pub settings: Settings,
    /// How many classes of each embedding are requested, in a step that ranks them.
    pub most: usize,
    /// The reduction whose gradients are computed; `None` for a step without gradients.
    pub reduction: Option<Reduction<'a, F>>,
}

/// What the preparation leaves for the sweeps.
#[derive(Debug)]
pub(crate) struct Prepared<F> {
    pub form: LogitForm,
    /// The samples that count, sorted by class.
    pub samples: Vec<PreparedSample>,
    /// Their embeddings times their scale, a_i·u_i (samples × dims).
    pub embeddings: Vec<F>,
    /// The same as right factors of the products: transposed (dims × samples) and as they are.
    pub packed: [Packed<F>; 2],
    /// The factors of the products of the first [`KNOWN_FACTORS`] classes.
    pub factors: Vec<F>,
    pub hard: HardSamples<F>,
    /// Rows of each label.
    pub sub_centers: usize,
}

impl<F> Default for Prepared<F> {
    fn default() -> Self {
        Prepared {
            form: LogitForm { scale: Scale::FeatureNorm, plain: false, smoothing: 0.0, hard: None },
            samples: Vec::new(),
            embeddings: Vec::new(),
            packed: [Packed::default(), Packed::default()],
            factors: Vec::new(),
            hard: HardSamples::default(),
            sub_centers: 1,
        }
    }
}

/// One sample that counts.
#[derive(Debug, Clone)]
pub(crate) struct PreparedSample {
    /// Its row in the batch.
    pub row: usize,
    /// Its class, if that is active on this rank: of several rows of its label the nearest.
    pub class: Option<usize>,
    /// |x_i|.
    pub norm: f64,
    /// g_i = ∂objective/∂L_i.
    pub upstream: f64,
    /// Its target pair, where its class is active.
    pub target: Option<TargetPair>,
}

fn sort_by_class(samples: &mut [PreparedSample]) {
    samples.sort_unstable_by_key(|sample| (sample.class.unwrap_or(usize::MAX), sample.row));
}

/// The factor of a class's products: its inverse norm, or 1.
pub(crate) fn factor_of<F: Real>(scale: Scale, weight_norm: f64) -> F {
    match scale {
        Scale::Unnormalized => F::one(),
        Scale::Fixed(_) | Scale::FeatureNorm => F::narrow(weight_norm.recip()),
    }
}

impl<'a, F: Real> StepInput<'a, F> {
    /// The input of a step over the classes of `range`, whose weights the batch holds; all of them
    /// without one. Nothing is checked yet.
    pub fn new(settings: Settings, batch: Batch<'a, F>, range: Option<Range<usize>>) -> Self {
        let Batch { embeddings, weights, bias, samples } = batch;
        let Samples { labels, ignored, sub_centers, sample } = samples;
        let whole = range.is_none();
        let range = range.unwrap_or(0..weights.nrows() / sub_centers.max(1));
        let all = Classes::all(weights, bias);
        let classes = Classes { first: range.start, sub_centers, ..all };
        let (most, reduction) = (0, None);
        StepInput {
            embeddings,
            classes,
            labels,
            ignored,
            range,
            whole,
            sample,
            settings,
            most,
            reduction,
        }
    }
}

impl<F: Real> StepInput<'_, F> {
    /// The same input over the rows `selected` of its sample, if it has one.
    pub fn sampled<'s>(
        &'s self,
        selected: Option<&'s [usize]>,
        offsets: Option<&'s [F]>,
    ) -> StepInput<'s, F> {
        let classes = Classes { selected, offsets, ..self.classes.reborrow() };
        StepInput { classes, ..self.clone() }
    }

    /// Refuses shapes, ranges and samples that do not fit each other.
    /// Where all classes are here, the labels are checked as well, and `loss` is asked whether it
    /// takes so many classes; on ranks once these know how many there are.
    pub fn check_shapes(&self, loss: &dyn MarginLoss) -> Result<(), Error> {
        let (rows, dims) = self.embeddings.dim();
        Error::check_not_empty("embeddings", self.embeddings.shape())?;
        if self.whole {
            Error::check_not_empty("class weights", self.classes.weights.shape())?;
        }
        Error::check_range("end of the class range", &self.range)?;
        let sub_centers = check_sub_centers(self.classes.sub_centers)?;
        let held = self.range.len().saturating_mul(sub_centers);
        Error::check_shape("class weights", &[held, dims], self.classes.weights.shape())?;
        if let Some(bias) = &self.classes.bias {
            Error::check_shape("bias", &[held], bias.shape())?;
        }
        if let Some(labels) = self.labels {
            Error::check_shape("labels", &[rows], &[labels.len()])?;
        }
        if self.whole {
            self.check_classes(loss, self.range.len())?;
        }
        let check = |sample: &ClassSample| sample.check(self.labels, self.ignored, &self.range);
        self.sample.map_or(Ok(()), check)
    }

    /// Refuses labels and losses for another number of classes.
    pub fn check_classes(&self, loss: &dyn MarginLoss, classes: usize) -> Result<(), Error> {
        let Some(labels) = self.labels else { return Ok(()) };
        Error::check_labels(labels, classes, self.ignored)?;
        loss.check_classes(classes)
    }

    /// Refuses a batch without labels.
    pub fn check_labeled(&self) -> Result<(), Error> {
        let rows = self.embeddings.nrows();
        self.labels.map_or_else(|| Error::check_shape("labels", &[rows], &[]), |_| Ok(()))
    }

    /// Checks every value and fills what the sweeps read. Returns bounds on weights and gradients.
    pub fn prepare(
        &self,
        loss: &dyn MarginLoss,
        prepared: &mut Prepared<F>,
        parallel: bool,
    ) -> Result<Bounds, Error> {
        if self.settings.precision != Precision::Full && size_of::<F>() != size_of::<f32>() {
            return Err(Error::Precision);
        }
        self.collect_samples(loss, prepared)?;
        let form = prepared.form;
        let norms = self.check_weights(form, &mut prepared.factors, parallel)?;
        self.complete_samples(loss, prepared, parallel)?;
        let Prepared { samples, embeddings, packed, .. } = prepared;
        let classes = self.classes.labels();
        let bounds = self.check_range(form, samples, (norms, classes))?;
        self.scale_embeddings(form, samples, embeddings);
        if !samples.is_empty() {
            let embeddings = Mat::new(embeddings, samples.len(), self.embeddings.ncols());
            packed[0].pack(self.settings.level, self.settings.precision, embeddings.t());
            packed[1].pack(self.settings.level, self.settings.precision, embeddings);
        }
        Ok(bounds)
    }

    /// The form of the logits, and the samples that count with their norms.
    pub fn collect_samples(
        &self,
        loss: &dyn MarginLoss,
        prepared: &mut Prepared<F>,
    ) -> Result<(), Error> {
        prepared.sub_centers = self.classes.sub_centers;
        let Prepared { form, samples, .. } = prepared;
        *form = form_of(loss)?;
        if self.labels.is_none() {
            // Nothing to smooth, and nothing to be hard against, in inference.
            (form.smoothing, form.hard) = (0.0, None);
        }
        form.check_bias(self.classes.bias.is_some())?;
        if let Some(reduction) = &self.reduction {
            reduction.check(self.embeddings.nrows())?;
        }
        if let Some(bias) = &self.classes.bias {
            check_finite("bias", bias)?;
        }
        self.collect(*form, samples)
    }

    /// How much the loss of each sample counts, and its target pair.
    pub fn complete_samples(
        &self,
        loss: &dyn MarginLoss,
        Prepared { form, samples, .. }: &mut Prepared<F>,
        parallel: bool,
    ) -> Result<(), Error> {
        let counted = samples.len();
        for sample in samples.iter_mut() {
            sample.upstream = self.reduction.map_or(0.0, |r| r.weight(sample.row, counted));
        }
        self.target_pairs(loss, *form, samples, parallel)
    }

    /// The angle of every sample that counts with its class, by row; -1 for the others. No sweep over
    /// the classes.
    pub fn target_angles(
        &self,
        loss: &dyn MarginLoss,
        samples: &mut Vec<PreparedSample>,
    ) -> Result<Vec<f64>, Error> {
        let form = form_of(loss)?;
        form.check_bias(self.classes.bias.is_some())?;
        self.collect(form, samples)?;
        self.target_pairs(loss, form, samples, true)?;
        let mut angles = vec![-1.0; self.embeddings.nrows()];
        for sample in samples {
            if let Some(target) = &sample.target {
                angles[sample.row] = target.angle.theta;
            }
        }
        Ok(angles)
    }

    /// The samples that count, sorted by class and then by row.
    fn collect(&self, form: LogitForm, samples: &mut Vec<PreparedSample>) -> Result<(), Error> {
        let mut buffer = Vec::new();
        samples.clear();
        for (row, x) in self.embeddings.rows().into_iter().enumerate() {
            let norm = norm_of(x, &mut buffer);
            let label = self.labels.map(|labels| labels[row]);
            let ignored = label.is_some() && label == self.ignored;
            let short = !form.plain && norm < F::MIN_NORM;
            let left_out = ignored || (short && self.settings.zero == ZeroEmbedding::Skip);
            let norm = check_norm("embeddings", row, x, norm, !(form.plain || left_out))?;
            if left_out {
                continue;
            }
            let class = label.and_then(|label| self.classes.find(label));
            samples.push(PreparedSample { row, class, norm, upstream: 0.0, target: None });
        }
        sort_by_class(samples);
        Ok(())
    }

    /// Checks every class weight and keeps the `factors` of the first; returns the smallest and the
    /// largest norm.
    fn check_weights(
        &self,
        form: LogitForm,
        factors: &mut Vec<F>,
        parallel: bool,
    ) -> Result<(f64, f64), Error> {
        const BLOCK: usize = 256;
        let classes = self.classes.len();
        factors.resize(classes.min(KNOWN_FACTORS), F::zero());
        let check_block = |(block, factors): (usize, &mut [F])| {
            let mut buffer = Vec::new();
            let range = block * BLOCK..((block + 1) * BLOCK).min(classes);
            let mut factors = factors.iter_mut();
            range.into_iter().try_fold(NO_NORMS, |(least, most), j| {
                let (row, number) = (self.classes.weight(j), self.classes.row_of(j));
                let norm = norm_of(row, &mut buffer);
                let norm = check_norm("class weights", number, row, norm, !form.plain)?;
                if let Some(factor) = factors.next() {
                    *factor = factor_of(form.scale, norm);
                }
                Ok((least.min(norm), most.max(norm)))
            })
        };
        let others = factors.len().div_ceil(BLOCK)..classes.div_ceil(BLOCK);
        // Of several bad rows the first is named, whichever thread finds one first.
        let widest = |a: Result<(f64, f64), Error>, b: Result<(f64, f64), Error>| {
            let (a, b) = (a?, b?);
            Ok((a.0.min(b.0), a.1.max(b.1)))
        };
        if parallel {
            let others = others.into_par_iter().map(|block| check_block((block, &mut [])));
            let known = factors.par_chunks_mut(BLOCK).enumerate().map(check_block);
            known.chain(others).reduce(|| Ok(NO_NORMS), widest)
        } else {
            let others = others.map(|block| check_block((block, &mut [])));
            let known = factors.chunks_mut(BLOCK).enumerate().map(check_block);
            known.chain(others).fold(Ok(NO_NORMS), widest)
        }
    }

    /// Geometry and margin of every target pair.
    fn target_pairs(
        &self,
        loss: &dyn MarginLoss,
        form: LogitForm,
        samples: &mut [PreparedSample],
        parallel: bool,
    ) -> Result<(), Error> {
        let fill = |sample: &mut PreparedSample| {
            if let Some(first) = sample.class {
                let class = self.nearest_row(form, sample, first)?;
                sample.class = Some(class);
                sample.target = Some(self.target_pair(loss, form, sample, class)?);
            }
            Ok(())
        };
        if parallel {
            let refused = samples.par_iter_mut().find_map_first(|sample| fill(sample).err());
            refused.map_or(Ok(()), Err)?;
        } else {
            samples.iter_mut().try_for_each(fill)?;
        }
        if self.classes.sub_centers > 1 {
            sort_by_class(samples);
        }
        Ok(())
    }

    /// Of the rows of a sample's label, which start at class `first`, the nearest: that at the
    /// smallest angle, or with the largest logit where class weights are not normalized; the first
    /// of equals.
    fn nearest_row(
        &self,
        form: LogitForm,
        sample: &PreparedSample,
        first: usize,
    ) -> Result<usize, Error> {
        let rows = first..first + self.classes.sub_centers;
        if rows.len() == 1 {
            return Ok(first);
        }
        let (mut x, mut w) = (Vec::new(), Vec::new());
        let x = contiguous(self.embeddings.row(sample.row), &mut x);
        let mut nearest = (f64::NEG_INFINITY, first);
        for class in rows {
            let row = self.classes.weight(class);
            let w = contiguous(row, &mut w);
            let norm = kernel::norm(w);
            check_norm("class weights", self.classes.row_of(class), row, norm, !form.plain)?;
            let nearness = match form.scale {
                Scale::Unnormalized => kernel::dot(x, w) + self.classes.bias_of(class).widen(),
                Scale::Fixed(_) | Scale::FeatureNorm => {
                    -Pair::new(x, w, sample.norm, norm).angle.theta
                }
            };
            if nearness > nearest.0 {
                nearest = (nearness, class);
            }
        }
        Ok(nearest.1)
    }

    fn target_pair(
        &self,
        loss: &dyn MarginLoss,
        form: LogitForm,
        sample: &PreparedSample,
        class: usize,
    ) -> Result<TargetPair, Error> {
        let (mut x, mut w) = (Vec::new(), Vec::new());
        let x = contiguous(self.embeddings.row(sample.row), &mut x);
        let row = self.classes.weight(class);
        let w = contiguous(row, &mut w);
        let weight_norm = kernel::norm(w);
        let number = self.classes.row_of(class);
        check_norm("class weights", number, row, weight_norm, !form.plain)?;
        let bias = self.classes.bias_of(class).widen();
        let label = self.classes.label_of(class);
        TargetPair::new(form, (x, sample.norm), (w, weight_norm), bias, |angle| {
            checked_target(loss, &Sample::new(*angle, sample.norm, label, sample.row))
        })
    }

    /// Refuses inputs whose logits or gradients may leave the range of the working type.
    pub fn check_range(
        &self,
        form: LogitForm,
        samples: &[PreparedSample],
        (weight_norms, classes): ((f64, f64), usize),
    ) -> Result<Bounds, Error> {
        let mut bounds = Bounds::new(form.scale, weight_norms, self.classes.bias.iter().flatten())
            .with_smoothing(form.smoothing, classes)
            .with_hard_negatives(form.hard);
        for PreparedSample { row, norm, upstream, target, .. } in samples {
            let target: Option<SampleTarget> = target.map(|target| target.target);
            bounds.check::<F>(*row, *norm, target, *upstream)?;
        }
        Ok(bounds)
    }

    /// The working copy of the embeddings, in the samples' order: a_i·u_i.
    pub fn scale_embeddings(
        &self,
        form: LogitForm,
        samples: &[PreparedSample],
        embeddings: &mut Vec<F>,
    ) {
        let dims = self.embeddings.ncols();
        let mut copy = Vec::new();
        embeddings.resize(samples.len() * dims, F::zero());
        for (sample, out) in samples.iter().zip(embeddings.chunks_exact_mut(dims)) {
            let x = contiguous(self.embeddings.row(sample.row), &mut copy);
            match form.scale {
                Scale::Fixed(s) => kernel::scaled(out, x, s / sample.norm),
                Scale::FeatureNorm | Scale::Unnormalized => out.copy_from_slice(x),
            }
        }
    }
}
