//! The model: a network and the class weights.

use anyhow::Result;
use margin_softmax::energy::{Riesz, hyperspherical_energy_of_batch};
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    Batch, BatchMut, Gradients, Head, MarginLoss, NormalizedLogits, Reduction, Scale, Sgd,
};
use ndarray::{Array1, Array2};
use rand::RngExt;
use rand_pcg::Pcg64;

use crate::digits::Samples;
use crate::network::Network;

const HIDDEN: usize = 128;

pub struct Model {
    pub network: Network,
    pub classes: Array2<f32>,
    /// Softmax only.
    pub bias: Option<Array1<f32>>,
    /// Of the class weights and the bias.
    update: Sgd<f32>,
}

/// What a step did.
pub struct Descent {
    /// The mean loss, with the hyperspherical energy.
    pub loss: f32,
    /// Of the embeddings.
    pub norms: Vec<f32>,
    /// With respect to the embeddings.
    pub gradient: Array2<f32>,
}

/// Results without the margin. The angles are means over the samples, in radians.
#[derive(Clone, Copy)]
pub struct Evaluation {
    pub accuracy: f64,
    pub target_angle: f32,
    pub nearest_wrong_angle: f32,
}

impl Model {
    /// A randomly initialized model for a loss with this scale, trained by clones of `update`. Only
    /// Softmax has a bias.
    pub fn new(
        [pixels, dimensions, classes]: [usize; 3],
        scale: Scale,
        update: &Sgd<f32>,
        rng: &mut Pcg64,
    ) -> Self {
        let biased = scale == Scale::Unnormalized;
        Self {
            network: Network::new(&[pixels, HIDDEN, dimensions], update, rng),
            classes: initial_class_weights(classes, dimensions, rng),
            bias: biased.then(|| Array1::zeros(classes)),
            update: update.clone(),
        }
    }

    /// A batch of embeddings and labels, with the class weights and bias of the model.
    pub fn batch<'a>(
        &'a self,
        embeddings: &'a Array2<f32>,
        labels: &'a [usize],
    ) -> Result<Batch<'a, f32>> {
        let batch = Batch::new(embeddings, &self.classes, labels);
        Ok(match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => batch,
        })
    }

    /// One step of gradient descent at a learning rate. The hyperspherical energy is added to the
    /// loss with the weight `energy`.
    pub fn descend(
        &mut self,
        head: &Head<impl MarginLoss>,
        Samples { images, labels }: Samples,
        energy: f32,
        rate: f64,
    ) -> Result<Descent> {
        let signals = self.network.forward(images);
        let embeddings = &signals[self.network.depth()];
        self.update.set_rate(rate)?;
        let descent = if energy > 0.0 {
            self.move_classes_apart(head, embeddings, &labels, energy)?
        } else {
            self.move_classes(head, embeddings, &labels)?
        };
        self.network.descend(&signals, &descent.gradient, rate)?;
        Ok(descent)
    }

    fn move_classes(
        &mut self,
        head: &Head<impl MarginLoss>,
        embeddings: &Array2<f32>,
        labels: &[usize],
    ) -> Result<Descent> {
        let mut batch = BatchMut::new(embeddings, &mut self.classes, labels);
        if let Some(bias) = &mut self.bias {
            batch = batch.with_bias(bias);
        }
        let mut gradient = Array2::zeros(embeddings.dim());
        let forward = head.step(&mut batch, Reduction::Mean, &mut self.update, &mut gradient)?;
        Ok(Descent { loss: forward.mean(), norms: forward.counted_norms(), gradient })
    }

    /// With the energy. Its gradient is added to that of the loss, which is therefore needed as a
    /// whole before the class weights move.
    fn move_classes_apart(
        &mut self,
        head: &Head<impl MarginLoss>,
        embeddings: &Array2<f32>,
        labels: &[usize],
        weight: f32,
    ) -> Result<Descent> {
        let batch = self.batch(embeddings, labels)?;
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
        let (energy, gradient) = hyperspherical_energy_of_batch(&self.classes, labels, Riesz::Two)?;
        gradients.weights.scaled_add(weight, &gradient);
        self.update.apply(&mut self.classes, &gradients.weights)?;
        if let (Some(bias), Some(gradient)) = (&mut self.bias, &gradients.bias) {
            self.update.apply_bias(bias, gradient)?;
        }
        Ok(Descent {
            loss: forward.mean() + weight * energy,
            norms: forward.counted_norms(),
            gradient: gradients.embeddings,
        })
    }

    pub fn embed(&self, samples: &Samples) -> Array2<f32> {
        self.network.forward(samples.images.clone()).swap_remove(self.network.depth())
    }

    /// Evaluates the model on `samples`. The margin of the loss has no effect.
    pub fn evaluate(&self, loss: impl MarginLoss, samples: &Samples) -> Result<Evaluation> {
        let embeddings = self.embed(samples);
        let forward = Head::new(loss).forward(&self.batch(&embeddings, &samples.labels)?)?;
        let logits = NormalizedLogits::new(&embeddings, &self.classes)?;
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
/// on a circle training cannot move a class past its neighbor.
fn initial_class_weights(classes: usize, dimensions: usize, rng: &mut Pcg64) -> Array2<f32> {
    if dimensions != 2 {
        return Array2::from_shape_simple_fn((classes, dimensions), || rng.random_range(-1.0..1.0));
    }
    Array2::from_shape_fn((classes, dimensions), |(class, axis)| {
        let angle = std::f32::consts::TAU * class as f32 / classes as f32;
        if axis == 0 { angle.cos() } else { angle.sin() }
    })
}
