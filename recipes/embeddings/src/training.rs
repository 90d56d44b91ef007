//! The training loop.

use std::fmt;

use anyhow::{Result, ensure};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Tensor};
use indicatif::ProgressBar;
use margin_softmax::Forward;
use margin_softmax::sampling::ClassSampler;
use margin_softmax_burn::{Options, Output};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::images::Images;
use crate::network::Model;
use crate::schedule::Schedule;
use crate::settings::Settings;
use crate::view::View;

const MOMENTUM: f64 = 0.9;
const WEIGHT_DECAY: f32 = 5e-4;

/// All that training changes: what a checkpoint holds.
pub struct State {
    pub model: Model,
    pub optimizer: ModuleOptimizer,
    pub sampler: Option<ClassSampler>,
    pub epochs: usize,
}

impl State {
    /// The state before the first epoch.
    pub fn new(model: Model, settings: &Settings, classes: usize) -> Result<Self> {
        let momentum = MomentumConfig::new().with_momentum(MOMENTUM).with_dampening(0.0);
        let optimizer = SgdConfig::new()
            .with_momentum(Some(momentum))
            .with_weight_decay(Some(WeightDecayConfig::new(WEIGHT_DECAY)))
            .init();
        let sampled = classes > settings.sample_above;
        let sampler = || ClassSampler::new(classes, settings.sample_rate, settings.seed);
        Ok(State { model, optimizer, sampler: sampled.then(sampler).transpose()?, epochs: 0 })
    }

    /// Refuses what a diverged training leaves: no later run could continue from it.
    pub fn check_finite(&self) -> Result<()> {
        let mut finite = Finite(true);
        self.model.visit(&mut finite);
        ensure!(finite.0, "diverged: parameters are no longer finite; a lower --rate may help");
        Ok(())
    }

    /// Trains for one epoch.
    pub fn epoch(
        self,
        images: &Images,
        settings: &Settings,
        schedule: &Schedule,
        device: &Device,
        bar: &ProgressBar,
    ) -> Result<(Self, Averages)> {
        let State { mut model, mut optimizer, mut sampler, epochs } = self;
        let mut averages = Averages::default();
        let mut random = generator(settings.seed, epochs);
        let mut order: Vec<usize> = (0..images.len()).collect();
        order.shuffle(&mut random);
        // What is left over is no whole batch, and in other epochs other images.
        let batches = order.chunks_exact(batch_size(images, settings));
        for (step, rows) in (epochs * batches.len()..).zip(batches) {
            let view = || View::random(settings.size, settings.mirror, &mut random);
            let (pixels, labels) = images.batch(rows, view, device);
            model.head.set_loss(schedule.loss(step)?);
            let embeddings = model.embed(pixels);
            let options = match &mut sampler {
                None => Options::default(),
                Some(sampler) => Options::default().with_sampler(sampler),
            };
            let Output { loss, forward, .. } =
                model.head.run::<f32>(embeddings, labels, options)?;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(schedule.rate(step), model, gradients);
            averages.add(&forward);
            bar.inc(1);
        }
        Ok((State { model, optimizer, sampler, epochs: epochs + 1 }, averages))
    }
}

/// Whether all parameters seen so far are finite.
struct Finite(bool);

impl ModuleVisitor for Finite {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        self.0 &= parameter.val().is_finite().all().into_scalar::<bool>();
    }
}

pub fn steps_per_epoch(images: &Images, settings: &Settings) -> usize {
    images.len() / batch_size(images, settings)
}

fn batch_size(images: &Images, settings: &Settings) -> usize {
    settings.batch.min(images.len())
}

/// The random numbers of an epoch, whatever was drawn before it.
fn generator(seed: u64, epoch: usize) -> Pcg64 {
    let mut seeds = Pcg64::seed_from_u64(seed);
    seeds.advance(epoch as u128);
    Pcg64::seed_from_u64(seeds.next_u64())
}

/// Sums over the samples of an epoch. With sampled classes they are over the classes drawn.
#[derive(Default)]
pub struct Averages {
    samples: usize,
    loss: f64,
    margin_free: f64,
    correct: f64,
    angle: f64,
}

impl Averages {
    fn add(&mut self, forward: &Forward<f32>) {
        self.samples += forward.counted();
        self.loss += f64::from(forward.sum());
        self.margin_free += f64::from(forward.margin_free_losses().sum());
        self.correct += forward.accuracy() * forward.counted() as f64;
        self.angle += f64::from(forward.target_angles().sum());
    }
}

impl fmt::Display for Averages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = |sum: f64| sum / self.samples as f64;
        write!(
            f,
            "loss {:6.3}   without margin {:.3}   accuracy {:.3}   angle {:.1}°",
            mean(self.loss),
            mean(self.margin_free),
            mean(self.correct),
            mean(self.angle).to_degrees(),
        )
    }
}
