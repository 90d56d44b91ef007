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

/// The last layer of a network that learns embeddings: class weights (C, D), a bias (C) for
/// Softmax, and a margin loss.
///
/// ```text
/// L = 1/N · Σ_i log(1 + exp(S_i − z_iy)),    S_i = log Σ_{j≠y} exp z_ij
/// ```
///
/// The logits z are those of any [`MarginLoss`]. The loss is one operation of candle's graph. Its
/// backward pass is the exact gradient of margin-softmax, and no N×C array is stored.
///
/// **Memory.** Class weights and bias are in main memory, whatever the device of the network. The
/// embeddings are copied to main memory, and their gradient and the loss are copied back. A head
/// that is too large for the GPU can still be trained.
///
/// **Types.** F32 or F64, the same for embeddings, class weights and bias. The caller converts
/// half-precision embeddings with `embeddings.to_dtype(DType::F32)`, which candle differentiates.
///
/// **Errors.** Every method returns candle's error. If the core returned an error,
/// [`refusal`](crate::refusal) extracts it, with argument, position and value.
///
/// A clone shares class weights, loss and buffers. Steps of one head on several threads run one
/// after the other, because one step uses all of rayon's threads.
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

/// The inputs of a step, borrowed from the tensors.
struct Inputs<'a, F> {
    embeddings: ArrayView2<'a, F>,
    weight: ArrayView2<'a, F>,
    bias: Option<ArrayView1<'a, F>>,
}

/// Calls a generic method with the type of a head's class weights.
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
    /// Creates a head for embeddings of dimension `dims` (D) and `classes` classes (C), without a
    /// bias.
    ///
    /// The class weights are the variable `weight` of `vb`, in main memory whatever the device of
    /// the builder. New weights are drawn from a normal distribution with variance 1/D, so that
    /// their directions are uniform and their norms close to 1.
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

    /// Creates a head with a bias, the variable `bias` of `vb`, which starts at 0. Only Softmax has
    /// a bias.
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
    /// If any input is tracked, as class weights that are variables always are, the gradients are
    /// computed here, together with the loss. [`evaluate`](Self::evaluate) computes the loss alone,
    /// for a third of the cost. The backward pass may run any number of times. It treats the
    /// gradients as constants, so that second derivatives are not available.
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, labels that are not integers, and the
    /// errors of [`Head::forward_backward`]. The error for a label out of range contains its row.
    pub fn forward(&self, embeddings: &Tensor, labels: &Tensor) -> Result<Tensor> {
        for_its_type!(self.mean_loss(embeddings, labels))
    }

    /// Returns the loss like [`forward`](Self::forward), and the loss, margin-free prediction and
    /// target angle of each sample, with the margin-free accuracy. `F` is the type of the class
    /// weights, `f32` or `f64`.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and an `F` that is not the type of the class weights.
    pub fn forward_detailed<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<(Tensor, Forward<F>)> {
        let device = embeddings.device();
        // The move from another device is a separate node, which moves the gradient back.
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

    /// Computes losses, accuracy and angles without gradients, for held-out samples. `F` is the
    /// type of the class weights, `f32` or `f64`.
    ///
    /// # Errors
    /// Those of [`forward_detailed`](Self::forward_detailed).
    pub fn evaluate<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Forward<F>> {
        let labels = self.labels(labels)?;
        self.with_inputs(embeddings, |inputs| self.head().forward(&inputs.batch(&labels)?))
    }

    /// The logits for inference (N, C), without margin: `a_ij · cos θ_ij`, plus the bias of
    /// Softmax. They are on the device of the embeddings and not differentiable.
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
    /// Embeddings of another type than the class weights, and the errors of
    /// [`NormalizedLogits::new`] and [`MarginLoss::margin_free_logits`].
    pub fn logits(&self, embeddings: &Tensor) -> Result<Tensor> {
        for_its_type!(self.logits_of(embeddings))?.to_device(embeddings.device())
    }

    /// The nearest class of every embedding (N, u32), without margin, on the device of the
    /// embeddings. The memory does not grow with C.
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, and the errors of [`Head::predict`].
    pub fn predict(&self, embeddings: &Tensor) -> Result<Tensor> {
        let classes = for_its_type!(self.nearest(embeddings))?;
        let classes = classes.into_iter().map(|class| Ok(u32::try_from(class)?));
        Tensor::new(classes.collect::<Result<Vec<_>>>()?, embeddings.device())
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
        self.head().loss().clone()
    }

    /// Replaces the loss from the next step of this head and its clones on, for annealing and
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

    /// Borrows embeddings, class weights and bias.
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

    /// Locks the engine. A poisoned lock is no error: a step takes the buffers out of the engine
    /// and puts them back at its end, so that a panic cannot leave them half-written.
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
