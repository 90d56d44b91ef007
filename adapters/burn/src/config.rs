//! How a head begins.

use std::sync::Arc;

use burn::config::Config;
use burn::module::Initializer;
use burn::tensor::Device;
use margin_softmax::{Error, MarginLoss, Scale};

use crate::MarginHead;
use crate::memory::main_memory;

/// The size of a [`MarginHead`] and the values that it begins with.
///
/// | field | default | what it is |
/// |---|---|---|
/// | `dims` | | D, the dimensions of an embedding, at least 1 |
/// | `classes` | | C, at least 1 |
/// | `bias` | false | whether the logits have a bias, which begins at 0; [`Softmax`](margin_softmax::Softmax) only |
/// | `initializer` | normal, mean 0, standard deviation 0.01 | what the class weights are drawn from |
///
/// ```
/// use burn::tensor::Device;
/// use margin_softmax::Softmax;
/// use margin_softmax_burn::MarginHeadConfig;
///
/// let device = Device::flex().autodiff();
/// let head = MarginHeadConfig::new(64, 10).with_bias(true).init(Softmax::new(), &device)?;
/// assert_eq!(head.weights.dims(), [10, 64]);
/// assert!(head.bias.is_some());
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Config, Debug)]
pub struct MarginHeadConfig {
    /// D, the dimensions of an embedding.
    pub dims: usize,
    /// C, the number of classes.
    pub classes: usize,
    /// Whether the logits have a bias: Softmax only.
    #[config(default = false)]
    pub bias: bool,
    /// What the class weights are drawn from.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 0.01 }")]
    pub initializer: Initializer,
}

impl MarginHeadConfig {
    /// A head with this loss. Its parameters are in main memory, wherever `device` is; they are
    /// trained if `device` is an autodiff device, in the float type that burn takes by default in
    /// main memory.
    ///
    /// # Errors
    /// [`Error::Empty`] for no dimensions or no classes, [`Error::Bias`] for a bias with any loss
    /// but Softmax.
    pub fn init(
        &self,
        loss: impl MarginLoss + 'static,
        device: &Device,
    ) -> Result<MarginHead, Error> {
        let shape = [self.classes, self.dims];
        if shape.contains(&0) {
            return Err(Error::Empty { argument: "class weights", actual: shape.to_vec() });
        }
        if self.bias && loss.scale() != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        let device = main_memory(device);
        let (inputs, outputs) = (Some(self.dims), Some(self.classes));
        let weights = self.initializer.init_with(shape, inputs, outputs, &device);
        let bias = self.bias.then(|| Initializer::Zeros.init([self.classes], &device));
        Ok(MarginHead::from_parts(weights, bias, Arc::new(loss)))
    }
}
