//! Between the sweeps: what is known of each sample here, made whole where the classes are split.

use ndarray::ArrayViewMut2;

use crate::batch::Outcome;
use crate::cross_entropy::Negatives;
use crate::error::Error;
use crate::kernel::Real;

/// What the first sweep found of one sample among the classes that are here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finding {
    /// Its row in the batch.
    pub row: usize,
    /// Its class, by the caller's numbers.
    pub label: usize,
    pub negatives: Negatives,
    /// Its own class, where that is known.
    pub own: Option<Own>,
    /// The nearest class without margin, by the caller's numbers.
    pub prediction: usize,
    /// Its logit without margin; −∞ where no class is here.
    pub best: f64,
}

/// A sample and its own class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// $z_{iy}$, margin included.
    pub logit: f64,
    /// $\theta_{iy}$.
    pub angle: f64,
}

impl Finding {
    /// What this amounts to; `None` as long as the sample's own class is not known.
    pub fn outcome(&self) -> Option<Outcome> {
        let own = self.own?;
        Some(Outcome {
            negatives: self.negatives,
            cross_entropy: self.negatives.cross_entropy(own.logit),
            target_angle: own.angle,
            prediction: self.prediction,
        })
    }
}

/// How a step speaks with those who hold the other classes.
pub(crate) trait Exchange<F: Real> {
    /// Whether the inputs are good everywhere: `counted` samples here, or why they are refused.
    /// Everyone gets the same answer, before anything is written.
    fn agree(&self, counted: Result<usize, Error>) -> Result<(), Error>;

    /// Makes the findings of all samples whole; the batch has `rows`.
    fn complete(&self, rows: usize, findings: &mut [Finding]) -> Result<(), Error>;

    /// Adds up everyone's share of the gradient of the embeddings.
    fn add_up(&self, embeddings: ArrayViewMut2<'_, F>) -> Result<(), Error>;
}

/// All classes are here.
pub(crate) struct Alone;

impl<F: Real> Exchange<F> for Alone {
    fn agree(&self, counted: Result<usize, Error>) -> Result<(), Error> {
        counted.map(|_| ())
    }

    fn complete(&self, _: usize, _: &mut [Finding]) -> Result<(), Error> {
        Ok(())
    }

    fn add_up(&self, _: ArrayViewMut2<'_, F>) -> Result<(), Error> {
        Ok(())
    }
}
