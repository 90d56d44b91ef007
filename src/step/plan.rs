//! How a step is cut into tiles and chunks: by the shape alone, never by the threads, so that
//! sums are taken in the same order whatever runs them.

use std::ops::Range;

use super::input::StepInput;
use crate::data::{Bounds, Classes, LogitForm, Scale, View2};
use crate::kernel::{Level, Precision, Real};
use crate::update::{Magnitudes, UpdateStep};

/// Most classes in a tile, but for a label with more rows: its weights, logits and gradients stay in the second-level cache.
const TILE: usize = 256;
/// Most bytes that the chunks' partial gradients of the embeddings may take together.
const PARTIAL_BYTES: usize = 20 << 20;
/// Most chunks: with more, summing them would cost more than the better balance saves.
const MOST_CHUNKS: usize = 32;
/// Fewest chunks, where there are as many tiles and memory allows: something for every core.
const LEAST_CHUNKS: usize = 8;
/// Chunks for every five tiles: 16 at 10,000 classes, which even out cores of uneven speed (8 to 14 %
/// of a step on two); with more, the sum over chunks costs what that saves.
const CHUNKS_PER_FIVE_TILES: usize = 2;
/// Multiplications below which threads cost more than they save.
const WORTH_THREADS: usize = 1 << 20;

/// The shape of one step and how it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub form: LogitForm,
    /// Whether the logits have a class prior.
    pub has_log_prior: bool,
    /// Samples that count.
    pub samples: usize,
    pub dims: usize,
    pub classes: usize,
    /// Rows of each label.
    pub sub_centers: usize,
    pub chunks: usize,
    /// Classes in a tile: whole labels.
    tile: usize,
    /// How many workers share the step.
    pub workers: usize,
    /// The vector instructions that the products and the loops over tiles use.
    pub level: Level,
    /// What the factors of the products are rounded to.
    pub precision: Precision,
    /// Whether the logits wait in the rows of the weight gradient, which are long enough.
    pub in_weight_rows: bool,
    /// Classes whose logits are kept in the workspace between the sweeps, where they do not wait
    /// in the rows of the weight gradient; those of the rest are computed again.
    pub stored: usize,
}

impl Plan {
    /// The plan of a step with so many `samples` that count. `keeps`: whether logits wait for a
    /// second sweep; `weight_rows`: whether there are rows of a weight gradient to hold them.
    pub fn new<F: Real>(
        input: &StepInput<'_, F>,
        form: LogitForm,
        samples: usize,
        [keeps, weight_rows]: [bool; 2],
    ) -> Self {
        let (dims, bytes) = (input.embeddings.ncols(), size_of::<F>());
        let Classes { sub_centers, .. } = input.classes;
        let classes = input.classes.len();
        let tile = (TILE / sub_centers).max(1) * sub_centers;
        let tiles = classes.div_ceil(tile);
        let by_memory = PARTIAL_BYTES / (samples * dims * bytes).max(1);
        let by_work = (tiles * CHUNKS_PER_FIVE_TILES / 5).clamp(LEAST_CHUNKS, MOST_CHUNKS);
        let chunks = tiles.min(by_memory.clamp(4, by_work));
        // A multiple of four shares evenly among the usual numbers of cores.
        let chunks = if chunks > 4 { chunks / 4 * 4 } else { chunks };
        // The only sweep of a binary loss keeps no logits.
        let keeps = keeps && form.binary.is_none();
        let in_weight_rows = keeps && weight_rows && samples <= dims;
        let affordable = input.settings.budget / (samples * bytes).max(1);
        let in_workspace = keeps && !in_weight_rows;
        Plan {
            form,
            has_log_prior: input.has_log_prior(),
            samples,
            dims,
            classes,
            sub_centers,
            chunks,
            tile,
            workers: Self::workers(samples, dims, classes).min(chunks.max(samples).max(1)),
            level: input.settings.level,
            precision: input.settings.precision,
            in_weight_rows,
            stored: if in_workspace { classes.min(affordable / tile * tile) } else { 0 },
        }
    }

    /// How many workers share so many multiplications.
    pub fn workers(samples: usize, dims: usize, classes: usize) -> usize {
        let products = samples.saturating_mul(dims).saturating_mul(classes);
        if products < WORTH_THREADS { 1 } else { rayon::current_num_threads() }
    }

    /// The classes of one chunk: whole tiles.
    pub fn chunk(&self, index: usize) -> Range<usize> {
        let tiles = self.classes.div_ceil(self.tile);
        let edge = |index: usize| (index * tiles / self.chunks * self.tile).min(self.classes);
        edge(index)..edge(index + 1)
    }

    /// The rows of each chunk in the caller's matrix, from its first to its last.
    pub fn chunk_rows<F: Real>(&self, classes: &Classes<'_, F>) -> Vec<Range<usize>> {
        (0..self.chunks).map(|index| classes.span(&self.chunk(index))).collect()
    }

    /// The tiles of a range of classes.
    pub fn tiles(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let (end, tile) = (range.end, self.tile);
        range.step_by(tile).map(move |start| start..(start + tile).min(end))
    }

    /// The cosines that are given (N, C), where a sweep takes them row by row: a softmax of all
    /// negatives, none of which is a pair of its own, and no norm among the factors of hard ones.
    pub fn whole_rows<'c, F: Real>(&self, classes: &Classes<'c, F>) -> Option<View2<'c, F>> {
        let LogitForm { hard, top, binary, scale, .. } = self.form;
        let others = top.is_some() || binary.is_some() || scale == Scale::Unnormalized;
        let by_norm = hard.is_some() && scale == Scale::FeatureNorm;
        Some(classes.given.filter(|_| !others && !by_norm)?.cosines)
    }

    /// Classes in the largest tile.
    pub fn tile_rows(&self) -> usize {
        self.tile.min(self.classes)
    }
}

/// A step as an update of the class parameters sees it. The largest norm of a row bounds its
/// entries.
pub(crate) fn update_step<'c>(
    bounds: &Bounds,
    shape: (usize, usize),
    chunks: &'c [Range<usize>],
    bias: bool,
) -> UpdateStep<'c> {
    let of_weights = Magnitudes { value: bounds.weight_norms.1, gradient: bounds.weight_gradient };
    let of_bias = Magnitudes { value: bounds.bias.unwrap_or(0.0), gradient: bounds.bias_gradient };
    UpdateStep { shape, chunks, weights: Some(of_weights), bias: bias.then_some(of_bias) }
}
