//! The methods of a head whose class weights are on the device.

use burn::tensor::Tensor;
use margin_softmax::sampling::ClassSample;
use margin_softmax::{Error, Forward, ZeroEmbedding};

use super::MarginHead;
use crate::device::DeviceInputs;
use crate::engine::Core;
use crate::memory::{Labels, Precision};
use crate::reduction::Reducer;

impl MarginHead {
    /// The objective, recorded, and the losses.
    pub(super) fn step_on_device<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: &Labels,
        sample: Option<&ClassSample>,
        reducer: &Reducer<F>,
    ) -> Result<(Tensor<1>, Forward<F>), Error> {
        let (core, inputs) = (self.engine.core(), DeviceInputs::of::<F>(self, embeddings)?);
        let (step, tracked) = (inputs.step(self), inputs.tracked());
        let reduction = Some(reducer.for_core());
        let (forward, gradients) = step.run(&core, labels, sample, reduction, tracked)?;
        let value = step.vector(vec![reducer.value(&forward)]);
        Ok((inputs.record(value, gradients), forward))
    }

    /// The losses, without gradients.
    pub(super) fn evaluate_on_device<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: &Labels,
    ) -> Result<Forward<F>, Error> {
        let step = DeviceInputs::of::<F>(self, embeddings)?.step(self);
        Ok(step.run(&self.engine.core(), labels, None, None, [false; 3])?.0)
    }

    /// The losses of every sample, recorded.
    pub(super) fn losses_on_device<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Labels,
    ) -> Result<Tensor<1>, Error> {
        let (core, inputs) = (self.engine.core(), DeviceInputs::of::<F>(self, embeddings)?);
        let step = inputs.step(self);
        let (forward, _) = step.run::<F>(&core, &labels, None, None, [false; 3])?;
        let losses = step.vector(forward.losses.to_vec());
        Ok(inputs.record_losses::<F>(losses, step, core, labels))
    }

    /// The nearest class of every embedding.
    pub(super) fn predict_on_device<F: Precision>(
        &self,
        embeddings: Tensor<2>,
    ) -> Result<Vec<usize>, Error> {
        let step = DeviceInputs::of::<F>(self, embeddings)?.step(self);
        step.predict::<F>(&self.engine.core())
    }

    /// The logits without margin; a zero embedding has none, also where it is skipped in training.
    pub(super) fn logits_on_device<F: Precision>(
        &self,
        embeddings: Tensor<2>,
    ) -> Result<Tensor<2>, Error> {
        let step = DeviceInputs::of::<F>(self, embeddings)?.step(self);
        let core = Core::clone(&self.engine.core());
        step.logits::<F>(&core.with_zero_embeddings(ZeroEmbedding::Error))
    }
}
