//! The gradients of the logits, row by row.

use super::LogitGradients;
use super::view::{RowNearest, RowTarget, View};
use crate::data::Scale;
use crate::kernel::{self, Level, Real, RowLogits};
use crate::math::SampleTerms;

impl<F: Real> View<'_, F> {
    /// Writes the gradient of one row's cosines; returns those of its target angle and of the norm
    /// of its embedding.
    pub fn row_gradient(
        &self,
        i: usize,
        all: RowLogits<'_, F>,
        target: &RowTarget,
        (terms, upstream): (&SampleTerms, f64),
        out: &mut [F],
    ) -> (F, F) {
        let level = Level::detect();
        // The scale of the logits is another than a_i where that is tiny.
        let norm = self.norms(i, 0).0;
        let made_up = self.form.made_up(norm, self.form.product_scale::<F>(norm));
        let [coefficient, uniform] = [terms.coefficient, terms.uniform].map(|g| g * made_up);
        let factors = [terms.shift, coefficient, uniform].map(F::narrow);
        let [shift, coefficient, uniform] = factors;
        let mut copy = Vec::new();
        let row = Self::others(all, &target.nearest, &mut copy);
        match self.form.binary_logits() {
            Some(binary) => drop(kernel::row_binary(level, row, binary, coefficient, out)),
            None => kernel::row_gradient(level, row, shift, coefficient, out),
        }
        if terms.uniform != 0.0 {
            kernel::row_smoothing(level, row, uniform, out);
        }
        let by_function = |nearest: &RowNearest| {
            out[nearest.class] = F::zero();
            terms.negative_gradient(nearest.pair.logit) * nearest.pair.scale
        };
        let by_nearest: Vec<f64> = target.nearest.iter().map(by_function).collect();
        let by_function = terms.target_gradient * target.pair.scale;
        let by_loss = target.pair.by_norm(terms.target_gradient, upstream);
        let along_norm = match self.form.scale {
            Scale::Fixed(_) => by_loss,
            _ if norm == 0.0 => 0.0,
            _ => {
                let products = out.iter().zip(all.cosines).map(|(g, c)| g.widen() * c.widen());
                let hard = row.scale.widen() * kernel::row_hard_radial(level, row, factors);
                let own = by_function * target.pair.target.value;
                let nearest = target.nearest.iter().zip(&by_nearest);
                let nearest: f64 = nearest.map(|(n, by)| by * n.pair.target.value).sum();
                (products.sum::<f64>() + hard + nearest + own) / norm + by_loss
            }
        };
        out[self.labels[i]] = F::narrow(by_function * target.cosine_slope);
        for (nearest, by_function) in target.nearest.iter().zip(by_nearest) {
            out[nearest.class] = F::narrow(by_function * nearest.cosine_slope);
        }
        (F::narrow(by_function * target.pair.target.slope), F::narrow(along_norm))
    }

    /// The gradients that sum over samples, of the norms of the class weights and of the bias; and
    /// the gradients of the logits themselves wherever a vector has no direction.
    pub fn column_gradients(
        &self,
        targets: &[Option<RowTarget>],
        terms: &[Option<SampleTerms>],
        gradients: &mut LogitGradients<F>,
    ) {
        gradients.weight_norms.fill(F::zero());
        gradients.clear_extreme();
        if self.form.scale != Scale::Unnormalized {
            return;
        }
        let classes = self.logits.cosines.ncols();
        let (mut norms, mut biases) = (vec![0.0; classes], vec![0.0; classes]);
        let (mut by_logit, mut factors) = (vec![0.0; classes], Vec::new());
        let samples = targets.iter().zip(terms).enumerate();
        for (i, (target, terms)) in samples {
            let (Some(target), Some(terms)) = (target, terms) else { continue };
            let label = self.labels[i];
            let row = self.row(i, target, &mut factors);
            let norm = self.norms(i, label).0;
            logit_gradients(&row, terms, &mut by_logit);
            for j in (0..classes).filter(|&j| j != label) {
                norms[j] += by_logit[j] * norm * row.cosines[j].widen();
                biases[j] += by_logit[j];
            }
            norms[label] += terms.target_gradient * norm * target.pair.target.value;
            biases[label] += terms.target_gradient;
            by_logit[label] = terms.target_gradient;
            if let (Some(source), true) = (&self.logits.source, self.form.plain) {
                gradients.keep_extreme(source, i, &by_logit);
            }
        }
        gradients.weight_norms = norms.into_iter().map(F::narrow).collect();
        if let Some(bias) = &mut gradients.bias {
            *bias = biases.into_iter().map(F::narrow).collect();
        }
    }
}

/// ∂objective/∂z_ij for the negatives of a sample of Softmax. Those of the cosines have norms as
/// factors, and may have left the range of `F`.
fn logit_gradients<F: Real>(row: &RowLogits<'_, F>, terms: &SampleTerms, out: &mut [f64]) {
    let shift = F::narrow(terms.shift);
    for (j, out) in out.iter_mut().enumerate() {
        let factor = row.columns.map_or(F::one(), |columns| columns[j]);
        let bias = row.biases.map_or(F::zero(), |biases| biases[j]);
        let z = row.scale * row.cosines[j] * factor + bias;
        *out = terms.coefficient * (z - shift).exp().widen() - terms.uniform;
    }
}
