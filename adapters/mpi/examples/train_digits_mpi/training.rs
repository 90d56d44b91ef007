//! The training loop, with the classes split over ranks.

use std::f32::consts::PI;

use anyhow::Result;
use margin_softmax::ranks::{Collective, class_range};
use margin_softmax::{Batch, BatchMut, CosFace, Head, Reduction, Sgd};
use ndarray::{Array2, s};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::digits::{CLASSES, Samples};
use crate::network::Network;

const HIDDEN: usize = 128;
const DIMENSIONS: usize = 16;
const BATCH: usize = 32;
const RATE: f32 = 0.03;

/// The state of one rank: the network, the same on every rank, and its own classes.
pub struct Model<'a, C> {
    network: Network,
    weights: Array2<f32>,
    update: Sgd<f32>,
    head: Head<CosFace, &'a C>,
}

impl<'a, C: Collective<f32>> Model<'a, C> {
    /// Every rank draws the same numbers as a single process and keeps the weights of its own
    /// classes.
    fn new(pixels: usize, collective: &'a C, rng: &mut Pcg64) -> Result<Self> {
        let update = Sgd::new(f64::from(RATE))?.with_momentum(0.9)?.with_weight_decay(1e-3)?;
        let network = Network::new(&[pixels, HIDDEN, DIMENSIONS], &update, rng);
        let random = || rng.random_range(-1.0..1.0);
        let all = Array2::from_shape_simple_fn((CLASSES, DIMENSIONS), random);
        let range = class_range(CLASSES, collective.rank(), collective.size());
        let weights = all.slice(s![range.clone(), ..]).to_owned();
        let head = Head::on_ranks(CosFace::new(16.0, 0.35)?, collective, range);
        Ok(Model { network, weights, update, head })
    }

    /// One step of gradient descent at a learning rate. Returns the mean loss, which is the same on
    /// every rank.
    fn descend(&mut self, Samples { images, labels }: Samples, rate: f64) -> Result<f32> {
        let signals = self.network.forward(images);
        let embeddings = &signals[self.network.depth()];
        let mut gradient = Array2::zeros(embeddings.dim());
        let mut batch = BatchMut::new(embeddings, &mut self.weights, &labels);
        self.update.set_rate(rate)?;
        let update = &mut self.update;
        let forward = self.head.step(&mut batch, Reduction::Mean, update, &mut gradient)?;
        self.network.descend(&signals, &gradient, rate)?;
        Ok(forward.mean())
    }

    /// The fraction of `samples` whose nearest class, over all ranks, is the right one.
    pub fn accuracy(&mut self, samples: &Samples) -> Result<f64> {
        let signals = self.network.forward(samples.images.clone());
        let embeddings = &signals[self.network.depth()];
        let batch = Batch::new(embeddings, &self.weights, &samples.labels);
        Ok(self.head.forward(&batch)?.accuracy())
    }
}

/// Trains a new model with CosFace. `watch` is called with the mean loss of each step.
pub fn train<'a, C: Collective<f32>>(
    samples: &Samples,
    collective: &'a C,
    (epochs, seed): (usize, u64),
    mut watch: impl FnMut(f32),
) -> Result<Model<'a, C>> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let mut model = Model::new(samples.images.ncols(), collective, &mut rng)?;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let steps = epochs * samples.len().div_ceil(BATCH);
    let mut done = 0;
    for _ in 0..epochs {
        order.shuffle(&mut rng);
        for rows in order.chunks(BATCH) {
            watch(model.descend(samples.select(rows), rate_at(done as f32 / steps as f32))?);
            done += 1;
        }
    }
    Ok(model)
}

/// Cosine decay of the learning rate to 0.
fn rate_at(progress: f32) -> f64 {
    f64::from(0.5 * RATE * (1.0 + (PI * progress).cos()))
}
