//! The gradients of the logits, row by row.

use super::LogitGradients;
use super::view::{RowTarget, View};
use crate::data::{Scale, has_direction};
use crate::kernel::{self, Level, Real, RowLogits};
use crate::math::SampleTerms;

impl<F: Real> View<'_, F> {
    /// Writes the gradient of one row's cosines; returns those of its target angle and of the norm
    /// of its embedding.
    pub fn row_gradient(
        &self,
        i: usize,
        target: &RowTarget,
        (terms, upstream): (&SampleTerms, f64),
        out: &mut [F],
    ) -> (F, F) {
        let all = self.row(i, target.pair.target.value);
        let mut copy = Vec::new();
        let row = Self::others(all, &target.nearest, &mut copy);
        kernel::row_gradient(
            Level::detect(),
            row,
            F::narrow(terms.shift),
            F::narrow(terms.coefficient),
            out,
        );
        if terms.uniform != 0.0 {
            kernel::row_smoothing(Level::detect(), row, F::narrow(terms.uniform), out);
        }
        let nearest = target.nearest.iter().map(|nearest| {
            out[nearest.class] = F::zero();
            nearest.gradient(terms) * nearest.pair.scale * nearest.pair.target.value
        });
        let nearest: f64 = nearest.sum();
        let by_function = terms.target_gradient * target.pair.scale;
        let norm = self.norms(i, 0).0;
        let by_loss = target.pair.by_norm(terms.target_gradient, upstream);
        let along_norm = match self.form.scale {
            Scale::Fixed(_) => by_loss,
            _ if norm == 0.0 => 0.0,
            _ => {
                let products = out.iter().zip(all.cosines).map(|(g, c)| g.widen() * c.widen());
                let hard = self.hard_radial(i, &row, terms);
                let own = by_function * target.pair.target.value;
                (products.sum::<f64>() + hard + nearest + own) / norm + by_loss
            }
        };
        out[self.labels[i]] = F::narrow(by_function * target.cosine_slope);
        for nearest in &target.nearest {
            let by_logit = nearest.gradient(terms) * nearest.pair.scale;
            out[nearest.class] = F::narrow(by_logit * nearest.cosine_slope);
        }
        (F::narrow(by_function * target.pair.target.slope), F::narrow(along_norm))
    }

    /// What the negatives of sample `i` that are up-weighted add to the derivative by its norm, times
    /// the norm, beyond what the products of cosines and their gradients do.
    fn hard_radial(&self, i: usize, row: &RowLogits<'_, F>, terms: &SampleTerms) -> f64 {
        let Some(hard) = row.hard else { return 0.0 };
        let (scale, shift) = (row.scale, F::narrow(terms.shift));
        let [q0, q1, q2] = hard.coefficients;
        let parts = row.cosines.iter().enumerate().map(|(j, &c)| {
            let radial = hard.radial(c);
            if radial == 0.0 || j == self.labels[i] {
                return 0.0;
            }
            let z = scale * (q0 + c * (q1 + c * q2));
            let gradient = terms.coefficient * (z - shift).exp().widen() - terms.uniform;
            gradient * scale.widen() * radial
        });
        parts.sum()
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
        gradients.undirected.clear();
        if self.form.scale != Scale::Unnormalized {
            return;
        }
        let classes = self.logits.cosines.ncols();
        let (mut norms, mut biases) = (vec![0.0; classes], vec![0.0; classes]);
        let mut by_logit = vec![0.0; classes];
        let samples = targets.iter().zip(terms).enumerate();
        for (i, (target, terms)) in samples {
            let (Some(target), Some(terms)) = (target, terms) else { continue };
            let label = self.labels[i];
            let row = self.row(i, target.pair.target.value);
            let norm = self.norms(i, label).0;
            let cosines = super::row(&gradients.cosines, i);
            self.logit_gradients(i, &row, terms, cosines, &mut by_logit);
            for j in (0..classes).filter(|&j| j != label) {
                norms[j] += by_logit[j] * norm * row.cosines[j].widen();
                biases[j] += by_logit[j];
            }
            norms[label] += terms.target_gradient * norm * target.pair.target.value;
            biases[label] += terms.target_gradient;
            by_logit[label] = terms.target_gradient;
            if let Some(source) = &self.logits.source {
                gradients.undirected.keep(source, i, &by_logit);
            }
        }
        gradients.weight_norms = norms.into_iter().map(F::narrow).collect();
        if let Some(bias) = &mut gradients.bias {
            *bias = biases.into_iter().map(F::narrow).collect();
        }
    }

    /// ∂objective/∂z_ij for the negatives of sample `i`: from the gradients of their cosines where
    /// embedding and class weight have norms to divide by, else from the logits.
    fn logit_gradients(
        &self,
        i: usize,
        row: &RowLogits<'_, F>,
        terms: &SampleTerms,
        cosines: &[F],
        out: &mut [f64],
    ) {
        let shift = F::narrow(terms.shift);
        for (j, out) in out.iter_mut().enumerate() {
            let (r, q) = self.norms(i, j);
            *out = if has_direction::<F>(r) && has_direction::<F>(q) {
                cosines[j].widen() / q / r
            } else {
                let factor = row.columns.map_or(F::one(), |columns| columns[j]);
                let bias = row.biases.map_or(F::zero(), |biases| biases[j]);
                let z = row.scale * row.cosines[j] * factor + bias;
                terms.coefficient * (z - shift).exp().widen() - terms.uniform
            };
        }
    }
}
