//! Configuration of a head.

use std::sync::Arc;

use burn::config::Config;
use burn::module::Initializer;
use burn::tensor::{DType, Device};
use margin_softmax::{Error, MarginLoss, Scale};

use crate::MarginHead;
use crate::graph::check_supported;
use crate::memory::main_memory;
use crate::operations::device_error;

/// The size and the initialization of a [`MarginHead`].
///
/// | field | default | meaning |
/// |---|---|---|
/// | `dims` | | D, the dimension of an embedding, at least 1 |
/// | `classes` | | C, the number of classes, at least 1 |
/// | `sub_centers` | 1 | K, rows of class weights for each class, at least 1 |
/// | `bias` | false | a bias, initially 0; [`Softmax`](margin_softmax::Softmax) only |
/// | `initializer` | normal, mean 0, standard deviation 0.01 | distribution of the class weights |
/// | `on_device` | false | class weights on the network's device: [`on_device`](Self::on_device) |
/// | `rows_per_shard` | 128 MiB of them | on the device: rows of class weights in one tensor |
/// | `rows_per_tile` | 2²¹/N, at least 2048; 2¹⁷/N and 512 on Flex | on the device: rows of class weights in one product |
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
    /// K, the number of sub-centers of each class; see [`MarginHead::with_sub_centers`].
    #[config(default = 1)]
    pub sub_centers: usize,
    /// Whether the logits have a bias. Softmax only.
    #[config(default = false)]
    pub bias: bool,
    /// The distribution of the initial class weights.
    #[config(default = "Initializer::Normal { mean: 0.0, std: 0.01 }")]
    pub initializer: Initializer,
    /// Whether the class weights are on the network's device, instead of in main memory.
    #[config(default = false)]
    pub on_device: bool,
    /// On the device: the most rows of class weights in one tensor, rounded to whole classes.
    /// Devices bind no tensors of any size; 128 MiB is what Vulkan and WebGPU promise. Burn's
    /// clipping by norm is of each tensor alone, and so is the state of an optimizer: keep this
    /// number to continue a run.
    #[config(default = "None")]
    pub rows_per_shard: Option<usize>,
    /// On the device: the rows of class weights in one product, rounded to whole classes. Fewer take
    /// less memory, more take fewer launches.
    #[config(default = "None")]
    pub rows_per_tile: Option<usize>,
}

/// The bytes of a shard, unless its rows are set.
const SHARD_BYTES: usize = 128 << 20;

impl MarginHeadConfig {
    /// The class weights live on the network's device, and so do products and exponentials; what must
    /// be exact in f64, the N target pairs, is computed on the CPU. Main memory, the default, holds
    /// what does not fit on the device.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use margin_softmax::ArcFace;
    /// use margin_softmax_burn::MarginHeadConfig;
    ///
    /// let device = Device::flex().autodiff(); // or that of a graphics card
    /// let config = MarginHeadConfig::new(2, 3).on_device();
    /// let head = config.init(ArcFace::default(), &device)?;
    /// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// let loss = head.forward(x, Tensor::from_ints([0, 2], &device))?;
    /// assert!(head.weights.grad(&loss.backward()).is_some());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn on_device(self) -> Self {
        self.with_on_device(true)
    }

    /// Creates a head with this loss. Its parameters are in main memory, or if they are to be
    /// [`on_device`](Self::on_device) on `device`, and of burn's default float type there. They are
    /// trained if `device` is an autodiff device.
    ///
    /// # Errors
    /// [`Error::Empty`] for no dimensions, no classes or no sub-centers, [`Error::Bias`] for a bias
    /// with any loss but Softmax, [`Error::Parameter`] for no rows per shard or per tile,
    /// [`Error::Device`] for a device that is not supported, or that cannot hold the parameters.
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
        check_rows("rows per shard", self.rows_per_shard)?;
        check_rows("rows per tile", self.rows_per_tile)?;
        let place = if self.on_device { device.clone() } else { main_memory(device) };
        if self.on_device {
            check_supported(device)?;
        }
        let bytes = DType::from(place.settings().float_dtype).size() * self.dims;
        let fitting = self.rows_per_shard.unwrap_or((SHARD_BYTES / bytes).max(1));
        let shard = if self.on_device { whole_classes(fitting, self.sub_centers) } else { rows };
        let (inputs, outputs) = (Some(self.dims), Some(rows));
        let mut shards = (0..rows).step_by(shard).map(|first| {
            let shape = [shard.min(rows - first), self.dims];
            self.initializer.init_with(shape, inputs, outputs, &place)
        });
        let weights = shards.next().expect("there is a row");
        let shards: Vec<_> = shards.collect();
        let bias = self.bias.then(|| Initializer::Zeros.init([rows], &place));
        let head = MarginHead::from_parts(weights, shards, bias, Arc::new(loss));
        let head = head.with_sub_centers(self.sub_centers);
        if !self.on_device {
            return Ok(head);
        }
        let head = head.with_weights_on_device(self.rows_per_tile);
        // What the device cannot hold is reported here.
        head.all_weights().for_each(|shard| drop(shard.val()));
        device.sync().map_err(|error| device_error(device, &error.to_string()))?;
        Ok(head)
    }
}

fn check_rows(parameter: &'static str, rows: Option<usize>) -> Result<(), Error> {
    match rows {
        Some(0) => Err(Error::Parameter { parameter, value: 0.0, expected: ">= 1" }),
        _ => Ok(()),
    }
}

/// As many whole classes of `k` rows as fit into `rows`, at least one.
pub(crate) fn whole_classes(rows: usize, k: usize) -> usize {
    (rows / k).max(1) * k
}
