//! The nearest negatives of the samples, where these have a margin of their own: as the first sweep
//! keeps them, and as pairs in f64, which count like the target pairs.

use crate::data::TargetPair;
use crate::kernel::Real;
use crate::math::LogSumExp;

/// One of the largest logits of a sample so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NearestLogit<F> {
    /// The logit without its offset, by which the nearest are found; −∞ where there is none.
    pub plain: F,
    pub logit: F,
    pub class: usize,
}

impl<F: Real> NearestLogit<F> {
    pub const NO_CLASS: usize = usize::MAX;

    pub fn none() -> Self {
        let logit = F::neg_infinity();
        NearestLogit { plain: logit, logit, class: Self::NO_CLASS }
    }

    pub fn is_some(&self) -> bool {
        self.class != Self::NO_CLASS
    }

    /// Takes the place of the last of `entries`, which come from the largest on, and is larger than
    /// that; returns that, if it was one. Of equals the first that came stays ahead.
    pub fn insert(self, entries: &mut [Self]) -> Option<Self> {
        let at = entries.partition_point(|entry| entry.plain >= self.plain);
        let last = *entries.last()?;
        entries[at..].rotate_right(1);
        entries[at] = self;
        Some(last).filter(Self::is_some)
    }
}

/// What a tile's sums leave out.
#[derive(Debug, Default)]
pub(crate) struct Aside<F> {
    /// Logits that wait while the others are summed, by their places in the tile.
    pub waiting: Vec<(usize, F)>,
    /// Logits that nearer ones have pushed out, by sample.
    pub pushed: Vec<(usize, NearestLogit<F>)>,
}

/// A sample and one of its nearest negatives.
#[derive(Debug, Clone)]
pub(crate) struct NearestPair {
    pub class: usize,
    pub sample: usize,
    pub pair: TargetPair,
    /// ∂objective/∂z of its logit.
    pub gradient: f64,
}

/// The nearest negatives of all samples on this rank, by class and sample.
#[derive(Debug, Default)]
pub(crate) struct NearestPairs {
    pub pairs: Vec<NearestPair>,
    /// What they add to the gradients of the embeddings, as
    /// [`TargetPair::add_to_embedding`] does (samples × dims); empty unless they are requested.
    pub embeddings: Vec<f64>,
}

impl NearestPairs {
    /// The pairs of the classes from `start` to before `end`.
    pub fn of(&self, start: usize, end: usize) -> &[NearestPair] {
        let at = |class: usize| self.pairs.partition_point(|pair| pair.class < class);
        &self.pairs[at(start)..at(end)]
    }

    /// What they add to the gradient of the embedding of sample `i`.
    pub fn embedding(&self, i: usize, dims: usize) -> Option<&[f64]> {
        self.embeddings.get(i * dims..(i + 1) * dims)
    }
}

/// The logits that the first sweep left out of a sample's log-sum-exp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Apart {
    pub negatives: LogSumExp,
    /// The same without class prior.
    pub margin_free: LogSumExp,
    /// Their sum.
    pub logits: f64,
}

impl Apart {
    pub const NONE: Self =
        Apart { negatives: LogSumExp::NONE, margin_free: LogSumExp::NONE, logits: 0.0 };

    /// Adds a logit to which the class `prior` is still to be added.
    pub fn add(&mut self, logit: f64, prior: f64) {
        self.margin_free = self.margin_free.merge(LogSumExp::new(logit, 1.0));
        self.negatives = self.negatives.merge(LogSumExp::new(logit + prior, 1.0));
        self.logits += logit + prior;
    }
}
