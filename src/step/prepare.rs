//! Preparation: every check, every norm and every target pair. All invalid input is refused here,
//! before any buffer of the caller is written.

use ndarray::ArrayView2;

use super::input::StepInput;
use super::pairs::PreparedSample;
use super::settings::{Settings, ZeroEmbedding};
use super::workspace::Workspace;
use crate::data::{
    Bounds, LogitForm, check_finite, check_norm, check_reported_norm, contiguous, norm_of,
};
use crate::error::Error;
use crate::kernel::{self, Mat, Precision, Real};
use crate::loss::{MarginLoss, form_of};
use crate::math::{SampleTarget, SampleTerms};
use crate::parallel::{run_jobs, split_off};

/// Classes whose factors are kept from the preparation: those of further classes are computed
/// again, so that memory does not grow with the classes. A multiple of every tile.
const KNOWN_FACTORS: usize = 1 << 16;

/// The smallest and the largest norm of no rows.
const NO_NORMS: (f64, f64) = (f64::INFINITY, 0.0);

impl<F: Real> Workspace<F> {
    /// Checks every value of the input, and prepares what the sweeps read. Returns the form of the
    /// logits, and bounds on weights and gradients.
    pub fn prepare(
        &mut self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        workers: usize,
    ) -> Result<(LogitForm, Bounds), Error> {
        let form = input.form(loss)?;
        input.count(form, &mut self.samples)?;
        let norms = input.check_weights(form, &mut self.factors, workers)?;
        input.fill_pairs(loss, form, &mut self.samples, workers > 1)?;
        let bounds = input.check_range(form, &self.samples, norms, input.classes.labels())?;
        self.scale_embeddings(input.embeddings, |norm| form.product_scale::<F>(norm));
        // Cosines that are given take the place of the products.
        if !self.samples.is_empty() && input.classes.given.is_none() {
            let Settings { level, precision, .. } = input.settings;
            let (samples, dims) = (self.samples.len(), input.embeddings.ncols());
            let embeddings = Mat::new(&self.embeddings, samples, dims);
            self.packed[0].pack(level, precision, embeddings.t());
            self.packed[1].pack(level, precision, embeddings);
        }
        Ok((form, bounds))
    }

    /// The same for sweeps elsewhere, which check the other class weights and pack what they read.
    pub fn prepare_without_sweeps(
        &mut self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
    ) -> Result<LogitForm, Error> {
        let form = input.form(loss)?;
        input.count(form, &mut self.samples)?;
        input.fill_pairs(loss, form, &mut self.samples, true)?;
        self.scale_embeddings(input.embeddings, |norm| form.offloaded_scale::<F>(norm));
        Ok(form)
    }

    /// The working copy of the embeddings, in the samples' order: unit vectors times a `factor`
    /// that is a_i wherever products allow it.
    fn scale_embeddings(&mut self, x: ArrayView2<'_, F>, factor: impl Fn(f64) -> f64) {
        let (dims, mut copy) = (x.ncols(), Vec::new());
        self.embeddings.resize(self.samples.len() * dims, F::zero());
        for (sample, out) in self.samples.iter().zip(self.embeddings.chunks_exact_mut(dims)) {
            let x = contiguous(x.row(sample.row), &mut copy);
            match factor(sample.norm) {
                factor if factor == sample.norm => out.copy_from_slice(x),
                factor => kernel::scaled(out, x, factor / sample.norm),
            }
        }
    }

    /// The place of each of `rows` of the batch among the samples; `None` where it does not count.
    pub fn places(&self, rows: usize) -> Vec<Option<usize>> {
        let mut places = vec![None; rows];
        for (i, sample) in self.samples.iter().enumerate() {
            places[sample.row] = Some(i);
        }
        places
    }

    /// Writes f of the samples whose class this rank holds, by row of the batch; 0 for others.
    pub fn write_targets(&mut self, rows: usize) -> &mut [F] {
        self.targets.clear();
        self.targets.resize(rows, F::zero());
        for sample in &self.samples {
            if let Some(target) = &sample.target {
                self.targets[sample.row] = F::narrow(target.target.value);
            }
        }
        &mut self.targets
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
        let (form, mut samples) = (self.form(loss)?, Vec::new());
        self.count(form, &mut samples)?;
        self.fill_pairs(loss, form, &mut samples, true)?;
        let mut angles = vec![-1.0; self.embeddings.nrows()];
        for sample in samples {
            if let Some(target) = &sample.target {
                angles[sample.row] = target.angle.theta;
            }
        }
        Ok(angles)
    }

    /// Lists the samples that count, still without their target pairs.
    fn count(&self, form: LogitForm, samples: &mut Vec<PreparedSample>) -> Result<(), Error> {
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
            let (upstream, target, terms) = (0.0, None, SampleTerms::default());
            samples.push(PreparedSample { row, class, norm, upstream, target, terms });
        }
        let counted = samples.len();
        for sample in samples {
            sample.upstream = self.reduction.map_or(0.0, |r| r.weight(sample.row, counted));
        }
        Ok(())
    }

    /// Checks every class weight. Writes the `factors` of the first, and returns of all the
    /// smallest and the largest norm.
    fn check_weights(
        &self,
        form: LogitForm,
        factors: &mut Vec<F>,
        workers: usize,
    ) -> Result<(f64, f64), Error> {
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
        norms.into_iter().try_fold(NO_NORMS, |(least, most), norms| {
            norms.map(|(a, b)| (least.min(a), most.max(b)))
        })
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
}
