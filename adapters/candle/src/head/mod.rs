//! The head: class weights and a loss.

mod inference;
mod on_device;
mod self_check;
mod training;

pub use inference::NO_CLASS;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, WithDType};
use candle_nn::{Init, VarBuilder};
use margin_softmax::offload::Settings;
use margin_softmax::{Head, MarginLoss, Real, Scale};
use margin_softmax_device::{Parameters, SharedHead, Step};

use crate::check::{in_main_memory, not_empty, same_type, unsupported};
use crate::error::refused;
use crate::node::Parents;
use crate::operations::OnCandle;

/// The last layer of a network that learns embeddings: class weights (C, D), a bias (C) for
/// Softmax, and a margin loss.
///
/// ```text
/// L_i = log(1 + exp(S_i − z_iy)),    S_i = log Σ_{j≠y} exp z_ij
/// ```
///
/// The logits z are those of any [`MarginLoss`]. The losses of a batch are one operation of
/// candle's graph. Its backward pass is the exact gradient of margin-softmax, and no N×C array is
/// stored.
///
/// **Memory.** Class weights and bias are in main memory, whatever the device of the network. The
/// embeddings are copied to main memory, and their gradient and the loss are copied back. A head
/// that is too large for the GPU can still be trained. One made by [`on_device`](Self::on_device)
/// has them on the network's device instead.
///
/// **Types.** F32 or F64, the same for embeddings, class weights and bias. The caller converts
/// half-precision embeddings with `embeddings.to_dtype(DType::F32)`, which candle differentiates.
///
/// **Frozen parts.** Embeddings that are not tracked, and class weights that are not variables,
/// get no gradient, and none is computed for them.
///
/// **Errors.** Every method returns candle's error. If the core returned an error,
/// [`refusal`](crate::refusal) extracts it, with argument, position and value.
///
/// **Threads.** Steps of one head may run side by side, on threads and inside rayon's, each with
/// its own buffers. Nothing is locked during a step but candle's own read lock on the tensors: do
/// not overwrite a variable while a step reads it. A clone shares class weights and loss.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use margin_softmax::ArcFace;
/// use margin_softmax_candle::MarginHead;
///
/// let map = VarMap::new();
/// let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
/// let head = MarginHead::new(ArcFace::new(64.0, 0.5)?, 3, 10, vb.pp("head"))?;
///
/// let embeddings = Tensor::randn(0.0_f32, 1.0, (4, 3), &Device::Cpu)?;
/// let labels = Tensor::new(&[1_u32, 0, 9, 4], &Device::Cpu)?;
/// let loss = head.forward(&embeddings, &labels)?;
/// let gradients = loss.backward()?;
/// assert_eq!(gradients.get(head.weight()).unwrap().dims(), [10, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MarginHead {
    weight: Tensor,
    bias: Option<Tensor>,
    ignored: Option<i64>,
    sub_centers: usize,
    engine: SharedHead,
    /// Whether the sweeps over the classes run on the device of the class weights.
    on_device: bool,
    rows_per_tile: Option<usize>,
}

/// Calls a generic method with the type of a head's class weights.
macro_rules! for_its_type {
    ($head:ident . $method:ident ( $($argument:expr),* )) => {
        match $head.weight.dtype() {
            candle_core::DType::F32 => $head.$method::<f32>($($argument),*),
            candle_core::DType::F64 => $head.$method::<f64>($($argument),*),
            dtype => Err($crate::check::unsupported(dtype)),
        }
    };
}
use for_its_type;

impl MarginHead {
    /// Creates a head for embeddings of dimension `dims` (D) and `classes` classes (C), without a
    /// bias.
    ///
    /// The class weights are the variable `weight` of `vb`, in main memory whatever the device of
    /// the builder. New weights are drawn from a normal distribution with variance 1/D, so that
    /// their directions are uniform and their norms close to 1.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::CosFace;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let head = MarginHead::new(CosFace::default(), 128, 1000, vb.pp("head"))?;
    /// assert_eq!(head.weight().dims(), [1000, 128]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// No classes or no dimensions, a type other than F32 and F64, and errors of `vb`.
    pub fn new(
        loss: impl MarginLoss + 'static,
        dims: usize,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = class_weights(dims, classes, &vb.set_device(Device::Cpu))?;
        Self::from_parts(Head::new(Arc::new(loss)), weight, None)
    }

    /// Creates a head with a bias, the variable `bias` (C) of `vb`, which starts at 0. Only Softmax
    /// has a bias.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::Softmax;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let head = MarginHead::with_bias(Softmax::new(), 128, 1000, vb.pp("head"))?;
    /// assert_eq!(head.bias().map(|bias| bias.dims()), Some(&[1000][..]));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`margin_softmax::Error::Bias`] for an angular loss.
    pub fn with_bias(
        loss: impl MarginLoss + 'static,
        dims: usize,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let vb = vb.set_device(Device::Cpu);
        let weight = class_weights(dims, classes, &vb)?;
        let bias = vb.get_with_hints(classes, "bias", candle_nn::init::ZERO)?;
        Self::from_parts(Head::new(Arc::new(loss)), weight, Some(bias))
    }

    /// Creates a head from existing class weights (C, D) and bias (C), and from a configured
    /// [`Head`], for example with a memory budget or a rule for zero embeddings.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use candle_core::{Device, Var};
    /// use margin_softmax::{CosFace, Head, ZeroEmbedding};
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let weight = Var::randn(0.0_f32, 1.0, (10, 3), &Device::Cpu)?;
    /// let head = Head::new(Arc::new(CosFace::default()) as _)
    ///     .with_zero_embeddings(ZeroEmbedding::Skip);
    /// let head = MarginHead::from_parts(head, weight.as_tensor().clone(), None)?;
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Tensors that are not in main memory, not F32 or F64, or whose shapes do not agree, and a
    /// bias with an angular loss.
    pub fn from_parts(
        head: Head<Arc<dyn MarginLoss>>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        in_main_memory("class weights", &weight)?;
        if let Some(bias) = &bias {
            in_main_memory("bias", bias)?;
        }
        Self::from_checked_parts(head, weight, bias)
    }

    fn from_checked_parts(
        head: Head<Arc<dyn MarginLoss>>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        let (classes, dims) = weight.dims2()?;
        not_empty(classes, dims)?;
        if !matches!(weight.dtype(), DType::F32 | DType::F64) {
            return Err(unsupported(weight.dtype()));
        }
        if let Some(bias) = &bias {
            same_type("the bias has the type of the class weights", weight.dtype(), bias)?;
            if bias.dims() != [classes] {
                let (expected, actual) = (vec![classes], bias.dims().to_vec());
                let argument = "bias";
                return Err(refused(margin_softmax::Error::Shape { argument, expected, actual }));
            }
            if head.loss().scale() != Scale::Unnormalized {
                return Err(refused(margin_softmax::Error::Bias));
            }
        }
        Ok(MarginHead {
            weight,
            bias,
            ignored: None,
            sub_centers: 1,
            engine: SharedHead::new(head),
            on_device: false,
            rows_per_tile: None,
        })
    }

    /// The same head, which ignores the samples with this label, such as -1 or -100: their loss
    /// and gradient are 0, they do not count in the mean or the accuracy, and their prediction in
    /// [`Forward`](margin_softmax::Forward) is [`IGNORED`](margin_softmax::IGNORED).
    ///
    /// Without this call a negative label is an error. The label may also be the number of a class.
    /// Where all samples are ignored, the mean is 0.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let head = MarginHead::new(CosFace::default(), 3, 10, vb)?.with_ignored_label(-1);
    /// let x = Tensor::randn(0.0_f32, 1.0, (3, 3), &Device::Cpu)?;
    /// let labels = Tensor::new(&[4_i64, -1, 9], &Device::Cpu)?;
    /// let forward = head.evaluate::<f32>(&x, &labels)?;
    /// assert_eq!((forward.counted(), forward.losses[1]), (2, 0.0));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn with_ignored_label(self, label: i64) -> Self {
        MarginHead { ignored: Some(label), ..self }
    }

    /// The same head, of whose class weights every `k` rows in turn belong to one class: a sample's
    /// cosine with a class is that with the nearest of them; see
    /// [`Batch::with_sub_centers`](margin_softmax::Batch::with_sub_centers). Make the head with C·K
    /// rows. Where their number is no multiple of `k`, every step is refused.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::ArcFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let (classes, k) = (10, 3);
    /// let head = MarginHead::new(ArcFace::default(), 2, classes * k, vb)?.with_sub_centers(k);
    /// let x = Tensor::new(&[[0.3_f32, 0.1], [1.0, 2.0]], &Device::Cpu)?;
    /// let forward = head.evaluate::<f32>(&x, &Tensor::new(&[0_u32, 9], &Device::Cpu)?)?;
    /// assert!(forward.sub_centers().iter().all(|&chosen| chosen < k));
    /// # Ok::<(), candle_core::Error>(())
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
    /// [`margin_softmax::Error::Precision`].
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::{CosFace, Precision, ZeroEmbedding};
    /// use margin_softmax_candle::{MarginHead, Settings};
    ///
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let settings = Settings::default()
    ///     .with_zero_embeddings(ZeroEmbedding::Skip)
    ///     .with_precision(Precision::Bf16)
    ///     .with_memory_budget(1 << 20);
    /// let head = MarginHead::new(CosFace::default(), 2, 10, vb)?.with_settings(settings);
    /// let x = Tensor::new(&[[0.0_f32, 0.0], [1.0, 2.0]], &Device::Cpu)?;
    /// let forward = head.evaluate::<f32>(&x, &Tensor::new(&[0_u32, 7], &Device::Cpu)?)?;
    /// assert_eq!((forward.counted(), forward.losses[0]), (1, 0.0));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn with_settings(self, settings: Settings) -> Self {
        let engine = self.engine.with(|core| core.with_settings(settings));
        MarginHead { engine, ..self }
    }

    /// The class weights (C, D).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (C), if the head has one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The loss.
    pub fn loss(&self) -> Arc<dyn MarginLoss> {
        self.engine.core().loss().clone()
    }

    /// Replaces the loss from the next step on, for annealing and margin schedules, in this head
    /// **and in all its clones**. Class weights and bias are kept. A step that is running, and the
    /// backward pass of [`losses`](Self::losses) that were computed before, keep the loss that they
    /// started with.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::SphereFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(SphereFace::default(), 3, 10, vb)?;
    /// # let embeddings = Tensor::randn(0.0_f32, 1.0, (4, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[1_u32, 0, 9, 4], &Device::Cpu)?;
    /// for step in 0..3 {
    ///     let lambda = f64::max(5.0, 1000.0 / (1.0 + 0.12 * f64::from(step)));
    ///     head.set_loss(SphereFace::new(4)?.with_annealing(lambda)?);
    ///     let loss = head.forward(&embeddings, &labels)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_loss(&self, loss: impl MarginLoss + 'static) {
        self.engine.set_loss(Arc::new(loss));
    }

    /// The embeddings where the head computes, and a step over them.
    fn step<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
    ) -> Result<(Tensor, Step<OnCandle<F>>)> {
        same_type("the class weights have another type", F::DTYPE, &self.weight)?;
        same_type("embeddings take the type of the class weights", F::DTYPE, embeddings)?;
        let device = self.weight.device();
        // The move from another device is a separate node, which moves the gradient back.
        let x = embeddings.to_device(device)?;
        x.dims2()?;
        let plain = |tensor: &Tensor| match self.on_device {
            true => tensor.detach().contiguous(),
            false => Ok(tensor.detach()),
        };
        let bias = self.bias.as_ref().map(|bias| plain(&bias.unsqueeze(0)?));
        let parameters = Parameters {
            embeddings: plain(&x)?,
            shards: vec![plain(&self.weight)?],
            bias: bias.transpose()?,
            sub_centers: self.sub_centers,
            in_memory: !self.on_device,
            rows_per_tile: self.rows_per_tile,
        };
        Ok((x, Step::new(OnCandle::new(device.clone()), parameters)))
    }

    fn parents<'a>(&'a self, embeddings: &'a Tensor) -> Parents<'a> {
        Parents { embeddings, weight: &self.weight, bias: self.bias.as_ref() }
    }
}

fn class_weights(dims: usize, classes: usize, vb: &VarBuilder) -> Result<Tensor> {
    not_empty(classes, dims)?;
    let init = Init::Randn { mean: 0.0, stdev: (dims as f64).sqrt().recip() };
    vb.get_with_hints((classes, dims), "weight", init)
}
