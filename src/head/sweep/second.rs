//! The second sweep: from the logits to the gradients of class weights and embeddings.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::first::Sweep;
use super::parameters::{ChunkParameters, Parameters};
use crate::data::{Classes, Scale, contiguous};
use crate::kernel::{self, Mat, MatMut, Real, TileStats};
use crate::math::SampleTerms;
use crate::parallel::{run_jobs, split_tail};
use crate::step::{ChunkStats, NearestPair, NearestPairs, Plan, Scratch};

/// What turns a sample's logits into their gradients, all in the samples' order, and the embeddings
/// of the batch.
#[derive(Clone, Copy)]
pub(in crate::head) struct LogitCoefficients<'a, F> {
    pub shift: &'a [F],
    pub coefficients: &'a [F],
    /// Empty unless labels are smoothed.
    pub uniform: &'a [F],
    /// What both are multiplied by; empty where that is 1 for all samples.
    pub lifts: &'a [f64],
    pub terms: &'a [SampleTerms],
    pub nearest: &'a NearestPairs,
    pub embeddings: ArrayView2<'a, F>,
}

impl<F: Real> LogitCoefficients<'_, F> {
    /// The sum of one class's gradients of logits, which have been multiplied by the lifts.
    fn sum(&self, gradients: &[F]) -> f64 {
        if self.lifts.is_empty() {
            return gradients.iter().map(|g| g.widen()).sum();
        }
        gradients.iter().zip(self.lifts).map(|(g, lift)| g.widen() / lift).sum()
    }
}

/// The weights of the samples' own classes, as they are before a step moves them.
pub(in crate::head) enum TargetRows<'a, F> {
    InPlace(Classes<'a, F>),
    /// In the samples' order.
    Copied(&'a [F]),
}

/// Where the second sweep writes; an empty slice is not requested.
pub(in crate::head) struct SweepOutput<'a, 'p, F> {
    pub parameters: Parameters<'p, F>,
    /// Rows of the gradient of the class weights, which may hold the logits on entry.
    pub weights: Option<&'a mut [F]>,
    pub bias: Option<&'a mut [F]>,
    /// Each chunk's part of the embeddings' gradient.
    pub partials: &'a mut [F],
    /// Each chunk's part of the derivatives by the embeddings' norms.
    pub radial: &'a mut [f64],
    /// What the only sweep of a binary loss finds in each chunk.
    pub found: &'a mut [ChunkStats<F>],
}

/// One chunk of the second sweep.
struct Job<'a, 'p, F> {
    classes: Range<usize>,
    parameters: ChunkParameters<'p, F>,
    weights: Option<&'a mut [F]>,
    bias: Option<&'a mut [F]>,
    stored: &'a [F],
    partial: &'a mut [F],
    radial: &'a mut [f64],
    found: &'a mut ChunkStats<F>,
}

impl<F: Real> Sweep<'_, F> {
    /// Writes the gradients of weights and bias, or updates both, and writes each chunk's part of
    /// the embeddings' gradient.
    /// On entry the rows of the weights' gradient or `stored` hold the logits; of a binary loss nothing
    /// does: its only sweep makes them, and fills `found`.
    pub fn backward(
        &self,
        coefficients: LogitCoefficients<'_, F>,
        output: SweepOutput<'_, '_, F>,
        mut stored: &[F],
        workers: &mut [Scratch<F>],
    ) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let SweepOutput { mut parameters, mut weights, mut bias, .. } = output;
        let SweepOutput { mut partials, mut radial, found, .. } = output;
        // From the last class to the first: what the first sweep left in the caches is used first.
        let jobs = found.iter_mut().enumerate().rev().map(|(index, found)| {
            let classes = self.plan.chunk(index);
            let (rest, kept) = stored.split_at((classes.start * n).min(stored.len()));
            stored = rest;
            Job {
                parameters: parameters.split_tail(classes.clone()),
                weights: weights.as_mut().map(|rows| split_tail(rows, classes.start * dims)),
                bias: bias.as_mut().map(|bias| split_tail(bias, classes.start)),
                stored: kept,
                partial: split_tail(&mut partials, index * n * dims),
                radial: split_tail(&mut radial, index * n),
                found,
                classes,
            }
        });
        run_jobs(jobs, workers, |scratch, mut job| {
            // Of equally near classes the first is found: upwards in the only sweep of a binary loss.
            let binary = self.prepared.form.binary.is_some();
            let mut tiles = self.plan.tiles(job.classes.clone());
            let mut first = true;
            while let Some(tile) = if binary { tiles.next() } else { tiles.next_back() } {
                self.backward_tile(coefficients, scratch, &mut job, tile, first);
                first = false;
            }
        });
    }

    /// One tile: the gradient of its logits, and what that gives embeddings, weights and bias,
    /// which move where the step updates them.
    fn backward_tile(
        &self,
        coefficients: LogitCoefficients<'_, F>,
        scratch: &mut Scratch<F>,
        job: &mut Job<'_, '_, F>,
        tile: Range<usize>,
        first: bool,
    ) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let at = tile.start - job.classes.start;
        let local = at..at + tile.len();
        let classes = job.parameters.classes();
        let Scratch { packed, factors, biases, recomputed, gradient: own_rows, .. } = scratch;
        let weights = classes.tile(local.clone(), packed);
        let factors = self.factors(tile.clone(), weights, factors);
        // In the rows of the weight gradient, this tile's logits and those of the tiles before it
        // lie below the rows that this tile writes: N ≤ D, and tiles are taken from the last.
        let stored = match &job.weights {
            Some(rows) if self.plan.in_weight_rows => &**rows,
            _ => job.stored,
        };
        let biases = classes.biases(local.clone(), biases);
        let priors = self.log_priors(&classes, local.clone(), &mut scratch.priors);
        let hard = self.hard.tile(self.prepared.form, [biases, priors]);
        let z = match stored.get(at * n..(at + tile.len()) * n) {
            Some(stored) => stored,
            None => {
                let z = &mut recomputed[..tile.len() * n];
                self.products(weights, tile.len(), z);
                let (max, row) = (&mut scratch.max[..], &mut scratch.best[..]);
                let stats = TileStats { max, row, target: &mut job.found.target };
                let buffers = (&mut scratch.line[..], &mut scratch.nearest[..]);
                self.stats(z, tile.start, (factors, biases), stats, buffers);
                if let Some(priors) = priors.filter(|_| self.prepared.form.binary.is_none()) {
                    kernel::tile_shift(self.plan.level, z, priors, &mut scratch.max[..n]);
                }
                z
            }
        };
        let gradient = &mut scratch.tile[..tile.len() * n];
        let LogitCoefficients { shift, coefficients: c, uniform, nearest, .. } = coefficients;
        let nearest = nearest.of(tile.start, tile.end);
        let Plan { level, precision, .. } = *self.plan;
        let line = &mut scratch.line[..];
        match self.prepared.form.binary_logits() {
            Some(binary) => {
                job.found.add_nearest(tile.start, &scratch.max, &scratch.best);
                let (rows, output) = (&mut scratch.binary[..], (&mut *job.found, &mut *gradient));
                self.binary_tile(binary, (z, priors), [c, factors], rows, output);
            }
            None => kernel::tile_gradient(level, z, hard, [shift, c, factors], line, gradient),
        }
        if !uniform.is_empty() {
            kernel::tile_smoothing(level, z, hard, [uniform, factors], line, gradient);
        }
        let place = |pair: &NearestPair| (pair.class - tile.start) * n + pair.sample;
        if let (Some(hard), false) = (hard, job.radial.is_empty()) {
            // The nearest negatives that have a margin of their own are not hard besides.
            let mut others = Cow::Borrowed(z);
            for pair in nearest {
                others.to_mut()[place(pair)] = F::neg_infinity();
            }
            kernel::tile_hard_radial(level, &others, hard, [shift, c, uniform], line, job.radial);
        }
        for pair in nearest {
            gradient[place(pair)] = F::zero();
        }
        let gradient = Mat::new(gradient, tile.len(), n);
        if !job.partial.is_empty() {
            let partial = MatMut::new(job.partial, n, dims, dims);
            let weights = Mat::new(weights, tile.len(), dims);
            let weights = scratch.weights.pack(level, precision, weights);
            kernel::gemm(partial, !first, gradient.t(), weights);
        }
        let (rows, mut bias) = match (&mut job.weights, &job.parameters) {
            (Some(rows), _) => {
                let bias = job.bias.as_mut().map(|bias| &mut bias[local.clone()]);
                (&mut rows[at * dims..(at + tile.len()) * dims], bias)
            }
            (None, ChunkParameters::Moving { .. }) => {
                let bias = classes.bias.is_some();
                let bias = bias.then(|| &mut scratch.bias_gradient[..tile.len()]);
                (&mut own_rows[..tile.len() * dims], bias)
            }
            (None, ChunkParameters::Fixed(_)) => return,
        };
        self.weight_rows(gradient, weights, factors, rows);
        if let Some(bias) = &mut bias {
            for (bias, g) in bias.iter_mut().zip(scratch.tile.chunks_exact(n)) {
                *bias = F::narrow(coefficients.sum(g));
            }
        }
        let classes = classes.part(local.clone());
        let bias_row = bias.as_deref_mut();
        self.add_targets(coefficients, &classes, tile.start, rows, bias_row, &mut scratch.row);
        job.parameters.update(local, rows, bias);
    }

    /// Hands zeros to the update of every row: no sample counts.
    pub fn update_by_zeros(&self, mut parameters: Parameters<'_, F>, workers: &mut [Scratch<F>]) {
        let jobs = (0..self.plan.chunks).rev().map(|index| {
            let classes = self.plan.chunk(index);
            (parameters.split_tail(classes.clone()), classes.len())
        });
        run_jobs(jobs, workers, |scratch, (mut parameters, len)| {
            for tile in self.plan.tiles(0..len) {
                let rows = &mut scratch.gradient[..tile.len() * self.plan.dims];
                let bias = &mut scratch.bias_gradient[..tile.len()];
                rows.fill(F::zero());
                bias.fill(F::zero());
                let bias = parameters.classes().bias.is_some().then_some(bias);
                parameters.update(tile, rows, bias);
            }
        });
    }

    /// The rows Σ_i G_ij·a_i·u_i of one tile's weight gradient, projected where the weights are
    /// normalized.
    fn weight_rows(&self, gradient: Mat<'_, F>, weights: &[F], factors: &[F], rows: &mut [F]) {
        let (dims, prepared) = (self.plan.dims, self.prepared);
        let out = MatMut::new(rows, factors.len(), dims, dims);
        kernel::gemm(out, false, gradient, &prepared.packed[1]);
        if prepared.form.scale != Scale::Unnormalized {
            let rows = rows.chunks_exact_mut(dims).zip(weights.chunks_exact(dims));
            for ((row, w), &factor) in rows.zip(factors.iter()) {
                kernel::project(row, w, factor);
            }
        }
    }

    /// Adds the target pairs of one tile's `classes`, which start at `first` in the step, to the
    /// gradients of weights and bias.
    fn add_targets(
        &self,
        coefficients: LogitCoefficients<'_, F>,
        classes: &Classes<'_, F>,
        first: usize,
        rows: &mut [F],
        mut bias: Option<&mut [F]>,
        sum: &mut [f64],
    ) {
        let LogitCoefficients { embeddings, terms, nearest, .. } = coefficients;
        let mut targets = self.targets(first);
        for (j, row) in rows.chunks_exact_mut(self.plan.dims).enumerate() {
            let (targets, nearest) = (targets(j), nearest.of(first + j, first + j + 1));
            if targets.is_empty() && nearest.is_empty() {
                continue;
            }
            if let Some(bias) = &mut bias {
                let terms = terms[targets.clone()].iter();
                let sum: f64 = terms.map(|terms| terms.target_gradient).sum();
                bias[j] = F::narrow(bias[j].widen() + sum);
            }
            let mut copy = Vec::new();
            let w = contiguous(classes.weight(j), &mut copy);
            self.prepared.add_pairs((embeddings, terms), w, (targets, nearest), row, sum);
        }
    }

    /// Sums the chunks' parts, projects them and adds the target pairs: the gradient of the
    /// embeddings, rows of samples that do not count left at zero.
    pub fn embedding_gradients(
        &self,
        coefficients: LogitCoefficients<'_, F>,
        targets: &TargetRows<'_, F>,
        (partials, radial): (&[F], &[f64]),
        mut gradients: ArrayViewMut2<'_, F>,
        workers: &mut [Scratch<F>],
    ) {
        gradients.fill(F::zero());
        let (n, dims, prepared) = (self.plan.samples, self.plan.dims, self.prepared);
        let mut places = vec![None; gradients.nrows()];
        for (i, sample) in prepared.samples.iter().enumerate() {
            places[sample.row] = Some(i);
        }
        let rows = gradients.axis_iter_mut(Axis(0)).zip(places);
        let jobs = rows.filter_map(|(row, place)| Some((place?, row)));
        run_jobs(jobs, workers, |scratch, (i, mut row)| {
            let sum = &mut scratch.row[..dims];
            kernel::sum_rows(sum, partials, i * dims, n * dims);
            let mut radial: f64 = radial.iter().skip(i).step_by(n).sum();
            let mut copy = Vec::new();
            let w = prepared.samples[i].class.map(|class| match targets {
                TargetRows::InPlace(classes) => contiguous(classes.weight(class), &mut copy),
                TargetRows::Copied(rows) => &rows[i * dims..(i + 1) * dims],
            });
            let LogitCoefficients { embeddings, terms, nearest, lifts, .. } = coefficients;
            if let Some(lift) = lifts.get(i) {
                sum.iter_mut().chain([&mut radial]).for_each(|v| *v /= lift);
            }
            let nearest = nearest.embedding(i, dims);
            prepared.finish_embedding((embeddings, terms), (w, nearest), (i, radial), sum);
            match row.as_slice_mut() {
                Some(row) => kernel::rounded(row, sum),
                None => row.iter_mut().zip(sum).for_each(|(out, sum)| *out = F::narrow(*sum)),
            }
        });
    }
}
