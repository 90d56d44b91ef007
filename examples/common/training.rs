//! The training loop.

use anyhow::Result;
use margin_softmax::{
    Gradients, Head, MarginLoss, Reduction, Riesz, hyperspherical_energy_of_batch,
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::digits::Samples;
use crate::model::Model;
use crate::network::Step;

/// A learning rate at which every loss trains well with its published margin.
pub const RATE: f32 = 0.03;

const BATCH: usize = 32;
const MOMENTUM: f32 = 0.9;
const DECAY: f32 = 1e-3;

/// Enough steps for SphereFace's λ to fall to 5 and for training to converge at that margin.
const STEPS: usize = 4500;

pub struct Schedule {
    pub epochs: usize,
    pub rate: f32,
    /// Seed of the initial weights and of the order of the samples.
    pub seed: u64,
    /// The weight of SphereFace+'s hyperspherical energy, which is added to the loss.
    pub energy: f32,
}

pub fn default_epochs(samples: usize) -> usize {
    STEPS.div_ceil(steps_per_epoch(samples))
}

pub fn steps_per_epoch(samples: usize) -> usize {
    samples.div_ceil(BATCH)
}

/// Trains a new model with embeddings of `dimensions` dimensions. `loss_at` returns the loss of
/// each step; `watch` is called with the mean loss and the gradients of each step.
pub fn train(
    loss_at: impl Fn(usize) -> Result<Box<dyn MarginLoss>>,
    dimensions: usize,
    samples: &Samples,
    schedule: &Schedule,
    mut watch: impl FnMut(f32, &Gradients<f32>),
) -> Result<Model> {
    let mut rng = Pcg64::seed_from_u64(schedule.seed);
    let mut head = Head::new(loss_at(0)?);
    let mut model = Model::new(samples.images.ncols(), dimensions, head.loss().scale(), &mut rng);
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let steps = schedule.epochs * steps_per_epoch(samples.len());
    let mut done = 0;
    for _ in 0..schedule.epochs {
        order.shuffle(&mut rng);
        for rows in order.chunks(BATCH) {
            *head.loss_mut() = loss_at(done)?;
            let Samples { images, labels } = samples.select(rows);
            let signals = model.network.forward(images);
            let batch = model.batch(&signals[signals.len() - 1], &labels)?;
            let mut gradients = Gradients::zeros_for(&batch);
            let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
            let mut loss = forward.mean();
            if schedule.energy > 0.0 {
                let (energy, gradient) =
                    hyperspherical_energy_of_batch(&model.classes.value, &labels, Riesz::Two)?;
                loss += schedule.energy * energy;
                gradients.weights.scaled_add(schedule.energy, &gradient);
            }
            watch(loss, &gradients);
            model.descend(&signals, &gradients, schedule.step_at(done as f32 / steps as f32));
            done += 1;
        }
    }
    Ok(model)
}

impl Schedule {
    /// Cosine decay of the learning rate, from `rate` to 0.
    fn step_at(&self, progress: f32) -> Step {
        let rate = 0.5 * self.rate * (1.0 + (std::f32::consts::PI * progress).cos());
        Step { rate, momentum: MOMENTUM, decay: DECAY }
    }
}
