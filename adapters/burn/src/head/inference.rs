//! Losses without gradients, logits and predictions.

use burn::tensor::{DType, Int, Tensor, TensorData};
use margin_softmax::{Error, Forward, IGNORED};

use super::{MarginHead, in_its_type};
use crate::inputs::Inputs;
use crate::memory::{Precision, on_device, read_labels, with_dtype};

/// The prediction of [`MarginHead::predict`] for an embedding that has none.
pub const NO_CLASS: i64 = -1;

impl MarginHead {
    /// Computes losses, accuracy and angles without gradients, for held-out samples: embeddings
    /// (N, D), `labels` (N, any integer type). `F` is the type that the head computes in, `f32` or
    /// `f64`, whatever the type of the class weights.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// let forward = head.evaluate::<f32>(x, Tensor::from_ints([0, 2], &device))?;
    /// println!("loss {:.3}, accuracy {:.2}", forward.mean(), forward.accuracy());
    /// # assert_eq!(forward.losses.len(), 2);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn evaluate<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Forward<F>, Error> {
        let labels = read_labels(labels, self.ignored)?;
        let step = Inputs::of::<F>(self, embeddings.dequantize())?.step::<F>(self);
        step.evaluate(&self.engine.core(), &labels)
    }

    /// The logits for inference (N, C), without margin: `a_ij · cos θ_ij`, plus the bias of
    /// Softmax. They have the device and float type of the embeddings (N, D) and are not part of an
    /// autodiff graph.
    ///
    /// ```
    /// use burn::module::Param;
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex();
    /// let mut head = MarginHeadConfig::new(2, 2).init(CosFace::new(64.0, 0.35)?, &device)?;
    /// let weights = Tensor::from_floats([[3.0, 0.0], [0.0, 1.0]], &device);
    /// head.weights = Param::from_tensor(weights);
    ///
    /// let logits = head.logits(Tensor::from_floats([[2.0, 0.0]], &device))?;
    /// assert_eq!(logits.into_data().iter::<f32>().collect::<Vec<_>>(), [64.0, 0.0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Empty`], [`Error::Bias`], [`Error::NonFinite`],
    /// [`Error::DegenerateNorm`] (also by a head that skips zero embeddings in training),
    /// [`Error::Overflow`].
    pub fn logits(&self, embeddings: Tensor<2>) -> Result<Tensor<2>, Error> {
        in_its_type!(self.logits_in(embeddings))
    }

    /// The nearest class of every embedding (N), without margin, on the device of the embeddings
    /// (N, D); of equally near classes the one with the lowest index. The memory does not grow with
    /// C.
    ///
    /// A zero embedding has no nearest class. If the head skips zero embeddings, it gets
    /// [`NO_CLASS`], which is -1.
    ///
    /// ```
    /// # use burn::module::Param;
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::{CosFace, ZeroEmbedding};
    /// use margin_softmax_burn::{MarginHeadConfig, NO_CLASS, Settings};
    ///
    /// # let device = Device::flex();
    /// let mut head = MarginHeadConfig::new(2, 2)
    ///     .init(CosFace::default(), &device)?
    ///     .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    /// let weights = Tensor::from_floats([[3.0, 0.0], [0.0, 1.0]], &device);
    /// head.weights = Param::from_tensor(weights);
    ///
    /// let classes = head.predict(Tensor::from_floats([[0.1, 2.0], [0.0, 0.0]], &device))?;
    /// assert_eq!(classes.into_data().iter::<i64>().collect::<Vec<_>>(), [1, NO_CLASS]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Empty`], [`Error::Bias`], [`Error::NonFinite`],
    /// [`Error::DegenerateNorm`], [`Error::Overflow`].
    pub fn predict(&self, embeddings: Tensor<2>) -> Result<Tensor<1, Int>, Error> {
        in_its_type!(self.predict_in(embeddings))
    }

    fn logits_in<F: Precision>(&self, embeddings: Tensor<2>) -> Result<Tensor<2>, Error> {
        let embeddings = embeddings.dequantize();
        let (device, dtype) = (embeddings.device().without_autodiff(), embeddings.dtype());
        let step = Inputs::of::<F>(self, embeddings)?.step::<F>(self);
        Ok(on_device(with_dtype(step.logits(&self.engine.core())?, dtype), &device))
    }

    fn predict_in<F: Precision>(&self, embeddings: Tensor<2>) -> Result<Tensor<1, Int>, Error> {
        let device = embeddings.device().without_autodiff();
        let step = Inputs::of::<F>(self, embeddings.dequantize())?.step::<F>(self);
        let class = |class| if class == IGNORED { NO_CLASS } else { class as i64 };
        let nearest = step.predict(&self.engine.core())?;
        let nearest: Vec<i64> = nearest.into_iter().map(class).collect();
        // A narrow default integer may hold no such class, and an unsigned one no `NO_CLASS`.
        let integer = match DType::from(device.settings().int_dtype) {
            integer @ (DType::I32 | DType::I64) => integer,
            _ => DType::I32,
        };
        let count = nearest.len();
        Ok(Tensor::from_data(TensorData::new(nearest, [count]), (&device, integer)))
    }
}
