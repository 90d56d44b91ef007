//! The training loop.

use anyhow::Result;
use margin_softmax::{Head, MarginLoss, Precision, Sgd};
use ndarray::Array2;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::digits::Samples;
use crate::model::Model;

/// A learning rate at which every loss trains well with its published margin.
pub const RATE: f32 = 0.03;

const BATCH: usize = 32;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 1e-3;

/// Enough steps for SphereFace's λ to fall to 5 and for training to converge at that margin.
const STEPS: usize = 4500;

pub struct Schedule {
    pub epochs: usize,
    pub rate: f32,
    /// Seed of the initial weights and of the order of the samples.
    pub seed: u64,
    /// The weight of SphereFace+'s hyperspherical energy, which is added to the loss.
    pub energy: f32,
    /// Of the matrix products of the loss.
    pub precision: Precision,
}

pub fn default_epochs(samples: usize) -> usize {
    STEPS.div_ceil(steps_per_epoch(samples))
}

pub fn steps_per_epoch(samples: usize) -> usize {
    samples.div_ceil(BATCH)
}

/// Trains a new model with embeddings of `dimensions` dimensions for labels below `classes`.
/// `loss_at` returns the loss of each step; it is given the norms of the embeddings of the step
/// before. `watch` is called after each step with its mean loss, with the gradient of the
/// embeddings, and with the class weights as the step left them.
pub fn train(
    mut loss_at: impl FnMut(usize, &[f32]) -> Result<Box<dyn MarginLoss>>,
    [dimensions, classes]: [usize; 2],
    samples: &Samples,
    schedule: &Schedule,
    mut watch: impl FnMut(f32, &Array2<f32>, &Array2<f32>),
) -> Result<Model> {
    let mut rng = Pcg64::seed_from_u64(schedule.seed);
    let mut head = Head::new(loss_at(0, &[])?).with_precision(schedule.precision);
    let update =
        Sgd::new(schedule.rate_at(0.0))?.with_momentum(MOMENTUM)?.with_weight_decay(DECAY)?;
    let sizes = [samples.images.ncols(), dimensions, classes];
    let mut model = Model::new(sizes, head.loss().scale(), &update, &mut rng);
    let mut norms = Vec::new();
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let steps = schedule.epochs * steps_per_epoch(samples.len());
    let mut done = 0;
    for _ in 0..schedule.epochs {
        order.shuffle(&mut rng);
        for rows in order.chunks(BATCH) {
            *head.loss_mut() = loss_at(done, &norms)?;
            let rate = schedule.rate_at(done as f32 / steps as f32);
            let descent = model.descend(&head, samples.select(rows), schedule.energy, rate)?;
            watch(descent.loss, &descent.gradient, &model.classes);
            norms = descent.norms;
            done += 1;
        }
    }
    Ok(model)
}

impl Schedule {
    /// Cosine decay of the learning rate, from `rate` to 0.
    fn rate_at(&self, progress: f32) -> f64 {
        f64::from(0.5 * self.rate * (1.0 + (std::f32::consts::PI * progress).cos()))
    }
}
