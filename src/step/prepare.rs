//! Preparation: every check, every norm and every target pair. All invalid input is refused here,
//! before any buffer of the caller is written.

use super::input::StepInput;
use super::settings::{Settings, ZeroEmbedding};
use crate::data::{
    Bounds, LogitForm, Scale, TargetPair, check_finite, check_norm, check_reported_norm,
    contiguous, norm_of,
};
use crate::error::Error;
use crate::kernel::{self, Mat, Packed, Precision, Real};
use crate::loss::{MarginLoss, form_of};
use crate::math::SampleTarget;
use crate::parallel::{run_jobs, split_off};

/// Classes whose factors are kept from the preparation: those of further classes are computed
/// again, so that memory does not grow with the classes. A multiple of every tile.
const KNOWN_FACTORS: usize = 1 << 16;

/// The smallest and the largest norm of no rows.
const NO_NORMS: (f64, f64) = (f64::INFINITY, 0.0);

/// What the sweeps read of the samples, and what lies between them.
#[derive(Debug)]
pub(crate) struct Prepared<F> {
    pub form: LogitForm,
    /// The samples that count, sorted by class.
    pub samples: Vec<PreparedSample>,
    /// Their unit embeddings times the factor of the products, a_i unless that is too small
    /// (samples × dims).
    pub embeddings: Vec<F>,
    /// The same as right factors of the products: transposed (dims × samples) and as they are.
    pub packed: [Packed<F>; 2],
    /// The factors of the products of the first [`KNOWN_FACTORS`] classes.
    pub factors: Vec<F>,
    /// Threshold, constant and quadratic term of a [`HardTile`](kernel::HardTile), each by sample;
    /// empty without hard negatives.
    pub hard: [Vec<F>; 3],
    /// Rows of each label.
    pub sub_centers: usize,
    /// Whether the logits have a class prior.
    pub has_log_prior: bool,
}

impl<F> Default for Prepared<F> {
    fn default() -> Self {
        Prepared {
            form: LogitForm {
                scale: Scale::FeatureNorm,
                plain: false,
                smoothing: 0.0,
                hard: None,
                top: None,
                binary: None,
            },
            samples: Vec::new(),
            embeddings: Vec::new(),
            packed: [Packed::default(), Packed::default()],
            factors: Vec::new(),
            hard: [const { Vec::new() }; 3],
            sub_centers: 1,
            has_log_prior: false,
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

pub(super) fn sort_by_class(samples: &mut [PreparedSample]) {
    samples.sort_unstable_by_key(|sample| (sample.class.unwrap_or(usize::MAX), sample.row));
}

impl<F: Real> Prepared<F> {
    /// Checks every value of the input. Takes the memory of an earlier step; returns bounds on
    /// weights and gradients, too.
    pub fn new(
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        earlier: Self,
        workers: usize,
    ) -> Result<(Self, Bounds), Error> {
        let Prepared { samples, embeddings, mut packed, factors, hard, .. } = earlier;
        let form = input.form(loss)?;
        let samples = input.counted(form, samples)?;
        let (factors, norms) = input.check_weights(form, factors, workers)?;
        let samples = input.with_pairs(loss, form, samples, workers > 1)?;
        let bounds = input.check_range(form, &samples, norms, input.classes.labels())?;
        let factor = |norm| form.product_scale::<F>(norm);
        let embeddings = input.scaled_embeddings(factor, &samples, embeddings);
        if !samples.is_empty() {
            let Settings { level, precision, .. } = input.settings;
            let embeddings = Mat::new(&embeddings, samples.len(), input.embeddings.ncols());
            packed[0].pack(level, precision, embeddings.t());
            packed[1].pack(level, precision, embeddings);
        }
        let (sub_centers, has_log_prior) = (input.classes.sub_centers, input.has_log_prior());
        let prepared = Prepared {
            form,
            samples,
            embeddings,
            packed,
            factors,
            hard,
            sub_centers,
            has_log_prior,
        };
        Ok((prepared, bounds))
    }

    /// The same for sweeps elsewhere, which check the other class weights and pack what they read.
    pub fn without_sweeps(loss: &dyn MarginLoss, input: &StepInput<'_, F>) -> Result<Self, Error> {
        let form = input.form(loss)?;
        let samples = input.counted(form, Vec::new())?;
        let samples = input.with_pairs(loss, form, samples, true)?;
        let factor = |norm| form.offloaded_scale::<F>(norm);
        let embeddings = input.scaled_embeddings(factor, &samples, Vec::new());
        let sub_centers = input.classes.sub_centers;
        Ok(Prepared { form, samples, embeddings, sub_centers, ..Prepared::default() })
    }

    /// Writes f of the samples whose class this rank holds, by row of the batch; 0 for others.
    pub fn write_targets(&self, rows: usize, targets: &mut Vec<F>) {
        targets.clear();
        targets.resize(rows, F::zero());
        for sample in &self.samples {
            if let Some(target) = &sample.target {
                targets[sample.row] = F::narrow(target.target.value);
            }
        }
    }
}

impl<F: Real> StepInput<'_, F> {
    /// The form of the logits; refuses settings, bias and reduction that it does not take.
    fn form(&self, loss: &dyn MarginLoss) -> Result<LogitForm, Error> {
        if self.settings.precision != Precision::Full && size_of::<F>() != size_of::<f32>() {
            return Err(Error::Precision);
        }
        let mut form = form_of(loss)?;
        if self.samples.labels.is_none() {
            // Without labels there are no negatives, and nothing to smooth.
            (form.smoothing, form.hard, form.top, form.binary) = (0.0, None, None, None);
        }
        form.check_bias(self.classes.bias.is_some())?;
        form.check_correction(self.classes.offsets.is_some())?;
        if let Some(reduction) = &self.reduction {
            reduction.check(self.embeddings.nrows())?;
        }
        if let Some(bias) = &self.classes.bias {
            check_finite("bias", bias)?;
        }
        if let Some(prior) = &self.classes.log_prior {
            check_finite("log prior", prior)?;
        }
        Ok(form)
    }

    /// The angle of every sample that counts with its class, by row; -1 for the others. No sweep over
    /// the classes.
    pub fn target_angles(&self, loss: &dyn MarginLoss) -> Result<Vec<f64>, Error> {
        let form = self.form(loss)?;
        let samples = self.with_pairs(loss, form, self.counted(form, Vec::new())?, true)?;
        let mut angles = vec![-1.0; self.embeddings.nrows()];
        for sample in samples {
            if let Some(target) = &sample.target {
                angles[sample.row] = target.angle.theta;
            }
        }
        Ok(angles)
    }

    /// The samples that count, sorted by class and then by row, still without their target pairs.
    fn counted(
        &self,
        form: LogitForm,
        mut samples: Vec<PreparedSample>,
    ) -> Result<Vec<PreparedSample>, Error> {
        let mut buffer = Vec::new();
        samples.clear();
        for (row, x) in self.embeddings.rows().into_iter().enumerate() {
            let norm = norm_of(x, &mut buffer);
            let label = self.samples.labels.map(|labels| labels[row]);
            let ignored = label.is_some() && label == self.samples.ignored;
            let short = !form.plain && norm < F::MIN_NORM;
            let left_out = ignored || (short && self.settings.zero == ZeroEmbedding::Skip);
            let norm = check_norm("embeddings", row, x, norm, !(form.plain || left_out))?;
            if left_out {
                continue;
            }
            check_reported_norm::<F>(row, norm)?;
            let class = label.and_then(|label| self.classes.find(label));
            samples.push(PreparedSample { row, class, norm, upstream: 0.0, target: None });
        }
        let counted = samples.len();
        for sample in &mut samples {
            sample.upstream = self.reduction.map_or(0.0, |r| r.weight(sample.row, counted));
        }
        sort_by_class(&mut samples);
        Ok(samples)
    }

    /// Checks every class weight. Returns the `factors` of the first, and of all the smallest and the
    /// largest norm.
    fn check_weights(
        &self,
        form: LogitForm,
        mut factors: Vec<F>,
        workers: usize,
    ) -> Result<(Vec<F>, (f64, f64)), Error> {
        // Blocks for any number of threads, but no more where there are more classes.
        const MOST_BLOCKS: usize = 64;
        let classes = self.classes.len();
        let block = classes.div_ceil(MOST_BLOCKS).max(256);
        factors.resize(classes.min(KNOWN_FACTORS), F::zero());
        let mut norms = vec![Ok(NO_NORMS); classes.div_ceil(block)];
        let mut rest = &mut factors[..];
        let blocks = norms.iter_mut().zip((0..classes).step_by(block));
        let blocks = blocks.map(|(norms, start)| (norms, start, split_off(&mut rest, block)));
        run_jobs(blocks, &mut vec![Vec::new(); workers], |buffer, (norms, start, factors)| {
            let mut factors = factors.iter_mut();
            let mut range = start..(start + block).min(classes);
            *norms = range.try_fold(NO_NORMS, |(least, most), j| {
                let (row, number) = (self.classes.weight(j), self.classes.row_of(j));
                let norm = self.classes.norm(j, buffer);
                let norm = check_norm("class weights", number, row, norm, !form.plain)?;
                if let Some(factor) = factors.next() {
                    *factor = self.classes.factor(form.scale, norm);
                }
                Ok((least.min(norm), most.max(norm)))
            });
        });
        // Of several bad rows the first is named, whichever thread finds one first.
        let norms = norms.into_iter().try_fold(NO_NORMS, |(least, most), norms| {
            norms.map(|(a, b)| (least.min(a), most.max(b)))
        });
        Ok((factors, norms?))
    }

    /// Refuses inputs whose logits or gradients may leave the range of the number type.
    pub fn check_range(
        &self,
        form: LogitForm,
        samples: &[PreparedSample],
        weight_norms: (f64, f64),
        classes: usize,
    ) -> Result<Bounds, Error> {
        let prior = self.classes.log_prior.filter(|_| self.has_log_prior());
        let (bias, prior) = (self.classes.bias.iter().flatten(), prior.iter().flatten());
        let mut bounds = Bounds::new(form, classes, weight_norms, bias, prior);
        for PreparedSample { row, norm, upstream, target, .. } in samples {
            let target: Option<SampleTarget> = target.map(|target| target.target);
            bounds.check::<F>(*row, *norm, target, *upstream)?;
        }
        Ok(bounds)
    }

    /// The working copy of the embeddings, in the samples' order: unit vectors times a `factor`
    /// that is a_i wherever products allow it.
    fn scaled_embeddings(
        &self,
        factor: impl Fn(f64) -> f64,
        samples: &[PreparedSample],
        mut embeddings: Vec<F>,
    ) -> Vec<F> {
        let dims = self.embeddings.ncols();
        let mut copy = Vec::new();
        embeddings.resize(samples.len() * dims, F::zero());
        for (sample, out) in samples.iter().zip(embeddings.chunks_exact_mut(dims)) {
            let x = contiguous(self.embeddings.row(sample.row), &mut copy);
            match factor(sample.norm) {
                factor if factor == sample.norm => out.copy_from_slice(x),
                factor => kernel::scaled(out, x, factor / sample.norm),
            }
        }
        embeddings
    }
}
