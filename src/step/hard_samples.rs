//! Which logits of each sample are up-weighted, in units of the logits.

use super::prepare::{Prepared, PreparedSample};
use crate::kernel::{HardTile, Real};

impl<F: Real> Prepared<F> {
    /// Sets the numbers of a [`HardTile`] from the factor that the cosines of each sample have in the
    /// products, and its target f.
    pub fn set_hard(&mut self, of_sample: impl Fn(&PreparedSample) -> (f64, f64)) {
        self.hard.iter_mut().for_each(Vec::clear);
        let Some(hard) = self.form.hard else { return };
        let [q0, _, q2] = hard.coefficients();
        let [threshold, constant, quadratic] = &mut self.hard;
        for (scale, target) in self.samples.iter().map(of_sample) {
            threshold.push(F::narrow((scale * hard.limit::<F>(target)).min(F::MAX)));
            constant.push(F::narrow(scale * q0));
            quadratic.push(F::narrow(q2 / scale));
        }
    }

    /// The hard negatives of a tile whose rows have these offsets, which add up; `None` without.
    pub fn hard_tile<'s>(&'s self, offsets: [Option<&'s [F]>; 2]) -> Option<HardTile<'s, F>> {
        let linear = F::narrow(self.form.hard?.coefficients()[1]);
        let [threshold, constant, quadratic] = &self.hard;
        Some(HardTile { threshold, constant, quadratic, linear, offsets })
    }
}
