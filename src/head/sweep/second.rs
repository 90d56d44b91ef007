//! The second sweep: from the logits to the gradients of class weights and embeddings.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};

use super::first::Sweep;
use super::parameters::{Chunk, Parameters};
use crate::data::{Classes, Scale, contiguous};
use crate::kernel::{self, Mat, Real};
use crate::parallel::run_jobs;
use crate::step::{ChunkStats, NearestPair, Plan, Scratch, Workspace};

impl<F: Real> Sweep<'_, F> {
    /// Writes the gradients of weights and bias of all `chunks`, or updates both, and writes to
    /// `found` each chunk's part of the embeddings' gradient.
    /// On entry the rows of the weights' gradient or the workspace hold the logits; of a binary
    /// loss nothing does: its only sweep makes them, and fills `found`.
    pub fn backward(
        &self,
        chunks: Vec<Chunk<'_, F>>,
        found: &mut [ChunkStats<F>],
        workers: &mut [Scratch<F>],
    ) {
        let n = self.plan.samples;
        let stored = &self.workspace.logits[..self.plan.stored * n];
        // From the last class to the first: what the first sweep left in the caches is used first.
        let jobs = chunks.into_iter().zip(found).rev();
        run_jobs(jobs, workers, |scratch, (mut chunk, found)| {
            let [start, end] =
                [chunk.range.start, chunk.range.end].map(|j| (j * n).min(stored.len()));
            let stored = &stored[start..end];
            // Of equally near classes the first is found: upwards in the only sweep of a binary loss.
            let binary = self.plan.form.binary.is_some();
            let mut tiles = self.plan.tiles(chunk.range.clone());
            while let Some(tile) = if binary { tiles.next() } else { tiles.next_back() } {
                self.backward_tile(scratch, &mut chunk, found, stored, tile);
            }
        });
    }

    /// One tile: the gradient of its logits, and what that gives embeddings, weights and bias,
    /// which move where the step updates them.
    fn backward_tile(
        &self,
        scratch: &mut Scratch<F>,
        chunk: &mut Chunk<'_, F>,
        found: &mut ChunkStats<F>,
        stored: &[F],
        tile: Range<usize>,
    ) {
        let Plan { samples: n, dims, form, level, precision, .. } = *self.plan;
        let at = tile.start - chunk.range.start;
        let local = at..at + tile.len();
        let classes = chunk.parameters.classes();
        let Scratch { packed, factors, biases, recomputed, gradient: own_rows, .. } = scratch;
        let weights = classes.tile(local.clone(), packed);
        let factors = self.factors(tile.clone(), (&classes, local.start), factors);
        // In the rows of the weight gradient, this tile's logits and those of the tiles before it
        // lie below the rows that this tile writes: N ≤ D, and tiles are taken from the last.
        let stored = if self.plan.in_weight_rows { &*chunk.weights } else { stored };
        let biases = classes.biases(local.clone(), biases);
        let priors = self.log_priors(&classes, local.clone(), &mut scratch.priors);
        let hard = self.workspace.hard_tile(form, [biases, priors]);
        let z = match stored.get(at * n..(at + tile.len()) * n) {
            Some(stored) => stored,
            None => {
                let z = &mut recomputed[..tile.len() * n];
                self.products(&classes, local.clone(), weights, z);
                let numbers = [&mut scratch.max[..n], &mut scratch.line[..n]];
                let rows = [&mut scratch.best[..n], &mut scratch.nearest[..n]];
                self.stats(z, tile.start, (factors, biases), &mut found.target, numbers, rows);
                if let Some(priors) = priors.filter(|_| form.binary.is_none()) {
                    kernel::tile_shift(level, z, priors, &mut scratch.max[..n]);
                }
                z
            }
        };
        let gradient = &mut scratch.tile[..tile.len() * n];
        let Workspace { shift, coefficient: c, uniform, .. } = self.workspace;
        let nearest = self.workspace.nearest_of(tile.clone());
        let line = &mut scratch.line[..];
        // The gradients of cosines are not divided by the norms of the weights.
        let ones = chunk.cosines.is_some().then(|| vec![F::one(); tile.len()]);
        let by = ones.as_deref().unwrap_or(factors);
        match form.binary_logits() {
            Some(binary) => {
                found.add_nearest(tile.start, &scratch.max, &scratch.best);
                let (rows, output) = (&mut scratch.binary[..], (&mut *found, &mut *gradient));
                self.binary_tile(binary, (z, priors), [c, by], rows, output);
            }
            None => kernel::tile_gradient(level, z, hard, [shift, c, by], line, gradient),
        }
        if !uniform.is_empty() {
            kernel::tile_smoothing(level, z, hard, [uniform, by], line, gradient);
        }
        let place = |pair: &NearestPair| (pair.class - tile.start) * n + pair.sample;
        if let (Some(hard), false) = (hard, found.radial.is_empty()) {
            // The nearest negatives that have a margin of their own are not hard besides.
            let mut others = Cow::Borrowed(z);
            for pair in nearest {
                others.to_mut()[place(pair)] = F::neg_infinity();
            }
            kernel::tile_hard_radial(
                level,
                &others,
                hard,
                [shift, c, uniform],
                line,
                &mut found.radial,
            );
        }
        for pair in nearest {
            gradient[place(pair)] = F::zero();
        }
        if let Some(cosines) = &mut chunk.cosines {
            return self.store(gradient, cosines, local);
        }
        let gradient = Mat::new(gradient, tile.len(), n);
        if !found.partial.is_empty() {
            let first = if form.binary.is_some() { at == 0 } else { tile.end == chunk.range.end };
            let weights = Mat::new(weights, tile.len(), dims);
            let weights = scratch.weights.pack(level, precision, weights);
            kernel::gemm(&mut found.partial, !first, gradient.t(), weights);
        }
        let (rows, bias) = match &chunk.parameters {
            Parameters::Fixed(_) if chunk.weights.is_empty() => return,
            Parameters::Fixed(_) => {
                let bias = chunk.bias.get_mut(local.clone()).unwrap_or_default();
                (&mut chunk.weights[at * dims..(at + tile.len()) * dims], bias)
            }
            Parameters::Moving(moving, _) => {
                let entries = if moving.bias.is_some() { tile.len() } else { 0 };
                (&mut own_rows[..tile.len() * dims], &mut scratch.bias_gradient[..entries])
            }
        };
        self.weight_rows(gradient, weights, factors, rows);
        for (bias, g) in bias.iter_mut().zip(scratch.tile.chunks_exact(n)) {
            *bias = F::narrow(self.workspace.sum_lifted(g));
        }
        let classes = classes.part(local.clone());
        self.add_targets(&classes, tile.start, (rows, bias), &mut scratch.row);
        chunk.parameters.update(local, rows, bias);
    }

    /// Gradients of 0, or updates by them: no sample counts.
    pub fn update_by_zeros(&self, chunks: Vec<Chunk<'_, F>>, workers: &mut [Scratch<F>]) {
        let zeros = vec![F::zero(); self.plan.tile_rows() * self.plan.dims];
        run_jobs(chunks.into_iter().rev(), workers, |_, mut chunk| {
            chunk.weights.fill(F::zero());
            chunk.bias.fill(F::zero());
            for tile in self.plan.tiles(0..chunk.range.len()) {
                let rows = &zeros[..tile.len() * self.plan.dims];
                let bias = &zeros[..tile.len()];
                chunk.parameters.update(tile, rows, bias);
            }
        });
    }

    /// The rows Σ_i G_ij·a_i·u_i of one tile's weight gradient, projected where the weights are
    /// normalized.
    fn weight_rows(&self, gradient: Mat<'_, F>, weights: &[F], factors: &[F], rows: &mut [F]) {
        let dims = self.plan.dims;
        kernel::gemm(rows, false, gradient, &self.workspace.packed[1]);
        if self.plan.form.scale != Scale::Unnormalized {
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
        classes: &Classes<'_, F>,
        first: usize,
        (rows, bias): (&mut [F], &mut [F]),
        sum: &mut [f64],
    ) {
        let (form, workspace) = (self.plan.form, self.workspace);
        let mut targets = self.targets(first);
        let mut pairs = workspace.nearest_of(first..first + classes.len());
        for (j, row) in rows.chunks_exact_mut(self.plan.dims).enumerate() {
            let of_class = pairs.iter().take_while(|pair| pair.class == first + j).count();
            let (targets, nearest) = (targets(j), &pairs[..of_class]);
            pairs = &pairs[of_class..];
            if targets.is_empty() && nearest.is_empty() {
                continue;
            }
            let mut copy = Vec::new();
            let w = contiguous(classes.weight(j), &mut copy);
            let of_bias = workspace.add_pairs(form, self.x, w, (targets, nearest), row, sum);
            if let Some(bias) = bias.get_mut(j) {
                *bias = F::narrow(bias.widen() + of_bias);
            }
        }
    }

    /// Sums the chunks' parts, projects them and adds the target pairs: the gradient of the
    /// embeddings, rows of samples that do not count left at zero.
    pub fn embedding_gradients(
        &self,
        found: &[ChunkStats<F>],
        mut gradients: ArrayViewMut2<'_, F>,
        workers: &mut [Scratch<F>],
    ) {
        gradients.fill(F::zero());
        let Plan { dims, form, .. } = *self.plan;
        let Workspace { samples, lifts, target_rows, .. } = self.workspace;
        let partials: Vec<&[F]> = found.iter().map(|found| &found.partial[..]).collect();
        let places = self.workspace.places(gradients.nrows());
        let rows = gradients.axis_iter_mut(Axis(0)).zip(places);
        let jobs = rows.filter_map(|(row, place)| Some((place?, row)));
        run_jobs(jobs, workers, |scratch, (i, mut row)| {
            let sum = &mut scratch.row[..dims];
            kernel::sum_rows(sum, &partials, i * dims);
            let mut radial: f64 = found.iter().filter_map(|found| found.radial.get(i)).sum();
            if let Some(lift) = lifts.get(i) {
                sum.iter_mut().chain([&mut radial]).for_each(|v| *v /= lift);
            }
            let w = samples[i].class.map(|_| &target_rows[i * dims..(i + 1) * dims]);
            self.workspace.finish_embedding(form, self.x, w, (i, radial), sum);
            match row.as_slice_mut() {
                Some(row) => kernel::rounded(row, sum),
                None => row.iter_mut().zip(sum).for_each(|(out, sum)| *out = F::narrow(*sum)),
            }
        });
    }
}
