//! The module: class weights and a loss.

mod module;

use std::sync::{Arc, Mutex};

use burn::module::Param;
use burn::tensor::{DType, Int, Tensor, TensorData};
use margin_softmax::{
    Error, Forward, Gradients, Head, MarginLoss, NormalizedLogits, Reduction, ZeroEmbedding,
};

use crate::inputs::Inputs;
use crate::memory::{Precision, labels_of, on_device, with_dtype};

type Engine = Head<Arc<dyn MarginLoss>>;

/// A margin-based softmax loss with its class weights, as a burn module.
///
/// [`MarginHeadConfig`](crate::MarginHeadConfig) creates it. The record holds `weights` and, if
/// present, `bias`, but not the loss. Both parameters are in main memory and stay there:
/// [`to_device`](burn::module::Module::to_device) and [`fork`](burn::module::Module::fork) move
/// only the other parts of a model. Embeddings and labels may be on any device and of any float and
/// integer type. The head computes in f64 if the class weights are f64, and in f32 otherwise.
///
/// A clone shares the work buffers, which has no effect on results.
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
    /// The class weights (C, D).
    pub weights: Param<Tensor<2>>,
    /// The bias of the logits (C), for Softmax only.
    pub bias: Option<Param<Tensor<1>>>,
    loss: Arc<dyn MarginLoss>,
    zero: ZeroEmbedding,
    /// Kept between steps for its buffers.
    engine: Arc<Mutex<Engine>>,
}

impl MarginHead {
    pub(crate) fn from_parts(
        weights: Param<Tensor<2>>,
        bias: Option<Param<Tensor<1>>>,
        loss: Arc<dyn MarginLoss>,
    ) -> Self {
        let zero = ZeroEmbedding::default();
        let engine = Arc::new(Mutex::new(Head::new(loss.clone())));
        MarginHead { weights, bias, loss, zero, engine }
    }

    /// Sets the rule for zero embeddings. By default they are an error.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        let engine = Head::new(self.loss.clone()).with_zero_embeddings(zero);
        MarginHead { zero, engine: Arc::new(Mutex::new(engine)), ..self }
    }

    /// The loss.
    pub fn loss(&self) -> &dyn MarginLoss {
        &*self.loss
    }

    /// Replaces the loss, for margin schedules and annealing. Class weights and bias are kept.
    pub fn set_loss(&mut self, loss: impl MarginLoss + 'static) {
        self.loss = Arc::new(loss);
    }

    /// The mean loss of a batch (1), recorded as one operation of the autodiff graph with gradients
    /// with respect to embeddings, class weights and bias.
    ///
    /// **Shapes**: embeddings (N, D), `labels` (N) in 0..C. The loss has the device and float type
    /// of the embeddings. The gradients are computed together with the loss, and only if an input
    /// requires one.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Empty`], [`Error::Label`] (which shows a negative label as
    /// `usize::MAX`), [`Error::Bias`], [`Error::NonFinite`], [`Error::DegenerateNorm`],
    /// [`Error::Overflow`], [`Error::Target`].
    pub fn forward(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        match self.weights.dtype() {
            DType::F64 => Ok(self.forward_detailed::<f64>(embeddings, labels)?.0),
            _ => Ok(self.forward_detailed::<f32>(embeddings, labels)?.0),
        }
    }

    /// Returns the loss like [`forward`](Self::forward), and the loss, target angle and margin-free
    /// prediction of each sample, with the margin-free accuracy, at no extra cost.
    ///
    /// `F` is the type that the head computes in, whatever the type of the class weights.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_detailed<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<(Tensor<1>, Forward<F>), Error> {
        let embeddings = embeddings.dequantize();
        let (device, dtype) = (embeddings.device(), embeddings.dtype());
        let (labels, inputs) = (labels_of(labels), Inputs::<F>::of(self, embeddings));
        let arrays = inputs.arrays()?;
        let batch = arrays.batch(&labels)?;
        if !inputs.is_tracked() {
            let forward = self.with_engine(|engine| engine.forward(&batch))?;
            let loss = TensorData::new(vec![forward.mean()], [1]);
            return Ok((Tensor::from_data(loss, (&device, dtype)), forward));
        }
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = self.with_engine(|engine| {
            engine.forward_backward(&batch, Reduction::Mean, &mut gradients)
        })?;
        let loss = inputs.record(forward.mean(), gradients);
        Ok((on_device(with_dtype(loss, dtype), &device), forward))
    }

    /// The logits for inference (N, C), without margin: for [`Scale::Fixed`](margin_softmax::Scale)
    /// the scaled cosines. They have the device and float type of the embeddings and are not part
    /// of an autodiff graph.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Empty`], [`Error::Bias`], [`Error::NonFinite`],
    /// [`Error::DegenerateNorm`], [`Error::Overflow`].
    pub fn logits(&self, embeddings: Tensor<2>) -> Result<Tensor<2>, Error> {
        match self.weights.dtype() {
            DType::F64 => self.logits_in::<f64>(embeddings),
            _ => self.logits_in::<f32>(embeddings),
        }
    }

    fn logits_in<F: Precision>(&self, embeddings: Tensor<2>) -> Result<Tensor<2>, Error> {
        let embeddings = embeddings.dequantize();
        let (device, dtype) = (embeddings.device().without_autodiff(), embeddings.dtype());
        let inputs = Inputs::<F>::of(self, embeddings);
        let arrays = inputs.arrays()?;
        let mut logits = NormalizedLogits::new(&arrays.embeddings, &arrays.weights)?;
        if let Some(bias) = &arrays.bias {
            logits = logits.with_bias(bias)?;
        }
        let logits = self.loss.margin_free_logits(&logits)?;
        let shape = [logits.nrows(), logits.ncols()];
        let logits = TensorData::new(logits.into_raw_vec_and_offset().0, shape);
        Ok(Tensor::from_data(logits, (&device, dtype)))
    }

    /// The nearest class of every embedding (N), without margin; of equally near classes the one
    /// with the lowest index. The memory does not grow with C.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn predict(&self, embeddings: Tensor<2>) -> Result<Tensor<1, Int>, Error> {
        match self.weights.dtype() {
            DType::F64 => self.predict_in::<f64>(embeddings),
            _ => self.predict_in::<f32>(embeddings),
        }
    }

    fn predict_in<F: Precision>(&self, embeddings: Tensor<2>) -> Result<Tensor<1, Int>, Error> {
        let device = embeddings.device().without_autodiff();
        let inputs = Inputs::<F>::of(self, embeddings);
        let arrays = inputs.arrays()?;
        let nearest = self.with_engine(|engine| {
            engine.predict(&arrays.embeddings, &arrays.weights, arrays.bias.as_deref())
        })?;
        let nearest: Vec<i64> = nearest.into_iter().map(|class| class as i64).collect();
        let count = nearest.len();
        Ok(Tensor::from_data(TensorData::new(nearest, [count]), &device))
    }

    /// Runs `f` on the stored engine, or on a new one while a clone of this head on another thread
    /// uses it. Waiting could deadlock if both are tasks of one thread pool.
    fn with_engine<T>(&self, run: impl FnOnce(&mut Engine) -> T) -> T {
        match self.engine.try_lock() {
            Ok(mut engine) => {
                *engine.loss_mut() = self.loss.clone();
                run(&mut engine)
            }
            Err(_) => run(&mut Head::new(self.loss.clone()).with_zero_embeddings(self.zero)),
        }
    }
}
