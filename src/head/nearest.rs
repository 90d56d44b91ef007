//! Between the sweeps, for losses with a margin on the nearest negatives: which these are, over all
//! chunks and ranks, and their pairs in f64.

use std::convert::Infallible;

use super::step::Step;
use super::sweep::Nearest;
use super::top_k::of_all_ranks;
use crate::data::{LogitForm, NearestNegative, Scale, TargetPair, contiguous, norm_of};
use crate::error::Error;
use crate::kernel::{self, HardTile, Real};
use crate::math::TopMargin;
use crate::step::{
    Apart, ChunkStats, Communication, NearestLogit, NearestPair, NearestPairs, PreparedSample,
    StepInput, Workspace,
};

/// A negative before others: by its logit, then by its class.
fn before<F: Real>(a: &NearestLogit<F>, b: &NearestLogit<F>) -> std::cmp::Ordering {
    b.plain.widen().total_cmp(&a.plain.widen()).then(a.class.cmp(&b.class))
}

impl<F: Real> Step<'_, F> {
    /// Keeps the pairs of the nearest negatives, and returns for each sample the logits that the
    /// first sweep left out; nothing for a loss without a margin on them.
    pub(super) fn nearest_pairs(
        &mut self,
        input: &StepInput<'_, F>,
        communication: &dyn Communication<F>,
    ) -> Result<Vec<Apart>, Error> {
        let n = self.plan.samples;
        self.workspace.nearest = NearestPairs::default();
        let Some(top) = self.workspace.prepared.form.top.filter(|_| n > 0) else {
            return Ok(Vec::new());
        };
        let mut apart = vec![Apart::NONE; n];
        let k = top.k.min(self.classes());
        let mut candidates: Vec<_> = (0..n).map(|i| self.largest_of(i)).collect();
        let kept = self.among_all(k, input, &candidates, communication)?;
        let Workspace { prepared, hard, nearest, .. } = &mut *self.workspace;
        let hard = hard.tile(prepared.form, [None, None]);
        for (i, (candidates, kept)) in candidates.iter_mut().zip(kept).enumerate() {
            let others = candidates.split_off(kept);
            let prior = |class: usize| input.classes.log_prior_of(class).widen();
            for NearestLogit { plain, logit, class } in others {
                let counted = |hard: HardTile<'_, F>| hard.value(i, plain, logit);
                apart[i].add(hard.map_or(logit, counted).widen(), prior(class));
            }
            for &mut NearestLogit { class, .. } in candidates {
                let pair = pair_of(top, input, &prepared.samples[i], prepared.form, class);
                apart[i].add(pair.logit, prior(class));
                let pair = pair.with_log_prior(prior(class));
                nearest.pairs.push(NearestPair { class, sample: i, pair, gradient: 0.0 });
            }
        }
        nearest.pairs.sort_unstable_by_key(|pair| (pair.class, pair.sample));
        Ok(apart)
    }

    /// The nearest negative that the first sweep has found.
    pub(super) fn nearest_negative(
        &self,
        input: &StepInput<'_, F>,
        sample: &PreparedSample,
        nearest: Nearest<F>,
    ) -> NearestNegative {
        let Some(class) = nearest.class else { return NearestNegative::NONE };
        let form = self.workspace.prepared.form;
        let weight_norm = match form.scale {
            Scale::Unnormalized => norm_of(input.classes.weight(class), &mut Vec::new()),
            Scale::Fixed(_) | Scale::FeatureNorm => 1.0,
        };
        let scale = form.pair_scale(sample.norm, weight_norm);
        let logit = nearest.max.widen();
        let product = logit - input.classes.bias_of(class).widen();
        // A zero vector has a right angle to any other. Rounding alone exceeds 1.
        let cosine = if scale == 0.0 { 0.0 } else { (product / scale).clamp(-1.0, 1.0) };
        NearestNegative { label: input.classes.label_of(class), logit, cosine }
    }

    /// The negatives of sample `i` that the chunks have kept, from the nearest on.
    fn largest_of(&self, i: usize) -> Vec<NearestLogit<F>> {
        let of_sample = |chunk: &ChunkStats<F>| {
            let k = chunk.top.len() / self.plan.samples;
            chunk.top[i * k..(i + 1) * k].to_vec()
        };
        let kept = self.workspace.chunks.iter().flat_map(of_sample);
        let mut kept: Vec<_> = kept.filter(NearestLogit::is_some).collect();
        kept.sort_unstable_by(before);
        kept
    }

    /// How many of each sample's candidates are among the k nearest of all ranks.
    fn among_all(
        &self,
        k: usize,
        input: &StepInput<'_, F>,
        candidates: &[Vec<NearestLogit<F>>],
        communication: &dyn Communication<F>,
    ) -> Result<Vec<usize>, Error> {
        let samples = &self.workspace.prepared.samples;
        let entry = |entry: &NearestLogit<F>| (entry.plain, input.classes.label_of(entry.class));
        let mut entries = vec![Vec::new(); input.embeddings.nrows()];
        for (sample, candidates) in samples.iter().zip(candidates) {
            entries[sample.row] = candidates.iter().take(k).map(entry).collect();
        }
        let nearest = of_all_ranks(entries, k, communication)?;
        let kept = |(sample, candidates): (&PreparedSample, &Vec<NearestLogit<F>>)| {
            let is_kept =
                |candidate: &&NearestLogit<F>| nearest[sample.row].contains(&entry(candidate));
            candidates.iter().take_while(is_kept).count()
        };
        Ok(samples.iter().zip(candidates).map(kept).collect())
    }

    /// The gradients of the nearest negatives' logits, and what they add to those of the embeddings.
    pub(super) fn nearest_gradients(&mut self, input: &StepInput<'_, F>, embeddings: bool) {
        let Workspace { prepared, nearest, terms, .. } = &mut *self.workspace;
        let NearestPairs { pairs, embeddings: sums } = nearest;
        let dims = self.plan.dims;
        sums.resize(
            if embeddings && !pairs.is_empty() { self.plan.samples * dims } else { 0 },
            0.0,
        );
        let (mut x_copy, mut w_copy) = (Vec::new(), Vec::new());
        for NearestPair { class, sample, pair, gradient } in pairs {
            let terms = terms[*sample];
            *gradient = terms.negative_gradient(pair.logit);
            if let Some(sum) = sums.get_mut(*sample * dims..(*sample + 1) * dims) {
                let row = prepared.samples[*sample].row;
                let x = contiguous(input.embeddings.row(row), &mut x_copy);
                let w = contiguous(input.classes.weight(*class), &mut w_copy);
                pair.add_to_embedding(prepared.form, (x, w), *gradient, sum);
            }
        }
    }
}

fn pair_of<F: Real>(
    top: TopMargin,
    input: &StepInput<'_, F>,
    sample: &PreparedSample,
    form: LogitForm,
    class: usize,
) -> TargetPair {
    let (mut x, mut w) = (Vec::new(), Vec::new());
    let x = contiguous(input.embeddings.row(sample.row), &mut x);
    let w = contiguous(input.classes.weight(class), &mut w);
    let (norm, bias) = (kernel::norm(w), input.classes.bias_of(class).widen());
    let target = |angle: &_| Ok::<_, Infallible>(top.target(angle).into());
    let Ok(pair) = TargetPair::new(form, (x, sample.norm), (w, norm), bias, target);
    pair
}
