//! How a step is cut into tiles and chunks: by the shape alone, never by the threads, so that
//! sums are taken in the same order whatever runs them.

use std::ops::Range;

use crate::kernel::{Level, Precision};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub samples: usize,
    pub dims: usize,
    pub classes: usize,
    pub chunks: usize,
    /// Classes in a tile: whole labels.
    tile: usize,
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
    /// The plan for a number of samples, dims and classes, of which `sub_centers` in turn are rows
    /// of one label, with `bytes` per number, whose logits may take `budget` bytes; `weight_rows`:
    /// whether there are rows of a weight gradient to hold them.
    pub fn new(
        (level, precision): (Level, Precision),
        (samples, dims, classes, sub_centers): (usize, usize, usize, usize),
        bytes: usize,
        budget: usize,
        weight_rows: bool,
    ) -> Self {
        let tile = (TILE / sub_centers).max(1) * sub_centers;
        let tiles = classes.div_ceil(tile);
        let by_memory = PARTIAL_BYTES / (samples * dims * bytes).max(1);
        let by_work = (tiles * CHUNKS_PER_FIVE_TILES / 5).clamp(LEAST_CHUNKS, MOST_CHUNKS);
        let chunks = tiles.min(by_memory.clamp(4, by_work));
        // A multiple of four shares evenly among the usual numbers of cores.
        let chunks = if chunks > 4 { chunks / 4 * 4 } else { chunks };
        let affordable = budget / (samples * bytes).max(1);
        let in_weight_rows = weight_rows && samples <= dims;
        let stored = if in_weight_rows { 0 } else { classes.min(affordable / tile * tile) };
        Plan { samples, dims, classes, chunks, tile, level, precision, in_weight_rows, stored }
    }

    /// The classes of one chunk: whole tiles.
    pub fn chunk(&self, index: usize) -> Range<usize> {
        let tiles = self.classes.div_ceil(self.tile);
        let edge = |index: usize| (index * tiles / self.chunks * self.tile).min(self.classes);
        edge(index)..edge(index + 1)
    }

    /// The tiles of a range of classes.
    pub fn tiles(
        &self,
        range: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let (end, tile) = (range.end, self.tile);
        range.step_by(tile).map(move |start| start..(start + tile).min(end))
    }

    /// Classes in the largest tile.
    pub fn tile_rows(&self) -> usize {
        self.tile.min(self.classes)
    }

    /// How many workers share the step on `threads` threads.
    pub fn workers(&self, threads: usize) -> usize {
        let products = self.samples.saturating_mul(self.dims).saturating_mul(self.classes);
        if products < WORTH_THREADS { 1 } else { threads.min(self.chunks.max(self.samples)) }
    }
}
