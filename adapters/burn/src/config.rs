//! Configuration of a head.

use std::sync::Arc;

use burn::config::Config;
use burn::module::Initializer;
use burn::tensor::Device;
use margin_softmax::{Error, MarginLoss, Scale};

use crate::MarginHead;
use crate::memory::main_memory;

/// The size and the initialisation of a [`MarginHead`].
///
/// | field | default | meaning |
/// |---|---|---|
/// | `dims` | | D, the dimension of an embedding, at least 1 |
/// | `classes` | | C, the number of classes, at least 1 |
/// | `sub_centers` | 1 | K, rows of class weights for each class, at least 1 |
/// | `bias` | false | a bias, initially 0; [`Softmax`](margin_softmax::Softmax) only |
/// | `initializer` | normal, mean 0, standard deviation 0.01 | distribution of the class weights |
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
    /// D, the dimension of an embedding.
    pub dims: usize,
    /// C, the number of classes.
    pub classes: usize,
    /// K, the number of sub-centres of each class; see [`MarginHead::with_sub_centers`].
    #[config(default = 1)]
    pub sub_centers: usize,
    /// Whether the logits have a bias. Softmax only.
    #[config(default = false)]
    pub bias: bool,
    /// The distribution of the initial class weights.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 0.01 }")]
    pub initializer: Initializer,
}

impl MarginHeadConfig {
    /// Creates a head with this loss. Its parameters are in main memory, whatever `device` is, and
    /// of burn's default float type there. They are trained if `device` is an autodiff device.
    ///
    /// # Errors
    /// [`Error::Empty`] for no dimensions, no classes or no sub-centres, [`Error::Bias`] for a bias with any loss
    /// but Softmax.
    pub fn init(
        &self,
        loss: impl MarginLoss + 'static,
        device: &Device,
    ) -> Result<MarginHead, Error> {
        let rows = self.classes.saturating_mul(self.sub_centers);
        let shape = [rows, self.dims];
        if shape.contains(&0) {
            return Err(Error::Empty { argument: "class weights", actual: shape.to_vec() });
        }
        if self.bias && loss.scale() != Scale::Unnormalized {
            return Err(Error::Bias);
        }
        let device = main_memory(device);
        let (inputs, outputs) = (Some(self.dims), Some(rows));
        let weights = self.initializer.init_with(shape, inputs, outputs, &device);
        let bias = self.bias.then(|| Initializer::Zeros.init([rows], &device));
        let head = MarginHead::from_parts(weights, bias, Arc::new(loss));
        Ok(head.with_sub_centers(self.sub_centers))
    }
}
