//! One training.

use anyhow::Result;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{BatchMut, Head, Reduction, Sgd};
use ndarray::{Array1, Array2};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::experiments::{Experiment, Model};
use crate::images::{Glyphs, PIXELS, Quality};
use crate::losses::{Course, Loss};
use crate::network::Network;

/// What all trainings share.
#[derive(Clone)]
pub struct Plan {
    pub epochs: usize,
    pub rate: f64,
    /// The sizes of the layers behind the pixels.
    pub layers: [usize; 2],
    /// The share of false accepts at which true accepts are counted.
    pub far: f64,
}

const BATCH: usize = 128;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 5e-4;

/// A network, and what is subtracted from its images.
pub struct Embedder {
    /// `None` leaves the images as they are.
    network: Option<Network>,
    mean: Array1<f32>,
    quality: Quality,
}

impl Embedder {
    /// The embeddings of all images, each shifted at random but the same way for every network.
    pub fn embed(&self, glyphs: &Glyphs) -> Array2<f32> {
        const SHIFTS: u64 = 2017;
        let mut rng = Pcg64::seed_from_u64(SHIFTS);
        let rows: Vec<usize> = (0..glyphs.len()).collect();
        let batches = rows.chunks(1024).map(|rows| {
            let images = glyphs.batch(rows, self.quality, &self.mean, &mut rng);
            match &self.network {
                Some(network) => network.forward(images).swap_remove(network.depth()),
                None => images,
            }
        });
        let batches: Vec<Array2<f32>> = batches.collect();
        let views: Vec<_> = batches.iter().map(|batch| batch.view()).collect();
        ndarray::concatenate(ndarray::Axis(0), &views).expect("batches of one width")
    }
}

/// Trains a network on the images of `classes` characters.
pub fn train(
    experiment: &Experiment,
    glyphs: &Glyphs,
    classes: usize,
    plan: &Plan,
    seed: u64,
) -> Result<Embedder> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let update = Sgd::new(plan.rate)?.with_momentum(MOMENTUM)?.with_weight_decay(DECAY)?;
    let [hidden, dimensions] = plan.layers;
    let mut embedder = Embedder { network: None, mean: glyphs.mean(), quality: experiment.quality };
    let mut network = Network::new(&[PIXELS, hidden, dimensions], &update, &mut rng);
    match experiment.model {
        Model::Pixels => return Ok(embedder),
        Model::Untrained => {}
        Model::Trained { loss, centers, sampled } => {
            let classes =
                Classes::new(loss, [classes, centers, dimensions], sampled, &update, seed)?;
            descend(&mut network, classes, glyphs, &embedder, plan, &mut rng)?;
        }
    }
    embedder.network = Some(network);
    Ok(embedder)
}

/// The class weights, and what trains them.
struct Classes {
    course: Course,
    weights: Array2<f32>,
    bias: Option<Array1<f32>>,
    centers: usize,
    sampler: Option<ClassSampler>,
    update: Sgd<f32>,
}

impl Classes {
    fn new(
        loss: Loss,
        [classes, centers, dimensions]: [usize; 3],
        sampled: f64,
        update: &Sgd<f32>,
        seed: u64,
    ) -> Result<Self> {
        // Rows of about unit length.
        let limit = (3.0 / dimensions as f32).sqrt();
        let mut rng = Pcg64::seed_from_u64(!seed);
        let random = || rng.random_range(-limit..limit);
        Ok(Self {
            course: Course::new(loss),
            weights: Array2::from_shape_simple_fn((classes * centers, dimensions), random),
            bias: (loss == Loss::Softmax).then(|| Array1::zeros(classes)),
            centers,
            sampler: (sampled < 1.0)
                .then(|| ClassSampler::new(classes, sampled, seed))
                .transpose()?,
            update: update.clone(),
        })
    }

    /// One step at a learning rate: the mean loss, and the gradient of the embeddings.
    fn step(
        &mut self,
        embeddings: &Array2<f32>,
        labels: &[usize],
        [step, steps]: [usize; 2],
        rate: f64,
    ) -> Result<(f32, Array2<f32>)> {
        self.update.set_rate(rate)?;
        let sample = self.sampler.as_mut().map(|sampler| sampler.sample(labels)).transpose()?;
        let mut batch = BatchMut::new(embeddings, &mut self.weights, labels);
        if let Some(bias) = &mut self.bias {
            batch = batch.with_bias(bias);
        }
        if self.centers > 1 {
            batch = batch.with_sub_centers(self.centers);
        }
        if let Some(sample) = &sample {
            batch = batch.with_sample(sample);
        }
        let head = Head::new(self.course.at(step, steps)?);
        let mut gradient = Array2::zeros(embeddings.dim());
        let forward = head.step(&mut batch, Reduction::Mean, &mut self.update, &mut gradient)?;
        self.course.observe(&forward)?;
        Ok((forward.mean(), gradient))
    }
}

fn descend(
    network: &mut Network,
    mut classes: Classes,
    glyphs: &Glyphs,
    embedder: &Embedder,
    plan: &Plan,
    rng: &mut Pcg64,
) -> Result<()> {
    let mut order: Vec<usize> = (0..glyphs.len()).collect();
    let per_epoch = order.len().div_ceil(BATCH);
    let steps = plan.epochs * per_epoch;
    for epoch in 0..plan.epochs {
        order.shuffle(rng);
        let mut sum = 0.0;
        for (batch, rows) in order.chunks(BATCH).enumerate() {
            let step = epoch * per_epoch + batch;
            let rate = plan.rate_at(step as f64 / steps as f64);
            let images = glyphs.batch(rows, embedder.quality, &embedder.mean, rng);
            let signals = network.forward(images);
            let embeddings = &signals[network.depth()];
            let labels = glyphs.select_labels(rows);
            let (loss, gradient) = classes.step(embeddings, &labels, [step, steps], rate)?;
            network.descend(&signals, &gradient, rate)?;
            sum += loss;
        }
        eprintln!("  epoch {} of {}: loss {:.3}", epoch + 1, plan.epochs, sum / per_epoch as f32);
    }
    Ok(())
}

impl Plan {
    /// Cosine decay of the learning rate to 0.
    fn rate_at(&self, progress: f64) -> f64 {
        0.5 * self.rate * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}
