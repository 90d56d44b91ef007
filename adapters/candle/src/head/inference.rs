//! Losses without gradients, logits and predictions.

use candle_core::{Error, Result, Tensor, WithDType};
use margin_softmax::{Forward, IGNORED, Real};

use super::{MarginHead, for_its_type};
use crate::tensor;

/// The prediction of [`MarginHead::predict`] for an embedding that has none: no class has this
/// number.
pub const NO_CLASS: u32 = u32::MAX;

impl MarginHead {
    /// Computes losses, accuracy and angles without gradients, for held-out samples: embeddings
    /// (N, D), `labels` (N, any integer type). `F` is the type of the class weights, `f32` or
    /// `f64`.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// let forward = head.evaluate::<f32>(&x, &Tensor::new(&[4_u32, 9], &Device::Cpu)?)?;
    /// println!("loss {:.3}, accuracy {:.2}", forward.mean(), forward.accuracy());
    /// # assert_eq!(forward.losses.len(), 2);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn evaluate<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Forward<F>> {
        let labels = tensor::labels(labels, self.ignored)?;
        self.step::<F>(embeddings)?.1.evaluate(&self.engine.core(), &labels)
    }

    /// The logits for inference (N, C), without margin: `a_ij · cos θ_ij`, plus the bias of
    /// Softmax. They are on the device of the embeddings (N, D) and not differentiable.
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
    /// [`NormalizedLogits::new`](margin_softmax::NormalizedLogits::new) and
    /// [`MarginLoss::margin_free_logits`](margin_softmax::MarginLoss::margin_free_logits): a zero embedding is
    /// refused, also by a head that skips it in training.
    pub fn logits(&self, embeddings: &Tensor) -> Result<Tensor> {
        for_its_type!(self.logits_in(embeddings))?.to_device(embeddings.device())
    }

    /// The nearest class of every embedding (N, u32), without margin, on the device of the
    /// embeddings (N, D). Of classes that are equally near the lowest is taken. The memory does not
    /// grow with C.
    ///
    /// A zero embedding has no nearest class. If the head skips zero embeddings, it gets
    /// [`NO_CLASS`], which equals no label.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::{CosFace, ZeroEmbedding};
    /// use margin_softmax_candle::{MarginHead, NO_CLASS, Settings};
    ///
    /// let mut map = VarMap::new();
    /// let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    /// let head = MarginHead::new(CosFace::default(), 2, 2, vb)?
    ///     .with_settings(Settings::default().with_zero_embeddings(ZeroEmbedding::Skip));
    /// map.set_one("weight", Tensor::new(&[[3.0, 0.0], [0.0, 1.0]], &Device::Cpu)?)?;
    ///
    /// let embeddings = Tensor::new(&[[0.1, 2.0], [0.0, 0.0]], &Device::Cpu)?;
    /// assert_eq!(head.predict(&embeddings)?.to_vec1::<u32>()?, [1, NO_CLASS]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, the errors of
    /// [`Head::predict`](margin_softmax::Head::predict), and a nearest class beyond the range of
    /// u32.
    pub fn predict(&self, embeddings: &Tensor) -> Result<Tensor> {
        let classes = for_its_type!(self.predict_in(embeddings))?;
        let classes = classes.into_iter().map(|class| match u32::try_from(class) {
            _ if class == IGNORED => Ok(NO_CLASS),
            Ok(class) if class != NO_CLASS => Ok(class),
            _ => Err(Error::msg(format!("class {class} is beyond the range of u32"))),
        });
        Tensor::new(classes.collect::<Result<Vec<_>>>()?, embeddings.device())
    }

    fn logits_in<F: Real + WithDType>(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.step::<F>(embeddings)?.1.logits(&self.engine.core())
    }

    fn predict_in<F: Real + WithDType>(&self, embeddings: &Tensor) -> Result<Vec<usize>> {
        self.step::<F>(embeddings)?.1.predict(&self.engine.core())
    }
}
