//! What the ranks exchange in a step.

use ndarray::{ArrayView1, ArrayViewMut2};

use super::agreement::RankInput;
use super::collective::Collective;
use super::communication::{Communication, Shared, StepReport};
use super::input::StepInput;
use crate::data::{IGNORED, NearestNegative, SampleStats, TargetLogit};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::math::LogSumExp;

/// The sub-center of a sample whose class another rank holds.
const UNKNOWN: usize = usize::MAX;

/// The communication of a step whose classes are split.
pub(crate) struct Ranks<'a, F> {
    pub collective: &'a dyn Collective<F>,
}

impl<F: Real> Communication<F> for Ranks<'_, F> {
    fn check_classes(&self, loss: &dyn MarginLoss, input: &StepInput<'_, F>) -> Result<(), Error> {
        RankInput(input).check_classes(self.collective, loss)
    }

    fn agree(
        &self,
        loss: &dyn MarginLoss,
        input: &StepInput<'_, F>,
        report: Result<StepReport, Error>,
    ) -> Result<StepReport, Error> {
        RankInput(input).agree(self.collective, loss, report)
    }

    fn sum_targets(&self, targets: &mut [F]) -> Result<(), Error> {
        self.collective.all_reduce_sum(targets)
    }

    fn nearest(&self, logits: &mut [F], classes: &mut [usize]) -> Result<(), Error> {
        let own = logits.to_vec();
        self.collective.all_reduce_max(logits)?;
        // The more negative, the higher the class.
        let candidates = own.iter().zip(&*logits).zip(&*classes).map(|((own, max), &class)| {
            let is_nearest = own == max && max.is_finite();
            if is_nearest { -F::from_index(class as u64) } else { F::neg_infinity() }
        });
        let mut candidates: Vec<F> = candidates.collect();
        self.collective.all_reduce_max(&mut candidates)?;
        for (class, nearest) in classes.iter_mut().zip(candidates) {
            *class = if nearest.is_finite() { (-nearest).to_index() as usize } else { IGNORED };
        }
        Ok(())
    }

    fn largest(&self, numbers: &mut [F]) -> Result<(), Error> {
        self.collective.all_reduce_max(numbers)
    }

    fn all(&self, numbers: Vec<F>) -> Result<Vec<F>, Error> {
        self.collective.all_gather(&numbers)
    }

    fn complete(
        &self,
        rows: usize,
        shared: Shared,
        stats: &mut [SampleStats],
    ) -> Result<(), Error> {
        let maxima = self.log_sum_exps(rows, shared, stats)?;
        self.share_reports(rows, &maxima, shared, stats)
    }

    fn sum_embeddings(&self, mut embeddings: ArrayViewMut2<'_, F>) -> Result<(), Error> {
        if let Some(embeddings) = embeddings.as_slice_mut() {
            return self.collective.all_reduce_sum(embeddings);
        }
        let mut copy: Vec<F> = embeddings.iter().copied().collect();
        self.collective.all_reduce_sum(&mut copy)?;
        let dims = embeddings.ncols();
        for (mut row, copy) in embeddings.rows_mut().into_iter().zip(copy.chunks_exact(dims)) {
            row.assign(&ArrayView1::from(copy));
        }
        Ok(())
    }
}

impl<F: Real> Ranks<'_, F> {
    /// All-reduces what loss and gradient need: the largest negatives; the sums of their
    /// exponentials; the target logits, with and without margin, as distances from the largest
    /// negative; and, where there are any, the shares of the mean, the penalties, and the same
    /// without class prior. Returns the maxima: of the negatives, and where some of these count by
    /// another number than their cosine, of all classes and of the negatives by their cosines.
    fn log_sum_exps(
        &self,
        rows: usize,
        Shared { smoothed, penalised, changed, log_prior, .. }: Shared,
        stats: &mut [SampleStats],
    ) -> Result<Vec<F>, Error> {
        let vectors = if changed { 3 } else { 1 } + usize::from(log_prior);
        // Without a class prior the largest negative is that of both.
        let margin_free = if log_prior { 3 * rows } else { 0 };
        let mut maxima = vec![F::neg_infinity(); vectors * rows];
        for sample in stats.iter() {
            maxima[sample.row] = F::narrow(sample.negatives.max);
            if changed {
                maxima[rows + sample.row] = F::narrow(sample.best);
                maxima[2 * rows + sample.row] = F::narrow(sample.nearest_negative.logit);
            }
            if log_prior {
                maxima[margin_free + sample.row] = F::narrow(sample.margin_free_negatives.max);
            }
        }
        self.collective.all_reduce_max(&mut maxima)?;
        let penalties = if smoothed { 4 } else { 3 };
        let margin_free_sums = penalties + usize::from(penalised);
        let vectors = margin_free_sums + usize::from(log_prior);
        let mut sums = vec![F::zero(); vectors * rows];
        for SampleStats { row, negatives, margin_free_negatives, target, mean_share, .. } in
            stats.iter()
        {
            if smoothed {
                sums[3 * rows + *row] = F::narrow(*mean_share);
            }
            if let Some(target) = target.filter(|_| penalised) {
                sums[penalties * rows + *row] = F::narrow(target.penalty);
            }
            let (max, plain_max) = (maxima[*row].widen(), maxima[margin_free + *row].widen());
            let rescaled = |part: &LogSumExp, max: f64| {
                let sum = if part.sum > 0.0 { part.sum * (part.max - max).exp() } else { 0.0 };
                F::narrow(sum)
            };
            sums[*row] = rescaled(negatives, max);
            if log_prior {
                sums[margin_free_sums * rows + *row] = rescaled(margin_free_negatives, plain_max);
            }
            // Without a negative on any rank there is no loss, whatever the target logit.
            if let Some(target) = target.filter(|_| max.is_finite()) {
                sums[rows + *row] = F::narrow(target.logit - max);
                sums[2 * rows + *row] = F::narrow(target.margin_free - plain_max);
            }
        }
        self.collective.all_reduce_sum(&mut sums)?;
        for sample in stats {
            let plain_max = maxima[margin_free + sample.row].widen();
            let max = maxima[sample.row].widen();
            let entry = |vector: usize| sums[vector * rows + sample.row].widen();
            sample.negatives = LogSumExp::new(max, entry(0));
            let margin_free_sum = entry(if log_prior { margin_free_sums } else { 0 });
            sample.margin_free_negatives = LogSumExp::new(plain_max, margin_free_sum);
            sample.mean_share = if smoothed { entry(3) } else { 0.0 };
            let angle = sample.target.map_or(0.0, |target| target.angle);
            let (logit, margin_free) = (max + entry(1), plain_max + entry(2));
            let penalty = if penalised { entry(penalties) } else { 0.0 };
            let sub_center = sample.target.map(|target| target.sub_center);
            let sub_center = sub_center.unwrap_or(UNKNOWN);
            sample.target = Some(TargetLogit { logit, margin_free, angle, penalty, sub_center });
        }
        Ok(maxima)
    }

    /// All-reduces what is needed for reporting only: the target angle, known to the rank of the
    /// target, and with `sub_centers` its nearest row; and the nearest class, known to the rank with
    /// the largest logit, and so the nearest negative. Of several ranks the lowest class counts.
    fn share_reports(
        &self,
        rows: usize,
        maxima: &[F],
        Shared { changed, sub_centers, .. }: Shared,
        stats: &mut [SampleStats],
    ) -> Result<(), Error> {
        let (nearest_logits, negative_logits) =
            if changed { maxima[rows..].split_at(rows) } else { (maxima, maxima) };
        let mut reports = vec![F::neg_infinity(); if sub_centers { 5 } else { 4 } * rows];
        let mut vectors = reports.chunks_exact_mut(rows);
        let mut vector = || vectors.next().unwrap_or_default();
        let (angles, nearest, negatives, cosines) = (vector(), vector(), vector(), vector());
        let chosen = vector();
        for sample in stats.iter() {
            let max = nearest_logits[sample.row].widen();
            let Some(target) = sample.target else { continue };
            angles[sample.row] = F::narrow(target.angle);
            if sub_centers && target.sub_center != UNKNOWN {
                chosen[sample.row] = F::from_index(target.sub_center as u64);
            }
            let negative = sample.nearest_negative;
            if negative.label != IGNORED && F::narrow(negative.logit) == negative_logits[sample.row]
            {
                negatives[sample.row] = -F::from_index(negative.label as u64);
                cosines[sample.row] = F::narrow(negative.cosine);
            }
            if sample.best > max {
                nearest[sample.row] = F::one();
            } else if sample.best == max && max.is_finite() {
                // The more negative, the higher the class.
                nearest[sample.row] = -F::from_index(sample.prediction as u64);
            }
        }
        self.collective.all_reduce_max(&mut reports)?;
        for sample in stats {
            if let Some(target) = &mut sample.target {
                target.angle = reports[sample.row].widen();
                let chosen = reports.get(4 * rows + sample.row);
                target.sub_center = chosen.map_or(0, |chosen| chosen.to_index() as usize);
            }
            let [negative, cosine] = [2, 3].map(|vector| reports[vector * rows + sample.row]);
            sample.nearest_negative = NearestNegative::NONE;
            if negative > F::neg_infinity() {
                sample.nearest_negative.label = (-negative).to_index() as usize;
                sample.nearest_negative.cosine = cosine.widen();
            }
            let nearest = reports[rows + sample.row];
            sample.prediction =
                if nearest < F::zero() { (-nearest).to_index() as usize } else { sample.label };
        }
        Ok(())
    }
}
