//! Between the sweeps, for losses with a margin on the nearest negatives: which these are, over all
//! chunks and ranks, and their pairs in f64.

use super::step::Step;
use super::top_k::of_all_ranks;
use crate::error::Error;
use crate::kernel::Real;
use crate::step::{
    Apart, ChunkStats, Coefficients, NearestLogit, NearestPairs, PreparedSample, StepInput,
    Workspace,
};

impl<F: Real> Step<'_, F> {
    /// Keeps the pairs of the nearest negatives, and returns for each sample the logits that the
    /// first sweep left out; nothing for a loss without a margin on them.
    pub(super) fn nearest_pairs(&mut self, input: &StepInput<'_, F>) -> Result<Vec<Apart>, Error> {
        let n = self.plan.samples;
        self.workspace.coefficients.nearest = NearestPairs::default();
        let Some(top) = self.workspace.prepared.form.top.filter(|_| n > 0) else {
            return Ok(Vec::new());
        };
        let mut apart = vec![Apart::NONE; n];
        let k = top.k.min(self.classes());
        let mut candidates: Vec<_> = (0..n).map(|i| self.largest_of(i)).collect();
        let kept = self.among_all(k, input, &candidates)?;
        let Workspace { prepared, coefficients: Coefficients { nearest, .. }, .. } =
            &mut *self.workspace;
        let hard = prepared.hard_tile([None, None]);
        for (i, (candidates, kept)) in candidates.iter_mut().zip(kept).enumerate() {
            let sample = (i, &prepared.samples[i]);
            let prior = |class| input.classes.log_prior_of(class).widen();
            apart[i].add_others(hard, i, candidates.split_off(kept), prior);
            for &mut NearestLogit { class, .. } in candidates {
                nearest.add(input, (prepared.form, top), sample, class, &mut apart[i]);
            }
        }
        nearest.sort();
        Ok(apart)
    }

    /// The negatives of sample `i` that the chunks have kept, from the nearest on.
    fn largest_of(&self, i: usize) -> Vec<NearestLogit<F>> {
        let of_sample = |chunk: &ChunkStats<F>| {
            let k = chunk.top.len() / self.plan.samples;
            chunk.top[i * k..(i + 1) * k].to_vec()
        };
        let kept = self.workspace.chunks.iter().flat_map(of_sample);
        let mut kept: Vec<_> = kept.filter(NearestLogit::is_some).collect();
        kept.sort_unstable_by(NearestLogit::order);
        kept
    }

    /// How many of each sample's candidates are among the k nearest of all ranks.
    fn among_all(
        &self,
        k: usize,
        input: &StepInput<'_, F>,
        candidates: &[Vec<NearestLogit<F>>],
    ) -> Result<Vec<usize>, Error> {
        let samples = &self.workspace.prepared.samples;
        let entry = |entry: &NearestLogit<F>| (entry.plain, input.classes.label_of(entry.class));
        let mut entries = vec![Vec::new(); input.embeddings.nrows()];
        for (sample, candidates) in samples.iter().zip(candidates) {
            entries[sample.row] = candidates.iter().take(k).map(entry).collect();
        }
        let nearest = of_all_ranks(entries, k, self.ranks)?;
        let kept = |(sample, candidates): (&PreparedSample, &Vec<NearestLogit<F>>)| {
            let is_kept =
                |candidate: &&NearestLogit<F>| nearest[sample.row].contains(&entry(candidate));
            candidates.iter().take_while(is_kept).count()
        };
        Ok(samples.iter().zip(candidates).map(kept).collect())
    }

    /// Keeps what the second sweep needs of the class weights as they are now: the gradients of the
    /// nearest negatives' logits, and where the gradient of the `embeddings` is requested, what they
    /// add to it, and the weights of the samples' own classes.
    pub(super) fn keep_pairs(&mut self, input: &StepInput<'_, F>, embeddings: bool) {
        let Workspace { prepared, coefficients, .. } = &mut *self.workspace;
        let Coefficients { nearest, terms, target_rows, .. } = coefficients;
        let from = (input.embeddings.view(), &input.classes);
        nearest.backward(from, (prepared.form, &prepared.samples), terms, embeddings);
        let dims = self.plan.dims;
        target_rows.resize(if embeddings { self.plan.samples * dims } else { 0 }, F::zero());
        for (row, sample) in target_rows.chunks_exact_mut(dims).zip(&prepared.samples) {
            if let Some(class) = sample.class {
                row.iter_mut().zip(input.classes.weight(class)).for_each(|(copy, &w)| *copy = w);
            }
        }
    }
}
