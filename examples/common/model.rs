//! The model: a network and the class weights.

use anyhow::Result;
use margin_softmax::{Batch, Gradients, Head, MarginLoss, NormalizedLogits, Scale};
use ndarray::{Array1, Array2, Ix1, Ix2};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::digits::{CLASSES, Samples};
use crate::network::{Network, Parameter, Step};

const HIDDEN: usize = 128;

pub struct Model {
    pub network: Network,
    pub classes: Parameter<Ix2>,
    /// Softmax only.
    pub bias: Option<Parameter<Ix1>>,
}

/// Results without the margin. The angles are means over the samples, in radians.
#[derive(Clone, Copy)]
pub struct Evaluation {
    pub accuracy: f64,
    pub target_angle: f32,
    pub nearest_wrong_angle: f32,
}

impl Model {
    /// A randomly initialised model for a loss with this scale. Only Softmax has a bias.
    pub fn new(pixels: usize, dimensions: usize, scale: Scale, rng: &mut Pcg64) -> Self {
        let biased = scale == Scale::Unnormalized;
        Self {
            network: Network::new(&[pixels, HIDDEN, dimensions], rng),
            classes: Parameter::new(initial_class_weights(dimensions, rng)),
            bias: biased.then(|| Parameter::new(Array1::zeros(CLASSES))),
        }
    }

    /// A batch of embeddings and labels, with the class weights and bias of the model.
    pub fn batch<'a>(
        &'a self,
        embeddings: &'a Array2<f32>,
        labels: &'a [usize],
    ) -> Result<Batch<'a, f32>> {
        let batch = Batch::new(embeddings, &self.classes.value, labels)?;
        Ok(match &self.bias {
            Some(bias) => batch.with_bias(&bias.value)?,
            None => batch,
        })
    }

    /// One step of gradient descent, from the activations of the network (`signals`) and the
    /// gradients of the loss.
    pub fn descend(&mut self, signals: &[Array2<f32>], gradients: &Gradients<f32>, step: Step) {
        self.network.backward(signals, &gradients.embeddings, step);
        self.classes.update(&gradients.weights, step);
        if let (Some(bias), Some(gradient)) = (&mut self.bias, &gradients.bias) {
            bias.update(gradient, step);
        }
    }

    pub fn embed(&self, samples: &Samples) -> Array2<f32> {
        self.network.forward(samples.images.clone()).swap_remove(self.network.depth())
    }

    /// Evaluates the model on `samples`. The margin of the loss has no effect.
    pub fn evaluate(&self, loss: impl MarginLoss, samples: &Samples) -> Result<Evaluation> {
        let embeddings = self.embed(samples);
        let forward = Head::new(loss).forward(&self.batch(&embeddings, &samples.labels)?)?;
        let logits = NormalizedLogits::new(&embeddings, &self.classes.value)?;
        let nearest_wrong =
            logits.cosines().rows().into_iter().zip(&samples.labels).map(|(cosines, &label)| {
                let wrong = cosines.iter().enumerate().filter(|&(class, _)| class != label);
                wrong.map(|(_, &cosine)| cosine).fold(-1.0, f32::max).min(1.0).acos()
            });
        Ok(Evaluation {
            accuracy: forward.accuracy(),
            target_angle: forward.target_angles().sum() / samples.len() as f32,
            nearest_wrong_angle: nearest_wrong.sum::<f32>() / samples.len() as f32,
        })
    }
}

/// Random, except in two dimensions. There the weights start evenly spaced on the circle, because
/// on a circle training cannot move a class past its neighbour.
fn initial_class_weights(dimensions: usize, rng: &mut Pcg64) -> Array2<f32> {
    if dimensions != 2 {
        return Array2::from_shape_simple_fn((CLASSES, dimensions), || rng.random_range(-1.0..1.0));
    }
    Array2::from_shape_fn((CLASSES, dimensions), |(class, axis)| {
        let angle = std::f32::consts::TAU * class as f32 / CLASSES as f32;
        if axis == 0 { angle.cos() } else { angle.sin() }
    })
}
