//! The first sweep: from every tile's products to each sample's negatives.

use std::ops::Range;

use super::plan::Plan;
use super::samples::{Inputs, Sample};
use super::workspace::{Found, Scratch, Workspace};
use crate::cross_entropy::Negatives;
use crate::kernel::{self, Layout, Mat, MatMut, Real, TileStats};
use crate::loss::Scale;
use crate::parallel::{split_off, work};

/// Where the logits of a chunk's classes go: kept for the second sweep, or passed over.
pub(super) enum Logits<'a, F> {
    /// In the rows of the weight gradient, which are long enough.
    Gradient(&'a mut [F]),
    /// In the workspace, as far as they are stored; an empty slice keeps none.
    Workspace(&'a mut [F]),
}

/// One chunk of the first sweep.
struct Job<'a, F> {
    classes: Range<usize>,
    logits: Logits<'a, F>,
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
    pub samples: &'a [Sample],
    pub embeddings: &'a [F],
}

impl<F: Real> Sweep<'_, '_, F> {
    /// Fills `found`, chunk by chunk, and keeps the logits where `gradient` (the caller's weight
    /// gradient) or `stored` has room for them.
    pub fn forward(
        &self,
        found: &mut Found<F>,
        mut gradient: Option<&mut [F]>,
        mut stored: &mut [F],
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
            let logits = match &mut gradient {
                Some(gradient) => {
                    Logits::Gradient(split_off(gradient, classes.len() * self.plan.dims))
                }
                None => Logits::Workspace(split_off(&mut stored, classes.len() * n)),
            };
            Job { classes, logits, max, class, sum, target }
        });
        work(jobs, workers, |scratch, job| self.forward_chunk(scratch, job));
    }

    fn forward_chunk(&self, scratch: &mut Scratch<F>, mut job: Job<'_, F>) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        job.max.fill(F::neg_infinity());
        job.class.fill(usize::MAX);
        job.sum.fill(0.0);
        for tile in Plan::tiles(job.classes.clone()) {
            let at = tile.start - job.classes.start;
            let (z, stride) = match &mut job.logits {
                Logits::Gradient(rows) => (&mut rows[at * dims..(at + tile.len()) * dims], dims),
                Logits::Workspace(rows) if (at + tile.len()) * n <= rows.len() => {
                    (&mut rows[at * n..(at + tile.len()) * n], n)
                }
                Logits::Workspace(_) => (&mut scratch.tile[..tile.len() * n], n),
            };
            let weights = self.inputs.classes.tile(tile.clone(), &mut scratch.packed);
            self.products(weights, tile.len(), z, stride);
            self.factors(weights, &mut scratch.factors[..tile.len()]);
            let biases = self.biases(tile.clone(), &mut scratch.biases);
            let (max, best) = (&mut scratch.max[..n], &mut scratch.best[..n]);
            let stats = TileStats { max, row: best, target: job.target };
            let layout = Layout { stride, samples: n };
            let targets = self.targets(tile.start);
            kernel::tile_stats(z, layout, &scratch.factors[..tile.len()], biases, targets, stats);
            for i in 0..n {
                if scratch.max[i] > job.max[i] {
                    job.sum[i] *= (job.max[i] - scratch.max[i]).exp().widen();
                    job.max[i] = scratch.max[i];
                    job.class[i] = tile.start + scratch.best[i] as usize;
                }
                // A sample without a negative so far has none in this tile: e^(−∞ − 0) adds 0.
                scratch.max[i] = job.max[i].max(F::min_value());
            }
            kernel::tile_sums(z, layout, &scratch.max, &mut scratch.short, job.sum);
        }
    }

    /// $w_j\cdot\tilde x_i$ of a tile.
    pub fn products(&self, weights: &[F], rows: usize, z: &mut [F], stride: usize) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let embeddings = Mat::new(self.embeddings, n, dims).t();
        kernel::gemm(
            MatMut::new(z, rows, n, stride),
            false,
            Mat::new(weights, rows, dims),
            embeddings,
        );
    }

    /// What a tile's products are multiplied by: the inverse norms, or 1.
    pub fn factors(&self, weights: &[F], factors: &mut [F]) {
        for (factor, w) in factors.iter_mut().zip(weights.chunks_exact(self.plan.dims)) {
            *factor = match self.scale {
                Scale::Unnormalized => F::one(),
                _ => F::narrow(kernel::norm(w).recip()),
            };
        }
    }

    /// The biases of a tile, where there are any.
    pub fn biases<'s>(&self, tile: Range<usize>, biases: &'s mut [F]) -> Option<&'s [F]> {
        self.inputs.classes.bias?;
        for (bias, j) in biases.iter_mut().zip(tile) {
            *bias = self.inputs.classes.bias_of(j);
        }
        Some(biases)
    }

    /// The samples of each class from `first` on, to be asked for in order.
    pub fn targets(&self, first: usize) -> impl FnMut(usize) -> Range<usize> {
        let samples = self.samples;
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
