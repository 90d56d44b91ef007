//! What the samples' own classes add to the gradients of embeddings and class weights.

use std::ops::Range;

use ndarray::ArrayView2;

use super::nearest::NearestPair;
use super::prepare::Prepared;
use crate::data::{Scale, contiguous};
use crate::kernel::{self, Real};
use crate::math::SampleTerms;

/// The embeddings of the batch, and the terms of the samples that count, in their order.
type Samples<'a, F> = (ArrayView2<'a, F>, &'a [SampleTerms]);

impl<F: Real> Prepared<F> {
    /// Turns Σ_j G_ij·v_j into the gradient of the embedding of sample `i`: its projection where
    /// the scale is fixed, plus the gradient of the target logit, whose class weight is `w`, and what
    /// the `nearest` negatives with a margin of their own add.
    /// `radial` is what the negatives add to the derivative by the norm, times the factor of their
    /// cosines in the products.
    pub fn finish_embedding(
        &self,
        (embeddings, terms): Samples<'_, F>,
        (w, nearest): (Option<&[F]>, Option<&[f64]>),
        (i, radial): (usize, f64),
        sum: &mut [f64],
    ) {
        let mut copy = Vec::new();
        let (form, sample) = (self.form, &self.samples[i]);
        let x = contiguous(embeddings.row(sample.row), &mut copy);
        let inverse = sample.norm.recip();
        if let Scale::Fixed(_) = form.scale {
            let along = kernel::dot(sum, x) * inverse;
            kernel::add_scaled(sum, 1.0, x, -along * inverse);
        }
        if let (Some(target), Some(w)) = (&sample.target, w) {
            target.add_to_embedding(form, (x, w), terms[i].target_gradient, sum);
        }
        for (sum, nearest) in sum.iter_mut().zip(nearest.into_iter().flatten()) {
            *sum += nearest;
        }
        if let Scale::Fixed(s) = form.scale {
            sum.iter_mut().for_each(|v| *v *= s * inverse);
        }
        let by_loss = sample
            .target
            .map_or(0.0, |target| target.by_norm(terms[i].target_gradient, sample.upstream));
        if by_loss != 0.0 || radial != 0.0 {
            let by_negatives = radial / form.product_scale::<F>(sample.norm);
            kernel::add_scaled(sum, 1.0, x, (by_loss + by_negatives) * inverse);
        }
    }

    /// Adds the target pairs of one class, of weight `w`, and its pairs with samples whose nearest
    /// negative it is, to the gradient of that.
    pub fn add_pairs(
        &self,
        (embeddings, terms): Samples<'_, F>,
        w: &[F],
        (targets, nearest): (Range<usize>, &[NearestPair]),
        row: &mut [F],
        sum: &mut [f64],
    ) {
        let mut copy = Vec::new();
        kernel::add_scaled(sum, 0.0, row, 1.0);
        for i in targets {
            let sample = &self.samples[i];
            let Some(target) = &sample.target else { continue };
            let x = contiguous(embeddings.row(sample.row), &mut copy);
            target.add_to_weight(self.form, (x, w, sample.norm), terms[i].target_gradient, sum);
        }
        for NearestPair { sample, pair, gradient, .. } in nearest {
            let sample = &self.samples[*sample];
            let x = contiguous(embeddings.row(sample.row), &mut copy);
            pair.add_to_weight(self.form, (x, w, sample.norm), *gradient, sum);
        }
        kernel::rounded(row, sum);
    }
}
