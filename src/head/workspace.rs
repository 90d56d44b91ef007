//! What a head keeps between steps, so that a step at a shape already seen allocates nothing.

use std::any::Any;

use super::exchange::Finding;
use super::plan::Plan;
use super::samples::FirstLook;
use crate::kernel::Real;

/// The buffers of one working type.
#[derive(Debug, Default)]
pub(crate) struct Workspace<F> {
    pub look: FirstLook<F>,
    /// What each chunk found of each sample (chunks × samples).
    pub found: Found<F>,
    /// What all chunks together found of each sample.
    pub findings: Vec<Finding>,
    /// Logits between the sweeps (stored classes × samples).
    pub logits: Vec<F>,
    /// Each chunk's share of the embeddings' gradient (chunks × samples × dims).
    pub partials: Vec<F>,
    /// The negatives' shift of each sample, for the second sweep.
    pub shift: Vec<F>,
    /// $g_i\sigma_i/\Sigma_i$ of each sample, for the second sweep.
    pub coefficients: Vec<F>,
    pub scratch: Vec<Scratch<F>>,
}

/// Statistics of the first sweep, chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Found<F> {
    pub max: Vec<F>,
    pub class: Vec<usize>,
    pub sum: Vec<f64>,
    pub target: Vec<F>,
}

/// What one worker needs for itself.
#[derive(Debug, Default)]
pub(crate) struct Scratch<F> {
    /// Logits or their gradients, one tile (rows × samples).
    pub tile: Vec<F>,
    /// Logits computed again, one tile.
    pub again: Vec<F>,
    /// Weights copied together, one tile (rows × dims).
    pub packed: Vec<F>,
    pub factors: Vec<F>,
    pub biases: Vec<F>,
    pub short: Vec<F>,
    pub max: Vec<F>,
    pub best: Vec<u32>,
    /// One row in f64.
    pub row: Vec<f64>,
}

impl<F: Real> Workspace<F> {
    /// Room for the first sweep.
    pub fn prepare(&mut self, plan: &Plan, workers: usize) {
        let found = plan.chunks * plan.samples;
        self.found.max.resize(found, F::zero());
        self.found.class.resize(found, 0);
        self.found.sum.resize(found, 0.0);
        self.found.target.resize(found, F::zero());
        self.scratch.resize_with(workers.max(self.scratch.len()), Scratch::default);
        for scratch in &mut self.scratch[..workers] {
            scratch.tile.resize(plan.tile_rows() * plan.samples, F::zero());
            scratch.factors.resize(plan.tile_rows(), F::zero());
            scratch.biases.resize(plan.tile_rows(), F::zero());
            scratch.short.resize(plan.samples, F::zero());
            scratch.max.resize(plan.samples, F::zero());
            scratch.best.resize(plan.samples, 0);
            scratch.row.resize(plan.dims, 0.0);
        }
    }

    /// Room for the second sweep too.
    pub fn prepare_gradients(&mut self, plan: &Plan, workers: usize) {
        self.logits.resize(plan.stored * plan.samples, F::zero());
        self.partials.resize(plan.chunks * plan.samples * plan.dims, F::zero());
        self.shift.resize(plan.samples, F::zero());
        self.coefficients.resize(plan.samples, F::zero());
        if !plan.logits_fit_in_gradient() && plan.stored < plan.classes {
            for scratch in &mut self.scratch[..workers] {
                scratch.again.resize(plan.tile_rows() * plan.samples, F::zero());
            }
        }
    }
}

/// The workspaces of a head, at most one for each working type.
#[derive(Debug, Default)]
pub(crate) struct Kept(Vec<Box<dyn Any + Send + Sync>>);

impl Kept {
    /// Takes the workspace of type `F` out, or makes one.
    pub fn take<F: Real>(&mut self) -> Box<Workspace<F>> {
        let at = self.0.iter().position(|kept| kept.is::<Workspace<F>>());
        let kept = at.map(|at| self.0.swap_remove(at).downcast());
        kept.and_then(Result::ok).unwrap_or_default()
    }

    /// Puts it back for the next step.
    pub fn put<F: Real>(&mut self, workspace: Box<Workspace<F>>) {
        self.0.push(workspace);
    }
}
