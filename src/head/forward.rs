//! The first sweep: from every tile's products to each sample's negatives.

use std::ops::Range;

use super::plan::Plan;
use super::samples::{FirstLook, Inputs, factor_of};
use super::workspace::{Found, Scratch, Workspace};
use crate::cross_entropy::Negatives;
use crate::kernel::{self, Level, Mat, MatMut, Real, TileStats};
use crate::loss::Scale;
use crate::parallel::{split_off, work};

/// One chunk of the first sweep.
struct Job<'a, F> {
    classes: Range<usize>,
    /// Where its logits are kept for the second sweep, as far as this reaches.
    kept: &'a mut [F],
    max: &'a mut [F],
    class: &'a mut [usize],
    sum: &'a mut [f64],
    target: &'a mut [F],
}

/// What both sweeps read.
#[derive(Clone, Copy)]
pub(super) struct Sweep<'a, 'b, F> {
    pub plan: &'a Plan,
    pub inputs: &'a Inputs<'b, F>,
    pub scale: Scale,
    pub look: &'a FirstLook<F>,
}

impl<F: Real> Sweep<'_, '_, F> {
    /// Fills `found`, chunk by chunk, and keeps the logits in `kept`, one tile after the other, as
    /// far as it reaches; `room` is what each class has there.
    pub fn forward(
        &self,
        found: &mut Found<F>,
        (mut kept, room): (&mut [F], usize),
        workers: &mut [Scratch<F>],
    ) {
        let n = self.plan.samples;
        let statistics = found
            .max
            .chunks_mut(n)
            .zip(found.class.chunks_mut(n))
            .zip(found.sum.chunks_mut(n))
            .zip(found.target.chunks_mut(n));
        let jobs = statistics.enumerate().map(|(index, (((max, class), sum), target))| {
            let classes = self.plan.chunk(index);
            let kept = split_off(&mut kept, classes.len() * room);
            Job { classes, kept, max, class, sum, target }
        });
        work(jobs, workers, |scratch, job| self.forward_chunk(scratch, job));
    }

    fn forward_chunk(&self, scratch: &mut Scratch<F>, job: Job<'_, F>) {
        let n = self.plan.samples;
        job.max.fill(F::neg_infinity());
        job.class.fill(usize::MAX);
        job.sum.fill(0.0);
        for tile in Plan::tiles(job.classes.clone()) {
            let at = tile.start - job.classes.start;
            let z = match job.kept.get_mut(at * n..(at + tile.len()) * n) {
                Some(kept) => kept,
                None => &mut scratch.tile[..tile.len() * n],
            };
            let weights = self.inputs.classes.tile(tile.clone(), &mut scratch.packed);
            self.products(weights, tile.len(), z);
            let factors = self.factors(tile.clone(), weights, &mut scratch.factors);
            let biases = self.biases(tile.clone(), &mut scratch.biases);
            let (max, best) = (&mut scratch.max[..n], &mut scratch.best[..n]);
            let stats = TileStats { max, row: best, target: job.target };
            let targets = self.targets(tile.start);
            kernel::tile_stats(Level::detect(), z, n, factors, biases, targets, stats);
            for i in 0..n {
                if scratch.max[i] > job.max[i] {
                    job.sum[i] *= (job.max[i] - scratch.max[i]).exp().widen();
                    job.max[i] = scratch.max[i];
                    job.class[i] = tile.start + scratch.best[i] as usize;
                }
                // A sample without a negative so far has none in this tile: e^(−∞ − 0) adds 0.
                scratch.max[i] = job.max[i].max(F::min_value());
            }
            kernel::tile_sums(Level::detect(), z, n, &scratch.max, &mut scratch.short, job.sum);
        }
    }

    /// $w_j\cdot\tilde x_i$ of a tile.
    pub fn products(&self, weights: &[F], rows: usize, z: &mut [F]) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let FirstLook { embeddings, panels, .. } = self.look;
        let embeddings = Mat::new(embeddings, n, dims).t().in_panels(&panels[0]);
        kernel::gemm(
            Level::detect(),
            MatMut::new(z, rows, n, n),
            false,
            Mat::new(weights, rows, dims),
            embeddings,
        );
    }

    /// What a tile's products are multiplied by: the inverse norms, or 1. Known for the first
    /// classes, found again for the others.
    pub fn factors<'s>(
        &'s self,
        tile: Range<usize>,
        weights: &[F],
        factors: &'s mut [F],
    ) -> &'s [F] {
        if let Some(known) = self.look.factors.get(tile.clone()) {
            return known;
        }
        let factors = &mut factors[..tile.len()];
        for (factor, w) in factors.iter_mut().zip(weights.chunks_exact(self.plan.dims)) {
            *factor = factor_of(self.scale, kernel::norm(w));
        }
        factors
    }

    /// The biases of a tile, where there are any.
    pub fn biases<'s>(&self, tile: Range<usize>, biases: &'s mut [F]) -> Option<&'s [F]> {
        if !self.inputs.classes.are_shifted() {
            return None;
        }
        for (bias, j) in biases.iter_mut().zip(tile) {
            *bias = self.inputs.classes.bias_of(j);
        }
        Some(biases)
    }

    /// The samples of each class from `first` on, to be asked for in order.
    pub fn targets(&self, first: usize) -> impl FnMut(usize) -> Range<usize> {
        let samples = &self.look.samples;
        let mut next = samples.partition_point(|sample| sample.class < first);
        move |row| {
            let start = next;
            while samples.get(next).is_some_and(|sample| sample.class == first + row) {
                next += 1;
            }
            start..next
        }
    }
}

impl<F: Real> Workspace<F> {
    /// What all chunks together found of sample `i`: its negatives, the nearest other class.
    pub fn negatives(&self, plan: &Plan, i: usize) -> (Negatives, Nearest<F>) {
        let mut nearest = Nearest { max: F::neg_infinity(), class: usize::MAX };
        let mut all = Negatives::NONE;
        for chunk in 0..plan.chunks {
            let at = chunk * plan.samples + i;
            let (max, sum) = (self.found.max[at], self.found.sum[at]);
            all = all.merge(Negatives { max: max.widen(), sum });
            if max > nearest.max {
                nearest = Nearest { max, class: self.found.class[at] };
            }
        }
        (all, nearest)
    }

    /// The margin-free logit of sample `i` for its own class, as the chunk that holds it found it.
    pub fn target_logit(&self, plan: &Plan, i: usize, class: usize) -> F {
        let chunk = (0..plan.chunks).find(|&chunk| plan.chunk(chunk).contains(&class));
        chunk.map_or(F::neg_infinity(), |chunk| self.found.target[chunk * plan.samples + i])
    }
}

/// The class other than its own that a sample is nearest to, and its logit.
#[derive(Clone, Copy)]
pub(super) struct Nearest<F> {
    pub max: F,
    pub class: usize,
}
