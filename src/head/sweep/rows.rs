//! The sweeps over cosines that are given, for losses that ask nothing else of a negative: each
//! sample's row from one end to the other, as it lies in memory.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::first::Sweep;
use crate::data::contiguous;
use crate::kernel::{self, Real};
use crate::parallel::run_jobs;
use crate::step::{ChunkStats, Scratch};

/// Cosines whose largest is found before their exponentials are summed: meanwhile they stay in the
/// first-level cache.
const BLOCK: usize = 1024;

impl<F: Real> Sweep<'_, F> {
    /// Fills the statistics of the first chunk with those of all classes.
    pub fn forward_rows(
        &self,
        cosines: ArrayView2<'_, F>,
        chunks: &mut [ChunkStats<F>],
        workers: &mut [Scratch<F>],
    ) {
        let [ChunkStats { max, class, sum, target, .. }, others @ ..] = chunks else { return };
        let stats = max.iter_mut().zip(class).zip(sum).zip(target.iter_mut());
        let jobs = self.workspace.samples.iter().zip(stats);
        run_jobs(jobs, workers, |scratch, (sample, (((max, class), sum), target))| {
            let row = contiguous(cosines.row(sample.row), &mut scratch.packed);
            let factor = F::narrow(self.plan.form.product_scale::<F>(sample.norm));
            let own = sample.class.unwrap_or(row.len());
            *target = row.get(own).map_or(F::zero(), |own| *own * factor);
            for (side, first) in
                [(&row[..own], 0), (row.get(own + 1..).unwrap_or_default(), own + 1)]
            {
                for (block, first) in side.chunks(BLOCK).zip((first..).step_by(BLOCK)) {
                    let largest = kernel::largest(block);
                    if largest * factor > *max {
                        *sum *= (*max - largest * factor).exp().widen();
                        *max = largest * factor;
                        let place = block.iter().position(|cosine| *cosine == largest);
                        *class = first + place.unwrap_or_default();
                    }
                    *sum += kernel::sum_of_exponentials(block, factor, *max);
                }
            }
        });
        // The target logit of a sample is read from the chunk that holds its class.
        others.iter_mut().for_each(|chunk| chunk.target.copy_from_slice(target));
    }

    /// Writes the gradients of the cosines of the samples that count.
    pub fn backward_rows(
        &self,
        cosines: ArrayView2<'_, F>,
        mut gradients: ArrayViewMut2<'_, F>,
        workers: &mut [Scratch<F>],
    ) {
        let places = self.workspace.places(gradients.nrows());
        let rows = gradients.axis_iter_mut(Axis(0)).zip(cosines.rows()).zip(places);
        let jobs = rows.filter_map(|(rows, place)| Some((rows, place?)));
        run_jobs(jobs, workers, |scratch, ((mut gradients, row), i)| {
            let (form, sample) = (self.plan.form, &self.workspace.samples[i]);
            let norm = sample.norm;
            let factor = F::narrow(form.product_scale::<F>(norm));
            // No product is to come, so there is nothing that a lift would keep in range.
            let by = F::narrow(sample.terms.coefficient * form.row_scale(norm));
            let by = [factor, self.workspace.shift[i], by];
            let row = contiguous(row, &mut scratch.packed);
            match gradients.as_slice_mut() {
                Some(gradients) => kernel::exponentials(row, by, gradients),
                None => {
                    scratch.factors.resize(row.len(), F::zero());
                    kernel::exponentials(row, by, &mut scratch.factors);
                    gradients.iter_mut().zip(&scratch.factors).for_each(|(to, g)| *to = *g);
                }
            }
            if let Some(own) = sample.class {
                gradients[own] = F::zero();
            }
        });
    }
}
