//! The second sweep: from each sample's share to the gradients of weights and embeddings.

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};

use super::classes::contiguous;
use super::forward::Sweep;
use super::plan::Plan;
use super::samples::{Inputs, Sample, TargetPair};
use super::workspace::Scratch;
use crate::kernel::{self, Layout, Mat, MatMut, Real, TileStats};
use crate::loss::Scale;
use crate::parallel::{split_off, work};

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
        let jobs = partials.chunks_mut(n * dims).enumerate().map(|(index, partial)| {
            let classes = self.plan.chunk(index);
            let (kept, rest) = stored.split_at((classes.len() * n).min(stored.len()));
            stored = rest;
            Job {
                weights: split_off(&mut weights, classes.len() * dims),
                bias: bias.as_mut().map(|bias| split_off(bias, classes.len())),
                stored: kept,
                partial,
                classes,
            }
        });
        work(jobs, workers, |scratch, job| self.backward_chunk(shares, scratch, job));
    }

    fn backward_chunk(&self, shares: Shares<'_, F>, scratch: &mut Scratch<F>, mut job: Job<'_, F>) {
        let (n, dims) = (self.plan.samples, self.plan.dims);
        for tile in Plan::tiles(job.classes.clone()) {
            let at = tile.start - job.classes.start;
            let rows = &mut job.weights[at * dims..(at + tile.len()) * dims];
            let gradient = &mut scratch.tile[..tile.len() * n];
            let weights = self.inputs.classes.tile(tile.clone(), &mut scratch.packed);
            let factors = &mut scratch.factors[..tile.len()];
            self.factors(weights, factors);
            let (z, stride) = if self.plan.logits_fit_in_gradient() {
                (&*rows, dims)
            } else if (at + tile.len()) * n <= job.stored.len() {
                (&job.stored[at * n..(at + tile.len()) * n], n)
            } else {
                let biases = self.biases(tile.clone(), &mut scratch.biases);
                let z = &mut scratch.again[..tile.len() * n];
                self.products(weights, tile.len(), z, n);
                let (max, row) = (&mut scratch.max[..], &mut scratch.best[..]);
                let stats = TileStats { max, row, target: &mut scratch.short };
                let layout = Layout { stride: n, samples: n };
                kernel::tile_stats(z, layout, factors, biases, self.targets(tile.start), stats);
                (&*z, n)
            };
            let layout = Layout { stride, samples: n };
            kernel::tile_gradient(z, layout, shares.shift, shares.coefficients, factors, gradient);
            let gradient = Mat::new(gradient, tile.len(), n);
            let weights_mat = Mat::new(weights, tile.len(), dims);
            let partial = MatMut::new(job.partial, n, dims, dims);
            kernel::gemm(partial, at > 0, gradient.t(), weights_mat);
            let embeddings = Mat::new(self.embeddings, n, dims);
            kernel::gemm(MatMut::new(rows, tile.len(), dims, dims), false, gradient, embeddings);
            if let Some(bias) = &mut job.bias {
                for (bias, g) in bias[at..].iter_mut().zip(scratch.tile.chunks_exact(n)) {
                    *bias = F::narrow(g.iter().map(|g| g.widen()).sum());
                }
            }
            let mut targets = self.targets(tile.start);
            for (j, row) in rows.chunks_exact_mut(dims).enumerate() {
                if self.scale != Scale::Unnormalized {
                    kernel::project(row, &weights[j * dims..(j + 1) * dims], factors[j]);
                }
                let targets = targets(j);
                if !targets.is_empty() {
                    self.add_targets(shares, targets.clone(), row, &mut scratch.row);
                    if let Some(bias) = &mut job.bias {
                        let pull: f64 = shares.target_logits[targets].iter().sum();
                        bias[at + j] = F::narrow(bias[at + j].widen() + pull);
                    }
                }
            }
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
        let w =
            contiguous(self.inputs.classes.weight(self.samples[targets.start].class), &mut w_copy);
        kernel::add_scaled(sum, 0.0, row, 1.0);
        for i in targets {
            let sample = &self.samples[i];
            let Some(target) = &sample.target else { continue };
            let x = contiguous(self.inputs.embeddings.row(sample.row), &mut x_copy);
            let pull = shares.target_logits[i];
            let (tangential, radial) = match self.scale {
                Scale::Unnormalized => (sample.norm, sample.norm * target.pair.inverse_w),
                _ => (target.scale * target.pair.inverse_w, 0.0),
            };
            target.pair.add_tangent_w(sum, x, w, -pull * tangential * target.target.slope);
            if radial != 0.0 {
                kernel::add_scaled(sum, 1.0, w, pull * radial * target.target.value);
            }
        }
        for (out, sum) in row.iter_mut().zip(sum.iter()) {
            *out = F::narrow(*sum);
        }
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
    for (i, sample) in sweep.samples.iter().enumerate() {
        places[sample.row] = Some(i);
    }
    let rows = gradients.axis_iter_mut(Axis(0)).zip(places);
    let jobs = rows.filter_map(|(row, place)| Some((place?, row)));
    work(jobs, workers, |scratch, (i, mut row)| {
        let sum = &mut scratch.row[..dims];
        sum.fill(0.0);
        for partial in partials.chunks_exact(n * dims) {
            kernel::add_scaled(sum, 1.0, &partial[i * dims..(i + 1) * dims], 1.0);
        }
        finish_embedding(
            sweep.inputs,
            sweep.scale,
            &sweep.samples[i],
            shares.target_logits[i],
            sum,
        );
        for (out, sum) in row.iter_mut().zip(sum.iter()) {
            *out = F::narrow(*sum);
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
            kernel::add_scaled(sum, 1.0, x, pull * target.value * inverse);
        }
    }
    if let Scale::Fixed(s) = scale {
        sum.iter_mut().for_each(|v| *v *= s * inverse);
    }
}
