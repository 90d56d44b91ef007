//! Which logits of each sample are up-weighted, in units of the logits.

use crate::data::LogitForm;
use crate::kernel::{HardTile, Real};

/// The numbers of a [`HardTile`]; empty without hard negatives.
#[derive(Debug)]
pub(crate) struct HardSamples<F> {
    pub threshold: Vec<F>,
    pub constant: Vec<F>,
    pub quadratic: Vec<F>,
}

impl<F> Default for HardSamples<F> {
    fn default() -> Self {
        let [threshold, constant, quadratic] = [const { Vec::new() }; 3];
        HardSamples { threshold, constant, quadratic }
    }
}

impl<F: Real> HardSamples<F> {
    /// Takes the samples whose cosines have these factors in the products, and targets f.
    pub fn set(&mut self, form: LogitForm, samples: impl Iterator<Item = (f64, f64)>) {
        let HardSamples { threshold, constant, quadratic } = self;
        threshold.clear();
        constant.clear();
        quadratic.clear();
        let Some(hard) = form.hard else { return };
        let [q0, _, q2] = hard.coefficients();
        for (scale, target) in samples {
            threshold.push(F::narrow((scale * hard.limit::<F>(target)).min(F::MAX)));
            constant.push(F::narrow(scale * q0));
            quadratic.push(F::narrow(q2 / scale));
        }
    }

    /// The hard negatives of a tile whose rows have these offsets, which add up; `None` without.
    pub fn tile<'s>(
        &'s self,
        form: LogitForm,
        offsets: [Option<&'s [F]>; 2],
    ) -> Option<HardTile<'s, F>> {
        let linear = F::narrow(form.hard?.coefficients()[1]);
        let HardSamples { threshold, constant, quadratic } = self;
        Some(HardTile { threshold, constant, quadratic, linear, offsets })
    }
}
