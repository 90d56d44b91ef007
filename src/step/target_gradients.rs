//! What the pairs that are known in f64 add to the gradients of embeddings and class weights: those
//! of the samples with their own classes, and with the nearest negatives that have a margin.

use std::ops::Range;

use ndarray::ArrayView2;

use super::nearest::NearestPair;
use super::workspace::Workspace;
use crate::data::{Classes, LogitForm, Scale, contiguous};
use crate::kernel::{self, Real};
use crate::parallel::run_jobs;

impl<F: Real> Workspace<F> {
    /// The gradients of the nearest negatives' logits, and what they add to those of the
    /// embeddings, if these are requested.
    pub fn nearest_gradients(
        &mut self,
        form: LogitForm,
        (x, classes): (ArrayView2<'_, F>, &Classes<'_, F>),
        (embeddings, workers): (bool, usize),
    ) {
        let Workspace { samples, nearest, nearest_sums: sums, .. } = self;
        let dims = x.ncols();
        let requested = embeddings && !nearest.is_empty();
        sums.clear();
        sums.resize(if requested { samples.len() * dims } else { 0 }, 0.0);
        let mut sums = sums.chunks_exact_mut(dims).enumerate();
        let jobs = nearest.chunk_by_mut(|a, b| a.sample == b.sample).map(|pairs| {
            let i = pairs[0].sample;
            (&samples[i], pairs, sums.find(|(of_sample, _)| *of_sample == i))
        });
        let mut buffers = vec![(Vec::new(), Vec::new()); workers];
        run_jobs(jobs, &mut buffers, |(x_copy, w_copy), (sample, pairs, mut sum)| {
            let x = contiguous(x.row(sample.row), x_copy);
            for NearestPair { class, pair, gradient, .. } in pairs {
                *gradient = sample.terms.negative_gradient(pair.logit);
                if let Some((_, sum)) = &mut sum {
                    let w = contiguous(classes.weight(*class), w_copy);
                    pair.add_to_embedding(form, (x, w), *gradient, sum);
                }
            }
        });
        nearest.sort_unstable_by_key(|pair| (pair.class, pair.sample));
    }

    /// The pairs of the classes of a range as nearest negatives.
    pub fn nearest_of(&self, classes: Range<usize>) -> &[NearestPair] {
        let before = |class: usize| self.nearest.partition_point(|pair| pair.class < class);
        &self.nearest[before(classes.start)..before(classes.end)]
    }

    /// Turns Σ_j G_ij·v_j into the gradient of the embedding of sample `i`: its projection where
    /// the scale is fixed, plus the gradient of the target logit, whose class weight is `w`, and
    /// what the nearest negatives with a margin of their own add. `radial` is what the negatives
    /// add to the derivative by the norm, times the factor of their cosines in the products.
    pub fn finish_embedding(
        &self,
        form: LogitForm,
        embeddings: ArrayView2<'_, F>,
        w: Option<&[F]>,
        (i, radial): (usize, f64),
        sum: &mut [f64],
    ) {
        let mut copy = Vec::new();
        let sample = &self.samples[i];
        let by_logit = sample.terms.target_gradient;
        let x = contiguous(embeddings.row(sample.row), &mut copy);
        let inverse = sample.norm.recip();
        if let Scale::Fixed(_) = form.scale {
            let along = kernel::dot(sum, x) * inverse;
            kernel::add_scaled(sum, 1.0, x, -along * inverse);
        }
        if let (Some(target), Some(w)) = (&sample.target, w) {
            target.add_to_embedding(form, (x, w), by_logit, sum);
        }
        let nearest = self.nearest_sums.get(i * sum.len()..(i + 1) * sum.len());
        for (sum, nearest) in sum.iter_mut().zip(nearest.into_iter().flatten()) {
            *sum += nearest;
        }
        if let Scale::Fixed(s) = form.scale {
            sum.iter_mut().for_each(|v| *v *= s * inverse);
        }
        let by_loss = sample.target.map_or(0.0, |target| target.by_norm(by_logit, sample.upstream));
        if by_loss != 0.0 || radial != 0.0 {
            let by_negatives = radial / form.product_scale::<F>(sample.norm);
            kernel::add_scaled(sum, 1.0, x, (by_loss + by_negatives) * inverse);
        }
    }

    /// Adds the target pairs of one class, of weight `w`, and its pairs with samples whose nearest
    /// negative it is, to the gradient of that. Returns what the target pairs add to the gradient of
    /// its bias.
    pub fn add_pairs(
        &self,
        form: LogitForm,
        embeddings: ArrayView2<'_, F>,
        w: &[F],
        (targets, nearest): (Range<usize>, &[NearestPair]),
        row: &mut [F],
        sum: &mut [f64],
    ) -> f64 {
        let mut copy = Vec::new();
        kernel::add_scaled(sum, 0.0, row, 1.0);
        let samples = &self.samples[targets];
        for sample in samples {
            let Some(target) = &sample.target else { continue };
            let x = contiguous(embeddings.row(sample.row), &mut copy);
            target.add_to_weight(form, (x, w, sample.norm), sample.terms.target_gradient, sum);
        }
        for NearestPair { sample, pair, gradient, .. } in nearest {
            let sample = &self.samples[*sample];
            let x = contiguous(embeddings.row(sample.row), &mut copy);
            pair.add_to_weight(form, (x, w, sample.norm), *gradient, sum);
        }
        kernel::rounded(row, sum);
        samples.iter().map(|sample| sample.terms.target_gradient).sum()
    }
}
