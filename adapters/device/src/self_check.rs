//! Whether a device computes right.

use std::sync::Arc;

use margin_softmax::{
    ArcFace, Batch, Error, Forward, Gradients, Head, MarginLoss, Real, Reduction,
};
use ndarray::Array2;

use crate::options::number;

/// The largest errors of a small step on a device, against f64 in main memory. Each is a share of
/// the largest number of its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SelfCheck {
    /// Of the losses.
    pub losses: f64,
    /// Of the gradient of the embeddings.
    pub embeddings: f64,
    /// Of the gradient of the class weights.
    pub weights: f64,
    /// The share of the samples whose nearest class is another.
    pub predictions: f64,
}

impl SelfCheck {
    /// The largest of the four; NaN where a number is none.
    pub fn largest(&self) -> f64 {
        let worse = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
        let all = [self.losses, self.embeddings, self.weights, self.predictions];
        all.into_iter().fold(0.0, worse)
    }
}

/// The batch that a device is checked with; all its numbers are bf16.
#[derive(Debug)]
pub struct SelfCheckBatch {
    /// The loss.
    pub loss: Arc<dyn MarginLoss>,
    /// The embeddings (N, D), each near a class weight; these are spread over all tiles.
    pub embeddings: Array2<f64>,
    /// The class weights (C, D).
    pub weights: Array2<f64>,
    /// The labels.
    pub labels: Vec<usize>,
}

const SAMPLES: usize = 48;
const DIMS: usize = 96;
const CLASSES: usize = 5003;

impl SelfCheckBatch {
    /// Rows of a tile: more than bf16 and f16 have integers in a row.
    pub const ROWS_PER_TILE: usize = 2730;
    /// Rows of a shard, of one tile and a part of another.
    pub const ROWS_PER_SHARD: usize = 4000;

    /// The batch.
    ///
    /// # Errors
    /// None that the loss gives for its own parameters.
    pub fn new() -> Result<Self, Error> {
        let numbers = |rows: usize, frequency: f64| {
            let entry = |(i, k)| rounded((frequency * (DIMS * i + k) as f64 + 1.0).sin());
            Array2::from_shape_fn((rows, DIMS), entry)
        };
        let (mut embeddings, weights) = (numbers(SAMPLES, 1.7), numbers(CLASSES, 0.37));
        let near = |i: usize| (i * 1049) % CLASSES;
        for (i, mut row) in embeddings.rows_mut().into_iter().enumerate() {
            row.zip_mut_with(&weights.row(near(i)), |x, w| *x = rounded(0.5 * *x + w));
        }
        let labels = (0..SAMPLES).map(|i| (near(i) + i % 2) % CLASSES).collect();
        Ok(SelfCheckBatch { loss: Arc::new(ArcFace::new(16.0, 0.3)?), embeddings, weights, labels })
    }

    /// Compares what a device found with what the core finds in f64: losses and predictions, and
    /// the gradients of embeddings and class weights under the mean.
    ///
    /// # Errors
    /// Those of the core.
    pub fn compare<F: Real>(
        &self,
        found: &Forward<F>,
        (embeddings, weights): (&[f64], &[f64]),
    ) -> Result<SelfCheck, Error> {
        let batch = Batch::new(&self.embeddings, &self.weights, &self.labels);
        let mut expected = Gradients::zeros_for(&batch);
        let core = Head::new(self.loss.clone());
        let forward = core.forward_backward(&batch, Reduction::Mean, &mut expected)?;
        let losses: Vec<f64> = found.losses.iter().map(|&loss| number(loss)).collect();
        let pairs = found.predictions().iter().zip(forward.predictions());
        let others = pairs.filter(|(found, expected)| found != expected).count();
        Ok(SelfCheck {
            losses: error(&losses, forward.losses.iter()),
            embeddings: error(embeddings, expected.embeddings.iter()),
            weights: error(weights, expected.weights.iter()),
            predictions: others as f64 / SAMPLES as f64,
        })
    }
}

/// A number of at most two, to 1/128: one that bf16 holds.
fn rounded(number: f64) -> f64 {
    (128.0 * number).round() / 128.0
}

/// The largest difference, as a share of the largest number expected; NaN where some are missing.
fn error<'a>(found: &[f64], expected: impl ExactSizeIterator<Item = &'a f64> + Clone) -> f64 {
    if found.len() != expected.len() {
        return f64::NAN;
    }
    let largest = expected.clone().fold(0.0_f64, |most, v| most.max(v.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |most, d| if d.is_nan() || d > most { d } else { most }) / largest
}
