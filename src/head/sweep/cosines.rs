//! Between the cosines of materialized logits, a row for each sample, and the tiles of a sweep, a column
//! for each.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::first::Sweep;
use crate::data::{Scale, contiguous};
use crate::kernel::{self, Real};
use crate::step::Plan;

/// Samples that are transposed together.
const SIDE_BY_SIDE: usize = 16;

impl<F: Real> Sweep<'_, F> {
    /// Writes a_i times the `cosines` of a tile's classes to `z`.
    pub fn scale_cosines(&self, cosines: ArrayView2<'_, F>, z: &mut [F]) {
        let (n, classes) = (self.plan.samples, cosines.ncols());
        let (mut lines, mut copy) = (vec![F::zero(); SIDE_BY_SIDE * classes], Vec::new());
        for (block, samples) in self.workspace.samples.chunks(SIDE_BY_SIDE).enumerate() {
            for (line, sample) in lines.chunks_exact_mut(classes).zip(samples) {
                let cosines = contiguous(cosines.row(sample.row), &mut copy);
                kernel::scaled(line, cosines, self.plan.form.product_scale::<F>(sample.norm));
            }
            let (z, shape) = (&mut z[block * SIDE_BY_SIDE..], [samples.len(), classes]);
            kernel::transpose(self.plan.level, (&lines, classes), (z, n), shape);
        }
    }

    /// Writes the gradients of a tile's logits, which have been multiplied by the lifts, to those
    /// of the cosines: a_i times as large, but for Softmax, where a norm of 0 would be the end of
    /// them. Of the rows of a class only the nearest has one.
    pub fn store(
        &self,
        gradient: &mut [F],
        cosines: &mut ArrayViewMut2<'_, F>,
        tile: Range<usize>,
    ) {
        let Plan { samples: n, form, sub_centers: rows, .. } = *self.plan;
        for of_class in gradient.chunks_exact_mut(rows * n).filter(|_| rows > 1) {
            let (first, others) = of_class.split_at_mut(n);
            for other in others.chunks_exact(n) {
                first.iter_mut().zip(other).for_each(|(sum, &g)| *sum += g);
            }
        }
        let mut cosines = cosines.slice_mut(s![.., tile.start / rows..tile.end / rows]);
        let classes = cosines.ncols();
        let mut lines = vec![F::zero(); SIDE_BY_SIDE * classes];
        let scale = |norm| match form.scale {
            Scale::Unnormalized => 1.0,
            Scale::Fixed(_) | Scale::FeatureNorm => form.row_scale(norm),
        };
        for (block, samples) in self.workspace.samples.chunks(SIDE_BY_SIDE).enumerate() {
            let first = block * SIDE_BY_SIDE;
            let (from, to) = ((&gradient[first..], rows * n), (&mut lines[..], classes));
            kernel::transpose(self.plan.level, from, to, [classes, samples.len()]);
            for ((i, sample), line) in (first..).zip(samples).zip(lines.chunks_exact(classes)) {
                let scale = scale(sample.norm) / self.workspace.lifts.get(i).unwrap_or(&1.0);
                let mut of_sample = cosines.row_mut(sample.row);
                match of_sample.as_slice_mut() {
                    Some(of_sample) => kernel::scaled(of_sample, line, scale),
                    None => of_sample.iter_mut().zip(line).for_each(|(to, g)| {
                        *to = F::narrow(g.widen() * scale);
                    }),
                }
            }
        }
    }
}
