use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Result, Tensor, WithDType};
use candle_nn::{Init, VarBuilder};
use margin_softmax::{
    Batch, Forward, Gradients, Head, MarginLoss, NormalizedLogits, Real, Reduction, Scale,
};
use ndarray::{ArrayView1, ArrayView2};

use crate::check::{in_main_memory, not_empty, same_type, unsupported};
use crate::error::{CoreResult, refused};
use crate::{node, tensor};

/// Class weights (C, D), for Softmax also a bias (C), and the margin loss over them: the last layer
/// of a network that learns embeddings.
///
/// $$ L = \frac1N\sum_i \log(1 + e^{S_i - z_{iy}}), \qquad S_i = \log\sum_{j\ne y} e^{z_{ij}} $$
///
/// with the logits $z$ of any [`MarginLoss`]. The loss is one operation of candle's graph; its
/// backward pass is the exact gradient of margin-softmax, and no N×C array is ever held.
///
/// **Where things live.** Class weights and bias are in main memory, wherever the network is; its
/// embeddings cross to them, their gradient and the loss cross back. So a head that is too large
/// for the graphics card still trains.
///
/// **Types.** F32 or F64, the same for embeddings, class weights and bias. Half-precision
/// embeddings are converted by the caller, `embeddings.to_dtype(DType::F32)`; candle carries the
/// gradient back through that.
///
/// **Errors.** Every method answers with candle's error. Where the core refused an input,
/// [`refusal`](crate::refusal) gives its own typed error: argument, place and value.
///
/// A clone shares class weights, loss and buffers. Steps of one head on several threads wait for
/// each other: one step uses all of rayon's threads.
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
    head: Arc<Mutex<Head<Arc<dyn MarginLoss>>>>,
}

/// What a step reads, as it lies in memory.
struct Inputs<'a, F> {
    embeddings: ArrayView2<'a, F>,
    weight: ArrayView2<'a, F>,
    bias: Option<ArrayView1<'a, F>>,
}

/// Runs a generic method for the type of a head's class weights.
macro_rules! for_its_type {
    ($head:ident . $method:ident ( $($argument:expr),* )) => {
        match $head.weight.dtype() {
            DType::F32 => $head.$method::<f32>($($argument),*),
            DType::F64 => $head.$method::<f64>($($argument),*),
            dtype => Err(unsupported(dtype)),
        }
    };
}

impl MarginHead {
    /// A head for embeddings of `dims` (D) numbers and so many `classes` (C), without a bias.
    ///
    /// The class weights are the variable `weight` of `vb`, in main memory whatever the builder's
    /// device. New ones are drawn from the normal distribution with variance 1/D: unit vectors in
    /// every direction, up to rounding in their length.
    ///
    /// # Errors
    /// No class or no dimension, a type that is not F32 or F64, and what `vb` answers.
    pub fn new(
        loss: impl MarginLoss + 'static,
        dims: usize,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = class_weights(dims, classes, &vb.set_device(Device::Cpu))?;
        Self::from_parts(Head::new(Arc::new(loss)), weight, None)
    }

    /// A head with a bias as well, the variable `bias` of `vb`, which starts at 0. Softmax alone
    /// has one.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`margin_softmax::Error::Bias`] for an angular loss.
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

    /// A head of class weights (C, D) and a bias (C) that are there already, and of a
    /// [`Head`] set up otherwise than by default: its memory budget, its rule for zero embeddings.
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
    /// Tensors that are not in main memory, not F32 or F64, or that do not fit each other, and a
    /// bias with an angular loss.
    pub fn from_parts(
        head: Head<Arc<dyn MarginLoss>>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        let (classes, dims) = weight.dims2()?;
        not_empty(classes, dims)?;
        if !matches!(weight.dtype(), DType::F32 | DType::F64) {
            return Err(unsupported(weight.dtype()));
        }
        in_main_memory("class weights", &weight)?;
        if let Some(bias) = &bias {
            in_main_memory("bias", bias)?;
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
        Ok(MarginHead { weight, bias, head: Arc::new(Mutex::new(head)) })
    }

    /// The mean loss of `embeddings` (N, D) with `labels` (N, any integer type): a scalar on the
    /// device of the embeddings, differentiable with respect to embeddings, class weights and bias.
    ///
    /// The gradients are found here, together with the loss, where anything is tracked: class
    /// weights that are variables always are. [`evaluate`](Self::evaluate) is the loss alone, for
    /// a third of the cost. A backward pass may run as often as wanted; the gradients are constants
    /// of it, so second derivatives are not available.
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, labels that are not integers, and every
    /// refusal of [`Head::forward_backward`]. A label out of range is named with its row.
    pub fn forward(&self, embeddings: &Tensor, labels: &Tensor) -> Result<Tensor> {
        for_its_type!(self.mean_loss(embeddings, labels))
    }

    /// As [`forward`](Self::forward), with what the step found besides: the loss of each sample,
    /// margin-free accuracy and predictions, and the target angles that show training work.
    /// `F` is the type of the class weights, `f32` or `f64`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where `F` is not the type of the class weights.
    pub fn forward_detailed<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<(Tensor, Forward<F>)> {
        let device = embeddings.device();
        // A node of its own where the embeddings are elsewhere: it takes the gradient back.
        let x = &embeddings.to_device(&Device::Cpu)?;
        if !x.track_op() && !self.is_tracked() {
            let forward = self.evaluate::<F>(x, labels)?;
            return Ok((Tensor::from_vec(vec![forward.mean()], (), device)?, forward));
        }
        let labels = self.labels(labels)?;
        let (forward, gradients) = self.with_inputs(x, |inputs| {
            let batch = inputs.batch(&labels)?;
            let mut gradients = Gradients::zeros_for(&batch);
            let mut head = self.head();
            let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
            Ok((forward, gradients))
        })?;
        let bias = self.bias.as_ref();
        let loss = node::mean_loss(forward.mean(), gradients, x, &self.weight, bias)?;
        Ok((loss.to_device(device)?, forward))
    }

    /// What [`forward`](Self::forward) says of a batch, without a gradient: held-out loss,
    /// accuracy and angles. `F` is the type of the class weights, `f32` or `f64`.
    ///
    /// # Errors
    /// As [`forward_detailed`](Self::forward_detailed).
    pub fn evaluate<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Forward<F>> {
        let labels = self.labels(labels)?;
        self.with_inputs(embeddings, |inputs| self.head().forward(&inputs.batch(&labels)?))
    }

    /// The logits of inference (N, C), without margin: $a_{ij}\cos\theta_{ij}$, plus the bias of
    /// Softmax. On the device of the embeddings; not differentiable.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::CosFace;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let mut map = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    /// let head = MarginHead::new(CosFace::new(64.0, 0.35)?, 2, 2, vb)?;
    /// map.set_one("weight", Tensor::new(&[[3.0, 0.0], [0.0, 1.0]], &Device::Cpu)?)?;
    ///
    /// let embeddings = Tensor::new(&[[2.0, 0.0]], &Device::Cpu)?;
    /// assert_eq!(head.logits(&embeddings)?.to_vec2::<f64>()?, [[64.0, 0.0]]);
    /// assert_eq!(head.predict(&embeddings)?.to_vec1::<u32>()?, [0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, and every refusal of
    /// [`NormalizedLogits::new`] and [`MarginLoss::margin_free_logits`].
    pub fn logits(&self, embeddings: &Tensor) -> Result<Tensor> {
        for_its_type!(self.logits_of(embeddings))?.to_device(embeddings.device())
    }

    /// The nearest class of every embedding (N, u32), without margin. On the device of the
    /// embeddings. Memory does not grow with C.
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, and every refusal of [`Head::predict`].
    pub fn predict(&self, embeddings: &Tensor) -> Result<Tensor> {
        let classes = for_its_type!(self.nearest(embeddings))?;
        let classes = classes.into_iter().map(|class| Ok(u32::try_from(class)?));
        Tensor::new(classes.collect::<Result<Vec<_>>>()?, embeddings.device())
    }

    /// The class weights (C, D).
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias (C), where there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The loss.
    pub fn loss(&self) -> Arc<dyn MarginLoss> {
        self.head().loss().clone()
    }

    /// Goes on with another loss, from the next step of this head and its clones on: annealing,
    /// margin schedules.
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
        *self.head().loss_mut() = Arc::new(loss);
    }

    fn mean_loss<F: Real + WithDType>(&self, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
        Ok(self.forward_detailed::<F>(x, labels)?.0)
    }

    fn logits_of<F: Real + WithDType>(&self, embeddings: &Tensor) -> Result<Tensor> {
        let logits =
            self.with_inputs::<F, _>(embeddings, |Inputs { embeddings, weight, bias }| {
                let logits = NormalizedLogits::new(&embeddings, &weight)?;
                let logits = match bias {
                    Some(bias) => logits.with_bias(&bias)?,
                    None => logits,
                };
                self.loss().margin_free_logits(&logits)
            })?;
        tensor::tensor(logits)
    }

    fn nearest<F: Real + WithDType>(&self, embeddings: &Tensor) -> Result<Vec<usize>> {
        self.with_inputs::<F, _>(embeddings, |Inputs { embeddings, weight, bias }| {
            self.head().predict(&embeddings, &weight, bias.as_deref())
        })
    }

    /// Reads embeddings, class weights and bias where they lie.
    fn with_inputs<F: Real + WithDType, T>(
        &self,
        embeddings: &Tensor,
        read: impl FnOnce(Inputs<'_, F>) -> CoreResult<T>,
    ) -> Result<T> {
        same_type("the class weights have another type", F::DTYPE, &self.weight)?;
        same_type("embeddings take the type of the class weights", F::DTYPE, embeddings)?;
        let embeddings = embeddings.to_device(&Device::Cpu)?;
        let (x, x_layout) = embeddings.storage_and_layout();
        let (w, w_layout) = self.weight.storage_and_layout();
        let b = self.bias.as_ref().map(Tensor::storage_and_layout);
        let inputs = Inputs {
            embeddings: tensor::matrix(&x, x_layout)?,
            weight: tensor::matrix(&w, w_layout)?,
            bias: b.as_ref().map(|(b, layout)| tensor::vector(b, layout)).transpose()?,
        };
        read(inputs).map_err(refused)
    }

    fn labels(&self, labels: &Tensor) -> Result<Vec<usize>> {
        tensor::labels(labels, self.weight.dim(0)?)
    }

    fn is_tracked(&self) -> bool {
        self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op)
    }

    /// The engine. A panic elsewhere leaves it whole: a step takes its buffers out and puts them
    /// back when it is done.
    fn head(&self) -> MutexGuard<'_, Head<Arc<dyn MarginLoss>>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Real> Inputs<'_, F> {
    fn batch<'a>(&'a self, labels: &'a [usize]) -> CoreResult<Batch<'a, F>> {
        let batch = Batch::new(&self.embeddings, &self.weight, labels)?;
        match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => Ok(batch),
        }
    }
}

fn class_weights(dims: usize, classes: usize, vb: &VarBuilder) -> Result<Tensor> {
    not_empty(classes, dims)?;
    let init = Init::Randn { mean: 0.0, stdev: (dims as f64).sqrt().recip() };
    vb.get_with_hints((classes, dims), "weight", init)
}
