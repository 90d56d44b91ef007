//! The pairs of the samples with the weights of their own classes.

use rayon::prelude::*;

use super::input::StepInput;
use crate::data::{Given, LogitForm, Scale, TargetPair, check_norm, contiguous};
use crate::error::Error;
use crate::kernel::{self, Real};
use crate::loss::{MarginLoss, checked_target};
use crate::math::{Angle, Pair, Sample, SampleTarget, SampleTerms};

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
    /// Its loss and the gradients of its logits, once they are known.
    pub terms: SampleTerms,
}

impl<F: Real> StepInput<'_, F> {
    /// Fills in geometry and margin of the samples' target pairs, and sorts the samples by class
    /// and then by row.
    pub(super) fn fill_pairs(
        &self,
        loss: &dyn MarginLoss,
        form: LogitForm,
        samples: &mut [PreparedSample],
        parallel: bool,
    ) -> Result<(), Error> {
        let sort = |samples: &mut [PreparedSample]| {
            samples.sort_unstable_by_key(|sample| (sample.class.unwrap_or(usize::MAX), sample.row));
        };
        sort(samples);
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
            sort(samples);
        }
        Ok(())
    }

    /// Of the rows of a sample's label, which start at class `first`, the nearest: that at the
    /// smallest angle, or with the largest logit where class weights are not normalized; the first
    /// of equals.
    pub fn nearest_row(
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
        let (row, number) = (self.classes.weight(class), self.classes.row_of(class));
        let weight_norm = self.classes.norm(class, &mut Vec::new());
        check_norm("class weights", number, row, weight_norm, !form.plain)?;
        let label = self.classes.label_of(class);
        let mut pair = self.pair(form, sample, (class, weight_norm), |angle| {
            let row = self.samples.first_row.wrapping_add(sample.row);
            checked_target(loss, &Sample::new(*angle, sample.norm, label, row))
        })?;
        pair.add_log_prior(self.classes.log_prior_of(class).widen());
        Ok(pair)
    }

    /// A sample and a class with this norm, whose target `answer` knows by their angle: that of
    /// their vectors, or of their cosine where that is given.
    pub(super) fn pair<E>(
        &self,
        form: LogitForm,
        sample: &PreparedSample,
        (class, weight_norm): (usize, f64),
        answer: impl FnOnce(&Angle) -> Result<SampleTarget, E>,
    ) -> Result<TargetPair, E> {
        let (mut x, mut w) = (Vec::new(), Vec::new());
        let x = contiguous(self.embeddings.row(sample.row), &mut x);
        let w = contiguous(self.classes.weight(class), &mut w);
        let norm = sample.norm;
        let bias = self.classes.bias_of(class).widen();
        let Some(Given { cosines, norms: None }) = &self.classes.given else {
            return TargetPair::new(form, (x, norm), (w, weight_norm), bias, answer);
        };
        let angle = Angle::from_cos(cosines[[sample.row, class]].widen());
        TargetPair::of_angle(form, angle, (form.pair_scale(norm, weight_norm), bias), answer)
    }
}
