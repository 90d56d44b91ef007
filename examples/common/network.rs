//! A small fully connected network, trained by stochastic gradient descent with momentum.

use ndarray::{Array, Array1, Array2, Axis, Dimension, Ix1, Ix2, Zip};
use rand::RngExt;
use rand_pcg::Pcg64;

/// `velocity ← momentum·velocity − rate·(gradient + decay·value)`, then `value ← value + velocity`.
#[derive(Clone, Copy)]
pub struct Step {
    pub rate: f32,
    pub momentum: f32,
    pub decay: f32,
}

/// A trainable parameter: its value and its velocity.
pub struct Parameter<D: Dimension> {
    pub value: Array<f32, D>,
    velocity: Array<f32, D>,
}

impl<D: Dimension> Parameter<D> {
    pub fn new(value: Array<f32, D>) -> Self {
        let velocity = Array::zeros(value.raw_dim());
        Self { value, velocity }
    }

    pub fn update(&mut self, gradient: &Array<f32, D>, step: Step) {
        Zip::from(&mut self.value).and(&mut self.velocity).and(gradient).for_each(
            |value, velocity, &gradient| {
                *velocity =
                    step.momentum * *velocity - step.rate * (gradient + step.decay * *value);
                *value += *velocity;
            },
        );
    }
}

struct Layer {
    weights: Parameter<Ix2>,
    bias: Parameter<Ix1>,
}

impl Layer {
    /// Weights uniform in ±√(6/inputs): He initialisation, for layers with a ReLU.
    fn new(inputs: usize, outputs: usize, rng: &mut Pcg64) -> Self {
        let limit = (6.0 / inputs as f32).sqrt();
        let random = || rng.random_range(-limit..limit);
        Self {
            weights: Parameter::new(Array2::from_shape_simple_fn((outputs, inputs), random)),
            bias: Parameter::new(Array1::zeros(outputs)),
        }
    }
}

/// Fully connected layers with a ReLU between them. The last layer is linear.
pub struct Network {
    layers: Vec<Layer>,
}

impl Network {
    /// `widths` are the layer sizes, from the number of pixels to the embedding dimension.
    pub fn new(widths: &[usize], rng: &mut Pcg64) -> Self {
        Self { layers: widths.windows(2).map(|pair| Layer::new(pair[0], pair[1], rng)).collect() }
    }

    /// The number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// The input of each layer, and last the embeddings.
    pub fn forward(&self, images: Array2<f32>) -> Vec<Array2<f32>> {
        let mut signals = vec![images];
        for (depth, layer) in self.layers.iter().enumerate() {
            let mut output = signals[depth].dot(&layer.weights.value.t()) + &layer.bias.value;
            if depth + 1 < self.layers.len() {
                output.mapv_inplace(|value| value.max(0.0));
            }
            signals.push(output);
        }
        signals
    }

    /// One step of gradient descent, from the `signals` of a forward pass and the gradient of the
    /// loss with respect to the embeddings.
    pub fn backward(&mut self, signals: &[Array2<f32>], embeddings: &Array2<f32>, step: Step) {
        let mut gradient = embeddings.clone();
        for (depth, layer) in self.layers.iter_mut().enumerate().rev() {
            let input = &signals[depth];
            let weights = gradient.t().dot(input);
            let bias = gradient.sum_axis(Axis(0));
            if depth > 0 {
                gradient = gradient.dot(&layer.weights.value);
                // The derivative of a ReLU is 0 where its output is 0.
                gradient.zip_mut_with(input, |gradient, &input| {
                    if input <= 0.0 {
                        *gradient = 0.0;
                    }
                });
            }
            layer.weights.update(&weights, step);
            layer.bias.update(&bias, step);
        }
    }
}
