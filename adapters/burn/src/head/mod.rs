//! The module: class weights and a loss.

mod inference;
mod module;
mod records;
mod self_check;
mod training;

pub use inference::NO_CLASS;

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::Tensor;
use margin_softmax::offload::Settings;
use margin_softmax::{Head, MarginLoss};
use margin_softmax_device::SharedHead;

/// A margin-based softmax loss with its class weights, as a burn module.
///
/// ```text
/// L_i = log(1 + exp(S_i − z_iy)),    S_i = log Σ_{j≠y} exp z_ij
/// ```
///
/// [`MarginHeadConfig`](crate::MarginHeadConfig) creates it. The record holds `weights` and, if
/// present, `shards` and `bias`, K and the size of the shards, but not the loss. It loads into any
/// number of shards; the state of an optimizer for them then starts from zero. Unless the head was made
/// [`on_device`](crate::MarginHeadConfig::on_device), both parameters are in main memory and stay
/// there: [`to_device`](burn::module::Module::to_device) and [`fork`](burn::module::Module::fork)
/// move only the other parts of a model. Embeddings and labels may be on any device and of any float and
/// integer type. The head computes in f64 if the class weights are f64, and in f32 otherwise.
///
/// **Frozen parts.** Embeddings and class weights that need no gradient get none, and none is
/// computed for them.
///
/// **Threads.** Steps of one head may run side by side, on threads and inside rayon's, each with
/// its own buffers and without a lock. A clone shares the loss; see [`set_loss`](Self::set_loss).
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use margin_softmax::ArcFace;
/// use margin_softmax_burn::MarginHeadConfig;
///
/// let device = Device::flex().autodiff();
/// let head = MarginHeadConfig::new(2, 3).init(ArcFace::new(16.0, 0.5)?, &device)?;
/// let embeddings = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device).require_grad();
/// let labels = Tensor::<1, Int>::from_ints([0, 2], &device);
///
/// let gradients = head.forward(embeddings.clone(), labels)?.backward();
/// assert_eq!(embeddings.grad(&gradients).map(|g| g.dims()), Some([2, 2]));
/// assert_eq!(head.weights.grad(&gradients).map(|g| g.dims()), Some([3, 2]));
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MarginHead {
    /// The class weights (C, D); with K sub-centers (C·K, D). Of a head on the device, the first
    /// of its shards.
    pub weights: Param<Tensor<2>>,
    /// The class weights that follow those of `weights`, shard by shard: of a head on the device
    /// that has more rows than a shard holds. Else empty.
    pub shards: Vec<Param<Tensor<2>>>,
    /// The bias of the logits (C), for Softmax only.
    pub bias: Option<Param<Tensor<1>>>,
    ignored: Option<i64>,
    sub_centers: usize,
    on_device: Option<OnDevice>,
    engine: SharedHead,
}

/// What a head on the device needs to know besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnDevice {
    /// Rows of class weights in a tile, where they are set.
    pub rows_per_tile: Option<usize>,
}

/// Calls a generic method with the type that the head computes in.
macro_rules! in_its_type {
    ($head:ident . $method:ident ( $($argument:expr),* )) => {
        match $head.weights.dtype() {
            burn::tensor::DType::F64 => $head.$method::<f64>($($argument),*),
            _ => $head.$method::<f32>($($argument),*),
        }
    };
}
use in_its_type;

impl MarginHead {
    pub(crate) fn from_parts(
        weights: Param<Tensor<2>>,
        shards: Vec<Param<Tensor<2>>>,
        bias: Option<Param<Tensor<1>>>,
        loss: Arc<dyn MarginLoss>,
    ) -> Self {
        let engine = SharedHead::new(Head::new(loss));
        MarginHead { weights, shards, bias, ignored: None, sub_centers: 1, on_device: None, engine }
    }

    /// Whether the class weights are on the network's device, instead of in main memory.
    pub fn is_on_device(&self) -> bool {
        self.on_device.is_some()
    }

    /// The class weights in all shards, in the order of the classes.
    pub fn all_weights(&self) -> impl Iterator<Item = &Param<Tensor<2>>> {
        std::iter::once(&self.weights).chain(&self.shards)
    }

    /// The same, to be replaced.
    pub fn all_weights_mut(&mut self) -> impl Iterator<Item = &mut Param<Tensor<2>>> {
        std::iter::once(&mut self.weights).chain(&mut self.shards)
    }

    /// The same head, whose class weights are on the device.
    pub(crate) fn with_weights_on_device(self, rows_per_tile: Option<usize>) -> Self {
        MarginHead { on_device: Some(OnDevice { rows_per_tile }), ..self }
    }

    pub(crate) fn rows_per_tile(&self) -> Option<usize> {
        self.on_device.and_then(|settings| settings.rows_per_tile)
    }

    /// The same head, which ignores the samples with this label, such as -1 or -100: their loss
    /// and gradient are 0, they do not count in the mean or the accuracy, and their prediction in
    /// [`Forward`](margin_softmax::Forward) is [`IGNORED`](margin_softmax::IGNORED).
    ///
    /// Without this call a negative label is an error. The label may also be the number of a class.
    /// Where all samples are ignored, the mean is 0.
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex();
    /// let head =
    ///     MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?.with_ignored_label(-1);
    /// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// let labels = Tensor::<1, Int>::from_ints([-1, 2], &device);
    /// let forward = head.evaluate::<f32>(x, labels)?;
    /// assert_eq!((forward.counted(), forward.losses[0]), (1, 0.0));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_ignored_label(self, label: i64) -> Self {
        MarginHead { ignored: Some(label), ..self }
    }

    /// The same head, of whose class weights every `k` rows in turn belong to one class: a sample's
    /// cosine with a class is that with the nearest of them; see
    /// [`Batch::with_sub_centers`](margin_softmax::Batch::with_sub_centers).
    /// [`MarginHeadConfig`](crate::MarginHeadConfig) makes the rows. Where their number is no
    /// multiple of `k`, every step is refused.
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use margin_softmax::ArcFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex();
    /// let config = MarginHeadConfig::new(2, 3).with_sub_centers(4);
    /// let head = config.init(ArcFace::default(), &device)?;
    /// assert_eq!(head.weights.dims(), [12, 2]);
    /// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// let forward = head.evaluate::<f32>(x, Tensor::from_ints([0, 2], &device))?;
    /// assert!(forward.sub_centers().iter().all(|&chosen| chosen < 4));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_sub_centers(self, k: usize) -> Self {
        MarginHead { sub_centers: k, ..self }
    }

    /// K, the number of sub-centers of each class.
    pub fn sub_centers(&self) -> usize {
        self.sub_centers
    }

    /// The same head with other settings: the memory for logits between the two passes over the
    /// classes where N > D, the rule for zero embeddings, and the precision of the matrix products.
    /// On the device the rule alone has an effect. The head no longer shares its loss with earlier
    /// clones.
    ///
    /// Zero embeddings are an error by default. [`logits`](Self::logits) are always at full
    /// precision. With class weights in f64 every precision but
    /// [`Precision::Full`](margin_softmax::Precision::Full) is refused, as
    /// [`Error::Precision`](margin_softmax::Error::Precision).
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// use margin_softmax::{CosFace, Precision, ZeroEmbedding};
    /// use margin_softmax_burn::Settings;
    ///
    /// # let device = Device::flex();
    /// let settings = Settings::default()
    ///     .with_zero_embeddings(ZeroEmbedding::Skip)
    ///     .with_precision(Precision::Bf16)
    ///     .with_memory_budget(1 << 20);
    /// let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// let head = head.with_settings(settings);
    /// let x = Tensor::from_floats([[0.0, 0.0], [-0.2, 0.8]], &device);
    /// let forward = head.evaluate::<f32>(x, Tensor::from_ints([0, 2], &device))?;
    /// assert_eq!((forward.counted(), forward.losses[0]), (1, 0.0));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_settings(self, settings: Settings) -> Self {
        let engine = self.engine.with(|core| core.with_settings(settings));
        MarginHead { engine, ..self }
    }

    /// The loss.
    pub fn loss(&self) -> Arc<dyn MarginLoss> {
        self.engine.core().loss().clone()
    }

    /// Replaces the loss from the next step on, for annealing and margin schedules, in this head
    /// **and in all its clones**, those that burn's learner makes among them: keep a clone of the
    /// head to change the loss during a training run. Class weights and bias are kept. A step that
    /// is running, and the backward pass of [`losses`](Self::losses) that were computed before,
    /// keep the loss that they started with.
    ///
    /// ```
    /// # use burn::tensor::Device;
    /// # use margin_softmax::ArcFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex().autodiff();
    /// let head = MarginHeadConfig::new(64, 1000).init(ArcFace::new(64.0, 0.0)?, &device)?;
    /// let schedule = head.clone();
    /// schedule.set_loss(ArcFace::new(64.0, 0.5)?);
    /// assert_eq!(format!("{:?}", head.loss()), format!("{:?}", ArcFace::new(64.0, 0.5)?));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn set_loss(&self, loss: impl MarginLoss + 'static) {
        self.engine.set_loss(Arc::new(loss));
    }
}
