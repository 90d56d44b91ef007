//! What the ranks exchange in a step.

use ndarray::ArrayRef2;

use super::collective::Collective;
use crate::data::{IGNORED, NearestNegative, SampleStats, TargetLogit};
use crate::error::Error;
use crate::kernel::Real;
use crate::math::LogSumExp;

/// The ranks that hold the other classes; none where one process holds all.
#[derive(Clone, Copy)]
pub(crate) struct Ranks<'a, F>(pub Option<&'a dyn Collective<F>>);

impl<F: Real> Ranks<'_, F> {
    /// The largest number of all ranks for each entry.
    pub fn max(self, numbers: &mut [F]) -> Result<(), Error> {
        self.0.map_or(Ok(()), |collective| collective.all_reduce_max(numbers))
    }

    /// The sum of the numbers of all ranks for each entry.
    pub fn sum(self, numbers: &mut [F]) -> Result<(), Error> {
        self.0.map_or(Ok(()), |collective| collective.all_reduce_sum(numbers))
    }

    /// Sums the ranks' gradients of the embeddings, unless they are empty: not requested.
    pub fn sum_embeddings(self, embeddings: &mut ArrayRef2<F>) -> Result<(), Error> {
        if self.0.is_none() || embeddings.is_empty() {
            return Ok(());
        }
        if let Some(embeddings) = embeddings.as_slice_mut() {
            return self.sum(embeddings);
        }
        let mut copy: Vec<F> = embeddings.iter().copied().collect();
        self.sum(&mut copy)?;
        embeddings.iter_mut().zip(copy).for_each(|(sum, copy)| *sum = copy);
        Ok(())
    }

    /// Completes the stats of all samples by what the other ranks know; the batch has `rows`.
    ///
    /// Three calls exchange all there is to know of a sample, whatever the loss: the largest logits;
    /// sums relative to these; and what one rank alone knows, for reporting only.
    pub fn complete(self, rows: usize, stats: &mut [SampleStats]) -> Result<(), Error> {
        let Some(collective) = self.0 else { return Ok(()) };
        let max = |values: &mut [F]| collective.all_reduce_max(values);
        let sum = |values: &mut [F]| collective.all_reduce_sum(values);
        let largest = reduced(rows, stats, F::neg_infinity(), max, |sample| {
            let margin_free = sample.margin_free_negatives.max;
            let nearest = [sample.best, sample.nearest_negative.logit];
            [sample.negatives.max, margin_free, nearest[0], nearest[1]].map(F::narrow)
        })?;
        let sums = reduced(rows, stats, F::zero(), sum, |sample| {
            let [max, margin_free_max] = [0, 1].map(|k| largest[sample.row][k].widen());
            let rescaled = |part: LogSumExp, max: f64| {
                if part.sum > 0.0 { part.sum * (part.max - max).exp() } else { 0.0 }
            };
            // Without a negative on any rank there is no loss, whatever the target logit.
            let target = sample.target.filter(|_| max.is_finite());
            let numbers = [
                rescaled(sample.negatives, max),
                rescaled(sample.margin_free_negatives, margin_free_max),
                target.map_or(0.0, |target| target.logit - max),
                target.map_or(0.0, |target| target.margin_free - margin_free_max),
                sample.target.map_or(0.0, |target| target.penalty),
                sample.mean_share,
            ];
            numbers.map(F::narrow)
        })?;
        let known = reduced(rows, stats, F::neg_infinity(), max, |sample| {
            let [.., best, nearest] = largest[sample.row];
            let negative = sample.nearest_negative;
            let label = candidate(negative.label, F::narrow(negative.logit), nearest);
            let cosine = if label.is_finite() { F::narrow(negative.cosine) } else { label };
            let prediction = candidate(sample.prediction, F::narrow(sample.best), best);
            let (angle, sub_center) = sample.target.map_or((0.0, 0), |t| (t.angle, t.sub_center));
            [F::narrow(angle), F::from_index(sub_center as u64), prediction, label, cosine]
        })?;
        for sample in stats {
            let [max, margin_free_max, ..] = largest[sample.row].map(F::widen);
            let [sum, margin_free_sum, target, margin_free, penalty, share] =
                sums[sample.row].map(F::widen);
            let [angle, sub_center, prediction, label, cosine] = known[sample.row];
            sample.negatives = LogSumExp::new(max, sum);
            sample.margin_free_negatives = LogSumExp::new(margin_free_max, margin_free_sum);
            sample.mean_share = share;
            sample.target = Some(TargetLogit {
                logit: max + target,
                margin_free: margin_free_max + margin_free,
                angle: angle.widen(),
                penalty,
                sub_center: sub_center.to_index() as usize,
            });
            sample.prediction = lowest_class(prediction);
            sample.nearest_negative = NearestNegative::NONE;
            if label.is_finite() {
                sample.nearest_negative.label = lowest_class(label);
                sample.nearest_negative.cosine = cosine.widen();
            }
        }
        Ok(())
    }
}

/// What the ranks know of each row of the batch, reduced: `none` for a row that does not count.
fn reduced<F: Real, const K: usize>(
    rows: usize,
    stats: &[SampleStats],
    none: F,
    reduce: impl Fn(&mut [F]) -> Result<(), Error>,
    known: impl Fn(&SampleStats) -> [F; K],
) -> Result<Vec<[F; K]>, Error> {
    let mut table = vec![[none; K]; rows];
    for sample in stats {
        table[sample.row] = known(sample);
    }
    reduce(table.as_flattened_mut())?;
    Ok(table)
}

/// The number of a class whose logit is the largest of all ranks, the more negative the higher; of
/// any other −∞.
fn candidate<F: Real>(class: usize, logit: F, largest: F) -> F {
    let is_nearest = logit == largest && largest.is_finite();
    if is_nearest { -F::from_index(class as u64) } else { F::neg_infinity() }
}

/// The class of the largest candidate of all ranks: of equally near ones the lowest.
fn lowest_class<F: Real>(candidate: F) -> usize {
    if candidate.is_finite() { (-candidate).to_index() as usize } else { IGNORED }
}
