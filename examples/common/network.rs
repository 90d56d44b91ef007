//! A small fully connected network, trained by stochastic gradient descent.

use anyhow::Result;
use margin_softmax::Sgd;
use margin_softmax::update::WeightUpdate;
use ndarray::{Array1, Array2, Axis};
use rand::RngExt;
use rand_pcg::Pcg64;

struct Layer {
    weights: Array2<f32>,
    bias: Array1<f32>,
    update: Sgd<f32>,
}

impl Layer {
    /// Weights uniform in ±√(6/inputs): He initialization, for layers with a ReLU.
    fn new(inputs: usize, outputs: usize, update: Sgd<f32>, rng: &mut Pcg64) -> Self {
        let limit = (6.0 / inputs as f32).sqrt();
        let random = || rng.random_range(-limit..limit);
        Self {
            weights: Array2::from_shape_simple_fn((outputs, inputs), random),
            bias: Array1::zeros(outputs),
            update,
        }
    }
}

/// Fully connected layers with a ReLU between them. The last layer is linear.
pub struct Network {
    layers: Vec<Layer>,
}

impl Network {
    /// `widths` are the layer sizes, from the number of pixels to the embedding dimension. Every
    /// layer is trained by a clone of `update`.
    pub fn new(widths: &[usize], update: &Sgd<f32>, rng: &mut Pcg64) -> Self {
        let layer = |pair: &[usize]| Layer::new(pair[0], pair[1], update.clone(), rng);
        Self { layers: widths.windows(2).map(layer).collect() }
    }

    /// The number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The input of each layer, and last the embeddings.
    pub fn forward(&self, images: Array2<f32>) -> Vec<Array2<f32>> {
        let mut signals = vec![images];
        for (depth, layer) in self.layers.iter().enumerate() {
            let mut output = signals[depth].dot(&layer.weights.t()) + &layer.bias;
            if depth + 1 < self.layers.len() {
                output.mapv_inplace(|value| value.max(0.0));
            }
            signals.push(output);
        }
        signals
    }

    /// One step of gradient descent at a learning rate, from the `signals` of a forward pass and the
    /// gradient of the loss with respect to the embeddings.
    pub fn descend(
        &mut self,
        signals: &[Array2<f32>],
        embeddings: &Array2<f32>,
        rate: f64,
    ) -> Result<()> {
        let mut gradient = embeddings.clone();
        for (depth, layer) in self.layers.iter_mut().enumerate().rev() {
            let input = &signals[depth];
            let weights = gradient.t().dot(input);
            let bias = gradient.sum_axis(Axis(0));
            if depth > 0 {
                gradient = gradient.dot(&layer.weights);
                // The derivative of a ReLU is 0 where its output is 0.
                gradient.zip_mut_with(input, |gradient, &input| {
                    if input <= 0.0 {
                        *gradient = 0.0;
                    }
                });
            }
            layer.update.set_rate(rate)?;
            layer.update.apply(&mut layer.weights, &weights)?;
            layer.update.apply_bias(&mut layer.bias, &bias)?;
        }
        Ok(())
    }
}
