//! What turns logits into their gradients, in the number type and within its range.

use super::plan::Plan;
use super::workspace::Workspace;
use crate::data::{Bounds, LogitForm, Scale};
use crate::kernel::{HardTile, Mat, Real};

impl<F: Real> Workspace<F> {
    /// Sets the numbers of a [`HardTile`] from the factor that cosines have in the products, by the
    /// norm of the sample, and from the targets f.
    pub fn set_hard(&mut self, form: LogitForm, factor: impl Fn(f64) -> f64) {
        self.hard.iter_mut().for_each(Vec::clear);
        let Some(hard) = form.hard else { return };
        let [q0, _, q2] = hard.coefficients();
        let [threshold, constant, quadratic] = &mut self.hard;
        for sample in &self.samples {
            let (scale, target) = (factor(sample.norm), self.targets[sample.row].widen());
            threshold.push(F::narrow((scale * hard.limit::<F>(target)).min(F::MAX)));
            constant.push(F::narrow(scale * q0));
            quadratic.push(F::narrow(q2 / scale));
        }
    }

    /// The hard negatives of a tile whose rows have these offsets, which add up; `None` without.
    pub fn hard_tile<'s>(
        &'s self,
        form: LogitForm,
        offsets: [Option<&'s [F]>; 2],
    ) -> Option<HardTile<'s, F>> {
        let linear = F::narrow(form.hard?.coefficients()[1]);
        let [threshold, constant, quadratic] = &self.hard;
        Some(HardTile { threshold, constant, quadratic, linear, offsets })
    }

    /// Converts the terms of the samples to the number type, their coefficients times a lift.
    ///
    /// It makes up for a working copy of another factor than a_i. And where the gradients of the
    /// logits are tiny, as those of a class that is nearly certain, it is larger by a power of two,
    /// and the working copy smaller: between a small gradient and a small norm that divides it,
    /// products would leave the range of `F` though their result does not.
    pub fn set_coefficients(&mut self, plan: &Plan, bounds: &Bounds) {
        let (form, dims) = (plan.form, plan.dims);
        let (least, epsilon) = (F::min_positive_value().widen(), F::epsilon().widen());
        let (least_norm, most) = bounds.weight_norms;
        // What the products multiply a gradient of a logit by, at most.
        let reach = if form.scale == Scale::Unnormalized { most } else { least_norm.recip() };
        let reach = reach.max(1.0) * bounds.negatives.1;
        let mut lowered = false;
        self.lifts.clear();
        for numbers in [&mut self.shift, &mut self.coefficient, &mut self.uniform] {
            numbers.clear();
        }
        for (i, sample) in self.samples.iter().enumerate() {
            let (scale, factor) =
                (form.row_scale(sample.norm), form.product_scale::<F>(sample.norm));
            let (terms, made_up) = (sample.terms, form.made_up(sample.norm, factor));
            let of_softmax = sample.upstream.abs() * (terms.one_minus_p + form.smoothing);
            let size = made_up * of_softmax.max(terms.coefficient.abs());
            // And what is behind the products.
            let outer = scale.max(scale / sample.norm).max(1.0);
            let mut power = 1.0;
            if 0.0 < size && size < least.sqrt() * reach * outer {
                // Hard negatives have the norm as a factor of their gradients besides.
                let reach = if form.hard.is_some() { reach.max(scale) } else { reach };
                let most = (F::MAX.sqrt() / (size * reach)).min(factor * (epsilon / least));
                // A tiny gradient of a long vector allows for more than there are numbers.
                power = most.min(f64::MAX / 2.0).log2().floor().exp2().max(1.0);
            }
            if power > 1.0 {
                lowered = true;
                let row = &mut self.embeddings[i * dims..(i + 1) * dims];
                row.iter_mut().for_each(|v| *v = F::narrow(v.widen() / power));
            }
            let lift = made_up * power;
            self.lifts.push(lift);
            self.shift.push(F::narrow(terms.shift));
            self.coefficient.push(F::narrow(terms.coefficient * lift));
            if form.smoothing > 0.0 {
                self.uniform.push(F::narrow(terms.uniform * lift));
            }
        }
        if lowered {
            let embeddings = Mat::new(&self.embeddings, self.samples.len(), dims);
            self.packed[1].pack(plan.level, plan.precision, embeddings);
        }
        if self.lifts.iter().all(|&lift| lift == 1.0) {
            self.lifts.clear();
        }
    }

    /// The sum of one class's gradients of logits, which have been multiplied by the lifts.
    pub fn sum_lifted(&self, gradients: &[F]) -> f64 {
        if self.lifts.is_empty() {
            return gradients.iter().map(|g| g.widen()).sum();
        }
        gradients.iter().zip(&self.lifts).map(|(g, lift)| g.widen() / lift).sum()
    }
}
