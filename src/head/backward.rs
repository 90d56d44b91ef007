//! The second sweep: from each sample's share to the gradients of weights and embeddings.

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};

use super::classes::contiguous;
use super::forward::Sweep;
use super::plan::Plan;
use super::samples::{Inputs, Sample, TargetPair};
use super::workspace::Scratch;
use crate::kernel::{self, Level, Mat, MatMut, Real, TileStats};
use crate::loss::Scale;
use crate::parallel::{split_tail, work};

/// What the second sweep knows of the samples: all in the samples' order.
#[derive(Clone, Copy)]
pub(super) struct Shares<'a, F> {
    /// The shift of the exponentials: each sample's largest negative logit.
    pub shift: &'a [F],
    /// $g_i\sigma_i/\Sigma_i$.
    pub coefficients: &'a [F],
    /// $\gamma_i = -g_i\sigma_i$, the gradient with respect to the target logit.
    pub target_logits: &'a [f64],
}

/// One chunk of the second sweep.
struct Job<'a, F> {
    classes: Range<usize>,
    weights: &'a mut [F],
    bias: Option<&'a mut [F]>,
    stored: &'a [F],
    partial: &'a mut [F],
}

impl<F: Real> Sweep<'_, '_, F> {
    /// Writes the gradients of weights and bias, and each chunk's share of the embeddings'
    /// gradient into `partials`. On entry the rows of `weights` or `stored` hold the logits.
    pub fn backward(
        &self,
        shares: Shares<'_, F>,
        (mut weights, mut bias): (&mut [F], Option<&mut [F]>),
        mut stored: &[F],
        partials: &mut [F],
        workers: &mut [Scratch<F>],
    ) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        // From the last class to the first: what the first sweep left in the caches is used first.
        let jobs = partials.chunks_mut(n * dims).enumerate().rev().map(|(index, partial)| {
            let classes = self.plan.chunk(index);
            let (rest, kept) = stored.split_at((classes.start * n).min(stored.len()));
            stored = rest;
            Job {
                weights: split_tail(&mut weights, classes.start * dims),
                bias: bias.as_mut().map(|bias| split_tail(bias, classes.start)),
                stored: kept,
                partial,
                classes,
            }
        });
        work(jobs, workers, |scratch, mut job| {
            for (index, tile) in Plan::tiles(job.classes.clone()).rev().enumerate() {
                self.backward_tile(shares, scratch, &mut job, tile, index == 0);
            }
        });
    }

    /// One tile: the gradient of its logits, and what that gives embeddings, weights and bias.
    fn backward_tile(
        &self,
        shares: Shares<'_, F>,
        scratch: &mut Scratch<F>,
        job: &mut Job<'_, F>,
        tile: Range<usize>,
        first: bool,
    ) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        let at = tile.start - job.classes.start;
        let weights = self.inputs.classes.tile(tile.clone(), &mut scratch.packed);
        let factors = self.factors(tile.clone(), weights, &mut scratch.factors);
        // Kept in the weight gradient, this tile's logits and those of the tiles before it lie
        // below the rows that this tile writes: N ≤ D, and tiles are taken from the last.
        let kept = if self.plan.logits_fit_in_gradient() { &*job.weights } else { job.stored };
        let z = match kept.get(at * n..(at + tile.len()) * n) {
            Some(kept) => kept,
            None => {
                let biases = self.biases(tile.clone(), &mut scratch.biases);
                let z = &mut scratch.again[..tile.len() * n];
                self.products(weights, tile.len(), z);
                let (max, row) = (&mut scratch.max[..], &mut scratch.best[..]);
                let stats = TileStats { max, row, target: &mut scratch.short };
                kernel::tile_stats(
                    Level::detect(),
                    z,
                    n,
                    factors,
                    biases,
                    self.targets(tile.start),
                    stats,
                );
                z
            }
        };
        let gradient = &mut scratch.tile[..tile.len() * n];
        kernel::tile_gradient(
            Level::detect(),
            z,
            n,
            shares.shift,
            shares.coefficients,
            factors,
            gradient,
        );
        let gradient = Mat::new(gradient, tile.len(), n);
        let partial = MatMut::new(job.partial, n, dims, dims);
        kernel::gemm(
            Level::detect(),
            partial,
            !first,
            gradient.t(),
            Mat::new(weights, tile.len(), dims),
        );
        let embeddings = Mat::new(&self.look.embeddings, n, dims).in_panels(&self.look.panels[1]);
        let rows = &mut job.weights[at * dims..(at + tile.len()) * dims];
        kernel::gemm(
            Level::detect(),
            MatMut::new(rows, tile.len(), dims, dims),
            false,
            gradient,
            embeddings,
        );
        if self.scale != Scale::Unnormalized {
            let rows = rows.chunks_exact_mut(dims).zip(weights.chunks_exact(dims));
            for ((row, w), &factor) in rows.zip(factors.iter()) {
                kernel::project(row, w, factor);
            }
        }
        let mut bias = job.bias.as_mut().map(|bias| &mut bias[at..at + tile.len()]);
        if let Some(bias) = &mut bias {
            for (bias, g) in bias.iter_mut().zip(scratch.tile.chunks_exact(n)) {
                *bias = F::narrow(g.iter().map(|g| g.widen()).sum());
            }
        }
        self.meet_targets(shares, tile.start, rows, bias, &mut scratch.row);
    }

    /// Adds the target pairs of the classes from `first` on to the gradients of weights and bias.
    fn meet_targets(
        &self,
        shares: Shares<'_, F>,
        first: usize,
        rows: &mut [F],
        mut bias: Option<&mut [F]>,
        wide: &mut [f64],
    ) {
        let mut targets = self.targets(first);
        for (j, row) in rows.chunks_exact_mut(self.plan.dims).enumerate() {
            let targets = targets(j);
            if targets.is_empty() {
                continue;
            }
            if let Some(bias) = &mut bias {
                let pull: f64 = shares.target_logits[targets.clone()].iter().sum();
                bias[j] = F::narrow(bias[j].widen() + pull);
            }
            self.add_targets(shares, targets, row, wide);
        }
    }

    /// Adds the target pairs of one class to the gradient of its weight.
    fn add_targets(
        &self,
        shares: Shares<'_, F>,
        targets: Range<usize>,
        row: &mut [F],
        sum: &mut [f64],
    ) {
        let (mut x_copy, mut w_copy) = (Vec::new(), Vec::new());
        let w = contiguous(
            self.inputs.classes.weight(self.look.samples[targets.start].class),
            &mut w_copy,
        );
        kernel::add_scaled(sum, 0.0, row, 1.0);
        for i in targets {
            let sample = &self.look.samples[i];
            let Some(target) = &sample.target else { continue };
            let x = contiguous(self.inputs.embeddings.row(sample.row), &mut x_copy);
            let pull = shares.target_logits[i];
            let (tangential, radial) = match self.scale {
                Scale::Unnormalized => (sample.norm, sample.norm),
                _ => (target.scale * target.pair.inverse_w, 0.0),
            };
            target.pair.add_tangent_w(sum, x, w, -pull * tangential * target.target.slope);
            if radial != 0.0 {
                target.pair.add_unit_w(sum, w, pull * radial * target.target.value);
            }
        }
        kernel::rounded(row, sum);
    }
}

/// Sums the chunks' shares, projects them and adds the target pairs: the gradient of the
/// embeddings, rows of samples that do not count left at zero.
pub(super) fn embedding_gradients<F: Real>(
    sweep: &Sweep<'_, '_, F>,
    shares: Shares<'_, F>,
    partials: &[F],
    mut gradients: ArrayViewMut2<'_, F>,
    workers: &mut [Scratch<F>],
) {
    gradients.fill(F::zero());
    let (n, dims) = (sweep.plan.samples, sweep.plan.dims);
    let mut places = vec![None; gradients.nrows()];
    for (i, sample) in sweep.look.samples.iter().enumerate() {
        places[sample.row] = Some(i);
    }
    let rows = gradients.axis_iter_mut(Axis(0)).zip(places);
    let jobs = rows.filter_map(|(row, place)| Some((place?, row)));
    work(jobs, workers, |scratch, (i, mut row)| {
        let sum = &mut scratch.row[..dims];
        kernel::sum_rows(sum, partials, i * dims, n * dims);
        finish_embedding(
            sweep.inputs,
            sweep.scale,
            &sweep.look.samples[i],
            shares.target_logits[i],
            sum,
        );
        match row.as_slice_mut() {
            Some(row) => kernel::rounded(row, sum),
            None => row.iter_mut().zip(sum).for_each(|(out, sum)| *out = F::narrow(*sum)),
        }
    });
}

/// Takes $\sum_j G_{ij}v_j$ to the gradient of one embedding: its projection where the scale is
/// fixed, plus the target pair's tangent and, where the norm matters, radial part.
fn finish_embedding<F: Real>(
    inputs: &Inputs<'_, F>,
    scale: Scale,
    sample: &Sample,
    pull: f64,
    sum: &mut [f64],
) {
    let (mut x_copy, mut w_copy) = (Vec::new(), Vec::new());
    let x = contiguous(inputs.embeddings.row(sample.row), &mut x_copy);
    let inverse = sample.norm.recip();
    if let Scale::Fixed(_) = scale {
        let along = kernel::dot(sum, x) * inverse;
        kernel::add_scaled(sum, 1.0, x, -along * inverse);
    }
    if let Some(TargetPair { pair, target, .. }) = &sample.target {
        let w = contiguous(inputs.classes.weight(sample.class), &mut w_copy);
        let pull = if scale == Scale::Unnormalized { pull / pair.inverse_w } else { pull };
        pair.add_tangent_x(sum, x, w, -pull * target.slope);
        if !matches!(scale, Scale::Fixed(_)) {
            pair.add_unit_x(sum, x, pull * target.value);
        }
    }
    if let Scale::Fixed(s) = scale {
        sum.iter_mut().for_each(|v| *v *= s * inverse);
    }
}
