//! Between the sweeps: what the chunks have found of each sample, taken together.

use super::step::Step;
use crate::data::{IGNORED, NearestNegative, SampleStats};
use crate::kernel::Real;
use crate::math::LogSumExp;
use crate::step::{Apart, ChunkStats, StepInput, Workspace};

impl<F: Real> Step<'_, F> {
    /// The statistics of sample `i` over all chunks, and of the negatives that these left out.
    pub(super) fn sample_stats(
        &self,
        input: &StepInput<'_, F>,
        i: usize,
        apart: Option<Apart>,
    ) -> SampleStats {
        let sample = &self.workspace.samples[i];
        let found = self.negatives(i);
        let negatives = apart.map_or(found, |apart| found.merge(apart));
        let own = sample.class.map(|class| (class, self.target_logit(i, class)));
        let negative = self.workspace.nearest_negative(i);
        // Of equally near classes the lowest.
        let nearest =
            own.into_iter().chain(negative).reduce(|(class, logit), (other, its_logit)| {
                let is_other = its_logit > logit || (its_logit == logit && other < class);
                if is_other { (other, its_logit) } else { (class, logit) }
            });
        let nearest = nearest.map_or((IGNORED, f64::NEG_INFINITY), |(class, logit)| {
            (input.classes.label_of(class), logit.widen())
        });
        let negative = negative.map_or(NearestNegative::NONE, |(class, logit)| {
            let factor = self.plan.form.product_scale::<F>(sample.norm);
            input.nearest_negative(self.plan.form, factor, (class, logit.widen()))
        });
        input.sample_stats(sample, self.smoothing, negatives, nearest, negative)
    }

    /// The margin-free logit of sample `i` for its own `class`, from the chunk that holds it.
    fn target_logit(&self, i: usize, class: usize) -> F {
        let holds = |chunk: &usize| self.plan.chunk(*chunk).contains(&class);
        let chunk = (0..self.plan.chunks).find(holds);
        chunk.map_or(F::neg_infinity(), |chunk| self.workspace.chunks[chunk].target[i])
    }

    /// The negatives of sample `i` in all chunks.
    fn negatives(&self, i: usize) -> Apart {
        let chunks = &self.workspace.chunks;
        let merged = |of_chunk: &dyn Fn(&ChunkStats<F>) -> (F, f64)| {
            let parts = chunks.iter().map(of_chunk);
            let parts = parts.map(|(max, sum)| LogSumExp::new(max.widen(), sum));
            parts.fold(self.plan.form.no_negatives(), LogSumExp::merge)
        };
        let negatives = merged(&|chunk| (chunk.max[i], chunk.sum[i]));
        let margin_free = if self.plan.has_log_prior {
            merged(&|chunk| (chunk.margin_free_max[i], chunk.margin_free_sum[i]))
        } else {
            negatives
        };
        let logits = chunks.iter().filter_map(|chunk| chunk.logits.get(i)).sum();
        Apart { negatives, margin_free, logits }
    }
}

impl<F: Real> Workspace<F> {
    /// The class other than its own that sample `i` is nearest to, and its logit.
    pub(super) fn nearest_negative(&self, i: usize) -> Option<(usize, F)> {
        let of_chunk = |chunk: &ChunkStats<F>| {
            (chunk.class[i], *chunk.nearest.get(i).unwrap_or(&chunk.max[i]))
        };
        let all = self.chunks.iter().map(of_chunk).filter(|(_, logit)| *logit > F::neg_infinity());
        all.reduce(|nearest, other| if other.1 > nearest.1 { other } else { nearest })
    }
}
