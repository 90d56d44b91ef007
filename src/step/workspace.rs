//! The buffers that a head keeps between steps: a step of a shape seen before allocates none.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::nearest::{NearestLogit, NearestPair};
use super::pairs::PreparedSample;
use super::plan::Plan;
use crate::data::{SampleStats, Scale};
use crate::kernel::{BINARY_ROWS, Packed, Real, large_zeros};

/// The buffers of one number type.
#[derive(Debug, Default)]
pub(crate) struct Workspace<F> {
    /// The samples that count, sorted by class.
    pub samples: Vec<PreparedSample>,
    /// Their unit embeddings times the factor of the products, a_i unless that is too small
    /// (samples × dims).
    pub embeddings: Vec<F>,
    /// The same as right factors of the products: transposed (dims × samples) and as they are.
    pub packed: [Packed<F>; 2],
    /// The factors of the products of the first classes.
    pub factors: Vec<F>,
    /// f of each sample, by row of the batch, where hard negatives are compared with it.
    pub targets: Vec<F>,
    /// Threshold, constant and quadratic term of a [`HardTile`](crate::kernel::HardTile), each by
    /// sample; empty without hard negatives.
    pub hard: [Vec<F>; 3],
    /// Statistics over all chunks for each sample.
    pub stats: Vec<SampleStats>,
    /// The nearest negatives that have a margin: by sample, and by class and sample as soon as
    /// their gradients are known.
    pub nearest: Vec<NearestPair>,
    /// What they add to the gradients of the embeddings, as
    /// [`TargetPair::add_to_embedding`](crate::data::TargetPair::add_to_embedding) does
    /// (samples × dims); empty unless they are requested.
    pub nearest_sums: Vec<f64>,
    /// [`SampleTerms::shift`](crate::math::SampleTerms::shift) of each sample.
    pub shift: Vec<F>,
    /// [`SampleTerms::coefficient`](crate::math::SampleTerms::coefficient), times the lift.
    pub coefficient: Vec<F>,
    /// [`SampleTerms::uniform`](crate::math::SampleTerms::uniform), times the lift; empty unless
    /// labels are smoothed.
    pub uniform: Vec<F>,
    /// See [`set_coefficients`](Self::set_coefficients); empty where they are 1 for all samples.
    pub lifts: Vec<f64>,
    /// The weights of the samples' own classes, as they are before a step moves them
    /// (samples × dims); empty unless the gradient of the embeddings is requested.
    pub target_rows: Vec<F>,
    /// What the sweeps find in each chunk.
    pub chunks: Vec<ChunkStats<F>>,
    /// Logits between the sweeps (stored classes × samples).
    pub logits: Vec<F>,
    pub scratch: Vec<Scratch<F>>,
}

/// What a sweep finds of each sample among the classes of one chunk.
#[derive(Debug, Default)]
pub(crate) struct ChunkStats<F> {
    pub max: Vec<F>,
    pub class: Vec<usize>,
    pub sum: Vec<f64>,
    pub target: Vec<F>,
    /// The largest logit by its cosine; empty unless some negatives count by another number, or have
    /// a class prior.
    pub nearest: Vec<F>,
    /// `max` and `sum` without class prior; empty where there is none.
    pub margin_free_max: Vec<F>,
    pub margin_free_sum: Vec<f64>,
    /// Sums of the negatives' logits, of a binary loss of their sigmoids; empty unless labels are
    /// smoothed or the loss is binary.
    pub logits: Vec<f64>,
    /// The largest logits (samples × k); empty unless the nearest negatives have a margin, or are
    /// requested.
    pub top: Vec<NearestLogit<F>>,
    /// A part of the embeddings' gradient (samples × dims); empty unless it is requested.
    pub partial: Vec<F>,
    /// A part of the derivatives by the embeddings' norms; empty unless these are requested,
    /// negatives are up-weighted and logits depend on the norm.
    pub radial: Vec<f64>,
}

impl<F: Real> ChunkStats<F> {
    /// Sizes the statistics of all samples, `k` of whose nearest negatives are kept.
    fn clear(&mut self, plan: &Plan, k: usize) {
        fn refill<T: Clone>(part: &mut Vec<T>, len: usize, value: T) {
            part.clear();
            part.resize(len, value);
        }
        let Plan { samples: n, form, has_log_prior: prior, .. } = *plan;
        let if_any = |any: bool| if any { n } else { 0 };
        let none = F::narrow(form.no_negatives().max);
        refill(&mut self.max, n, none);
        refill(&mut self.class, n, usize::MAX);
        refill(&mut self.sum, n, 0.0);
        self.target.resize(n, F::zero());
        refill(&mut self.nearest, if_any(form.changes_negatives() || prior), F::neg_infinity());
        refill(&mut self.margin_free_max, if_any(prior), none);
        refill(&mut self.margin_free_sum, if_any(prior), 0.0);
        refill(&mut self.logits, if_any(form.sums_negatives()), 0.0);
        refill(&mut self.top, n * k, NearestLogit::none());
    }

    /// The largest logits of sample `i`.
    pub fn top_of(&self, i: usize) -> &[NearestLogit<F>] {
        let k = self.top.len() / self.max.len();
        &self.top[i * k..(i + 1) * k]
    }

    /// Notes the nearest negatives of a tile that begins at class `first`: the largest logits and
    /// their rows in it.
    pub fn add_nearest(&mut self, first: usize, max: &[F], rows: &[u32]) {
        let known = if self.nearest.is_empty() { &self.max } else { &self.nearest };
        for (i, (max, known)) in max.iter().zip(known).enumerate() {
            if max > known {
                self.class[i] = first + rows[i] as usize;
            }
        }
        for (nearest, max) in self.nearest.iter_mut().zip(max) {
            *nearest = nearest.max(*max);
        }
    }
}

/// The buffers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Scratch<F> {
    /// Logits or their gradients, one tile (rows × samples).
    pub tile: Vec<F>,
    /// The weights as the right factor of a product.
    pub weights: Packed<F>,
    /// Logits computed again, one tile.
    pub recomputed: Vec<F>,
    /// Weights copied together, one tile (rows × dims).
    pub packed: Vec<F>,
    pub factors: Vec<F>,
    pub biases: Vec<F>,
    pub priors: Vec<F>,
    pub short: Vec<F>,
    /// One row of a tile as it counts.
    pub line: Vec<F>,
    pub max: Vec<F>,
    pub best: Vec<u32>,
    /// The nearest row of one class with sub-centers.
    pub nearest: Vec<u32>,
    /// The gradient of weights that a step moves, one tile (rows × dims).
    pub gradient: Vec<F>,
    /// The gradient of their bias.
    pub bias_gradient: Vec<F>,
    /// Rows for the logits of a binary loss; empty for any other.
    pub binary: Vec<F>,
    /// One row in f64.
    pub row: Vec<f64>,
    /// Logits that wait while the others of a tile are summed, by their places in it.
    pub waiting: Vec<(usize, F)>,
    /// Logits that nearer ones have pushed out, by sample.
    pub pushed: Vec<(usize, NearestLogit<F>)>,
}

impl<F: Real> Workspace<F> {
    /// Sizes the buffers of the sweeps. The first keeps `k` of the nearest negatives; where a
    /// second follows, `gradients` says whether those of the embeddings and of the norms are
    /// requested, and whether the class parameters move.
    pub fn resize(&mut self, plan: &Plan, k: usize, gradients: Option<[bool; 3]>) {
        let (n, rows, form) = (plan.samples, plan.tile_rows(), plan.form);
        let if_any = |any: bool, entries: usize| if any { entries } else { 0 };
        self.chunks.resize_with(plan.chunks, ChunkStats::default);
        for (index, chunk) in self.chunks.iter_mut().enumerate() {
            chunk.clear(plan, k.min(plan.chunk(index).len()));
        }
        self.scratch.resize_with(plan.workers.max(self.scratch.len()), Scratch::default);
        for scratch in &mut self.scratch[..plan.workers] {
            scratch.tile.resize(rows * n, F::zero());
            for of_tile in [&mut scratch.factors, &mut scratch.biases, &mut scratch.priors] {
                of_tile.resize(rows, F::zero());
            }
            for of_samples in [&mut scratch.short, &mut scratch.line, &mut scratch.max] {
                of_samples.resize(n, F::zero());
            }
            scratch.best.resize(n, 0);
            scratch.nearest.resize(n, 0);
            scratch.row.resize(plan.dims, 0.0);
            scratch.binary.resize(if_any(form.binary.is_some(), BINARY_ROWS * n), F::zero());
        }
        let Some([embeddings, norms, update]) = gradients else { return };
        if plan.stored * n > self.logits.len() {
            self.logits = large_zeros(plan.stored * n);
        }
        let radial = norms && form.hard.is_some() && form.scale == Scale::FeatureNorm;
        for chunk in &mut self.chunks {
            chunk.partial.resize(if_any(embeddings, n * plan.dims), F::zero());
            chunk.radial.clear();
            chunk.radial.resize(if_any(radial, n), 0.0);
        }
        let recomputes = !plan.in_weight_rows && plan.stored < plan.classes;
        for scratch in &mut self.scratch[..plan.workers] {
            scratch.recomputed.resize(if_any(recomputes, rows * n), F::zero());
            scratch.gradient.resize(if_any(update, rows * plan.dims), F::zero());
            scratch.bias_gradient.resize(if_any(update, rows), F::zero());
        }
    }
}

/// The workspaces of a head that no step is using. It is locked only while one is taken or
/// returned, never during a step, so that steps of one head run side by side, each with its own.
#[derive(Debug, Default)]
pub(crate) struct WorkspaceCache(Mutex<Vec<Box<dyn Any + Send>>>);

/// A clone has none: nothing of a workspace outlives its step.
impl Clone for WorkspaceCache {
    fn clone(&self) -> Self {
        WorkspaceCache::default()
    }
}

impl WorkspaceCache {
    /// Runs `step` with a workspace of type `F`, which is kept for a later step.
    pub fn with<F: Real, T>(&self, step: impl FnOnce(&mut Workspace<F>) -> T) -> T {
        let mut workspace = self.take();
        let result = step(&mut workspace);
        self.lock().push(workspace);
        result
    }

    fn take<F: Real>(&self) -> Box<Workspace<F>> {
        let mut cache = self.lock();
        let at = cache.iter().position(|workspace| workspace.is::<Workspace<F>>());
        let workspace = at.map(|at| cache.swap_remove(at).downcast());
        workspace.and_then(Result::ok).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        // A panic cannot leave the list half changed: at worst a workspace is lost.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
