//! What lies between the sweeps of an offloaded step: the losses, and what the second sweep needs.

use ndarray::{ArrayRef2, ArrayView2};

use super::step::{OffloadedStep, SweepStats};
use crate::data::{Classes, Forward};
use crate::error::Error;
use crate::kernel::Real;
use crate::step::Workspace;

/// What the second sweep of an [`OffloadedStep`] needs: [`logit_factors`](Self::logit_factors) turn
/// logits into their gradients; [`embedding_gradient`](Self::embedding_gradient) and
/// [`target_gradients`](Self::target_gradients) say what is left to add.
#[derive(Debug)]
pub struct OffloadedBackward<'s, 'a, F> {
    pub(super) step: &'s OffloadedStep<'a, F>,
    /// The samples with their terms, and the pairs of the nearest negatives.
    pub(super) workspace: Workspace<F>,
    /// The rows of class weights that negatives are computed from, ascending, each once.
    pub(super) rows: Vec<usize>,
    /// These class weights.
    pub(super) read: ArrayView2<'s, F>,
}

impl<'a, F: Real> OffloadedStep<'a, F> {
    /// Turns what the first sweep found, for every row of the batch, into losses; `weight_norms` are
    /// the smallest and the largest norm of a class weight, and `read` holds the class weights of
    /// [`nearest_rows`](Self::nearest_rows).
    ///
    /// # Errors
    /// [`Error::Overflow`] where a logit or a gradient may leave the range of `F`; [`Error::Shape`]
    /// unless there are as many `stats` as samples and as many rows `read` as needed;
    /// [`Error::Label`] where a class of a sample that counts is no place of the sweep.
    pub fn complete<'s>(
        &'s self,
        stats: &[SweepStats],
        weight_norms: (f64, f64),
        read: &'s ArrayRef2<F>,
    ) -> Result<(Forward<F>, OffloadedBackward<'s, 'a, F>), Error> {
        self.check_range(weight_norms)?;
        let mut stats = stats.to_vec();
        let rows = self.nearest_rows(&mut stats)?;
        let (nearest, found) = self.with_pairs(&stats, (&rows, read))?;
        let samples = self.workspace.samples.clone();
        let mut workspace = Workspace { samples, nearest, ..Workspace::default() };
        let mut forward = Forward::with_samples(stats.len(), self.form);
        for (sample, stats) in workspace.samples.iter_mut().zip(&found) {
            sample.terms = forward.record(stats, self.smoothing, sample.upstream);
        }
        let from = (self.input.embeddings, &Classes::gathered(read.view(), None, &rows));
        let requested = self.input.reduction.is_some();
        let threads = rayon::current_num_threads();
        workspace.nearest_gradients(self.form, from, (requested, threads));
        let forward = forward.with_reduction(self.input.reduction);
        Ok((forward, OffloadedBackward { step: self, workspace, rows, read: read.view() }))
    }
}
