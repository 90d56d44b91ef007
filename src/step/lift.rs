//! What keeps tiny gradients within the range of the number type.

use super::plan::Plan;
use super::prepare::Prepared;
use crate::data::{Bounds, Scale};
use crate::kernel::{Mat, Real};
use crate::math::SampleTerms;

impl<F: Real> Prepared<F> {
    /// For each sample what multiplies the gradients of its logits in the second sweep; empty where
    /// that is 1 for all.
    ///
    /// It makes up for a working copy of another factor than a_i. And where these gradients are
    /// tiny, as those of a class that is nearly certain, it is larger by a power of two, and the
    /// working copy smaller: between a small gradient and a small norm that divides it, products
    /// would leave the range of `F` though their result does not.
    pub fn lift(
        &mut self,
        plan: &Plan,
        bounds: &Bounds,
        terms: &[SampleTerms],
        lifts: &mut Vec<f64>,
    ) {
        let (form, dims) = (self.form, plan.dims);
        let (least, epsilon) = (F::min_positive_value().widen(), F::epsilon().widen());
        let (least_norm, most) = bounds.weight_norms;
        // What the products multiply a gradient of a logit by, at most.
        let reach = if form.scale == Scale::Unnormalized { most } else { least_norm.recip() };
        let reach = reach.max(1.0) * bounds.negatives.1;
        let mut lowered = false;
        lifts.clear();
        for (i, (sample, terms)) in self.samples.iter().zip(terms).enumerate() {
            let (scale, factor) =
                (form.row_scale(sample.norm), form.product_scale::<F>(sample.norm));
            let made_up = form.made_up(sample.norm, factor);
            let of_softmax = sample.upstream.abs() * (terms.one_minus_p + form.smoothing);
            let size = made_up * of_softmax.max(terms.coefficient.abs());
            // And what is behind the products.
            let outer = scale.max(scale / sample.norm).max(1.0);
            let mut power = 1.0;
            if 0.0 < size && size < least.sqrt() * reach * outer {
                // Hard negatives have the norm as a factor of their gradients besides.
                let reach = if form.hard.is_some() { reach.max(scale) } else { reach };
                let most = (F::MAX.sqrt() / (size * reach)).min(factor * (epsilon / least));
                power = most.log2().floor().exp2().max(1.0);
            }
            if power > 1.0 {
                lowered = true;
                let row = &mut self.embeddings[i * dims..(i + 1) * dims];
                row.iter_mut().for_each(|v| *v = F::narrow(v.widen() / power));
            }
            lifts.push(made_up * power);
        }
        if lowered {
            let embeddings = Mat::new(&self.embeddings, lifts.len(), dims);
            self.packed[1].pack(plan.level, plan.precision, embeddings);
        }
        if lifts.iter().all(|&lift| lift == 1.0) {
            lifts.clear();
        }
    }
}
