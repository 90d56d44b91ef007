//! Between the sweeps, for losses with a margin on the nearest negatives: which these are, over all
//! chunks and ranks, and their pairs in f64.

use ndarray::ArrayViewMut1;

use super::step::Step;
use super::top_k::of_all_ranks;
use crate::error::Error;
use crate::kernel::Real;
use crate::parallel::run_jobs;
use crate::step::{
    Apart, NearestLogit, NearestPair, Plan, PreparedSample, Ranks, StepInput, Workspace,
};

impl<F: Real> Step<'_, F> {
    /// Keeps the pairs of the nearest negatives, and returns for each sample the logits that the
    /// first sweep left out; nothing for a loss without a margin on them.
    pub(super) fn nearest_pairs(&mut self, input: &StepInput<'_, F>) -> Result<Vec<Apart>, Error> {
        let (n, ranks) = (self.plan.samples, self.ranks);
        let form = self.plan.form;
        let Some(top) = form.top.filter(|_| n > 0) else { return Ok(Vec::new()) };
        let (k, mut workers) = (top.k.min(self.classes()), vec![(); self.plan.workers]);
        let Workspace { samples, chunks, .. } = &*self.workspace;
        let hard = self.workspace.hard_tile(form, [None, None]);
        let prior = |class| input.classes.log_prior_of(class).widen();
        let mut apart = vec![Apart::NONE; n];
        let mut candidates = vec![NearestLogit::none(); n * k];
        let jobs = candidates.chunks_exact_mut(k).zip(&mut apart).enumerate();
        run_jobs(jobs, &mut workers, |(), (i, (candidates, apart))| {
            for chunk in chunks {
                for &entry in chunk.top_of(i) {
                    if let Some(other) = entry.insert(candidates) {
                        apart.add_other(hard, i, other, prior(other.class));
                    }
                }
            }
        });
        let kept = among_all(k, input, (samples, &candidates), ranks)?;
        let mut pairs = vec![Vec::new(); n];
        let parts = candidates.chunks_exact(k).zip(kept).map(|(all, kept)| all.split_at(kept));
        let jobs = parts.zip(pairs.iter_mut().zip(&mut apart)).enumerate();
        run_jobs(jobs, &mut workers, |(), (i, ((kept, others), (pairs, apart)))| {
            for &other in others.iter().filter(|other| other.is_some()) {
                apart.add_other(hard, i, other, prior(other.class));
            }
            let sample = (i, &samples[i]);
            let pair = |nearest: &NearestLogit<F>| {
                NearestPair::new(input, (form, top), sample, nearest.class, apart)
            };
            pairs.extend(kept.iter().map(pair));
        });
        self.workspace.nearest.extend(pairs.into_iter().flatten());
        Ok(apart)
    }

    /// Keeps what the second sweep needs of the class weights as they are now: the gradients of the
    /// nearest negatives' logits, and where the gradient of the `embeddings` is requested, what they
    /// add to it, and the weights of the samples' own classes.
    pub(super) fn keep_pairs(&mut self, input: &StepInput<'_, F>, embeddings: bool) {
        let Plan { form, samples: n, dims, workers, .. } = self.plan;
        let from = (input.embeddings, &input.classes);
        self.workspace.nearest_gradients(form, from, (embeddings, workers));
        let Workspace { samples, target_rows, .. } = &mut *self.workspace;
        target_rows.resize(if embeddings { n * dims } else { 0 }, F::zero());
        for (row, sample) in target_rows.chunks_exact_mut(dims).zip(samples) {
            if let Some(class) = sample.class {
                ArrayViewMut1::from(row).assign(&input.classes.weight(class));
            }
        }
    }
}

/// How many of each sample's k candidates are among the k nearest of all ranks.
fn among_all<F: Real>(
    k: usize,
    input: &StepInput<'_, F>,
    (samples, candidates): (&[PreparedSample], &[NearestLogit<F>]),
    ranks: Ranks<'_, F>,
) -> Result<Vec<usize>, Error> {
    let entry = |entry: &NearestLogit<F>| (entry.plain, input.classes.label_of(entry.class));
    let some = |entry: &&NearestLogit<F>| entry.is_some();
    let mut entries = vec![Vec::new(); input.embeddings.nrows()];
    for (sample, candidates) in samples.iter().zip(candidates.chunks_exact(k)) {
        entries[sample.row] = candidates.iter().take_while(some).map(entry).collect();
    }
    let nearest = of_all_ranks(entries, k, ranks)?;
    let kept = |(sample, candidates): (&PreparedSample, &[NearestLogit<F>])| {
        let is_kept = |candidate: &&NearestLogit<F>| {
            candidate.is_some() && nearest[sample.row].contains(&entry(candidate))
        };
        candidates.iter().take_while(is_kept).count()
    };
    Ok(samples.iter().zip(candidates.chunks_exact(k)).map(kept).collect())
}
