//! A head whose class weights are on the network's device.

use std::sync::Arc;

use candle_core::{Result, Tensor, WithDType};
use candle_nn::VarBuilder;
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Error, Forward, Head, MarginLoss, Real, ZeroEmbedding};
use ndarray::Array1;

use super::{MarginHead, class_weights};
use crate::check::same_type;
use crate::device::DeviceStep;
use crate::engine::Core;
use crate::error::refused;
use crate::node::{InputGradients, known, known_rows_of};
use crate::reduction::Reduction;

impl MarginHead {
    /// As [`new`](Self::new), with the class weights on the device of `vb`, where each step also
    /// sweeps over the classes, tile by tile. What must be exact is computed in f64 in main memory,
    /// from embeddings and the rows of the samples' own classes.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{VarBuilder, VarMap};
    /// use margin_softmax::ArcFace;
    /// use margin_softmax_candle::MarginHead;
    ///
    /// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// let head = MarginHead::on_device(ArcFace::new(16.0, 0.3)?, 3, 10, vb)?;
    /// let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// let loss = head.forward(&x, &Tensor::new(&[4_u32, 9], &Device::Cpu)?)?;
    /// assert_eq!(loss.backward()?.get(head.weight()).unwrap().dims(), [10, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn on_device(
        loss: impl MarginLoss + 'static,
        dims: usize,
        classes: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let weight = class_weights(dims, classes, &vb)?;
        Self::on_device_from_parts(Head::new(Arc::new(loss)), weight, None)
    }

    /// As [`from_parts`](Self::from_parts), for class weights and bias on any device, which is that
    /// of the sweeps: see [`on_device`](Self::on_device). The memory budget has no effect.
    ///
    /// # Errors
    /// Those of [`from_parts`](Self::from_parts), but any device is accepted if it is the same.
    pub fn on_device_from_parts(
        head: Head<Arc<dyn MarginLoss>>,
        weight: Tensor,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        if let Some(bias) = bias.as_ref().filter(|b| !b.device().same_device(weight.device())) {
            let device = format!("{:?}", bias.device().location());
            let reason = String::from("the bias is here, but the class weights are elsewhere");
            return Err(refused(Error::Device { device, reason }));
        }
        Ok(MarginHead { on_device: true, ..Self::from_checked_parts(head, weight, bias)? })
    }

    /// The same head, which sweeps over so many rows of class weights at a time where they are on
    /// the network's device. By default 2²¹ logits are held at a time, but 2048 rows at least.
    pub fn with_rows_per_tile(self, rows: Option<usize>) -> Self {
        MarginHead { rows_per_tile: rows, ..self }
    }

    /// The embeddings on the head's device, and the step over them.
    fn device_step<F: WithDType>(&self, embeddings: &Tensor) -> Result<(Tensor, DeviceStep)> {
        same_type("the class weights have another type", F::DTYPE, &self.weight)?;
        same_type("embeddings take the type of the class weights", F::DTYPE, embeddings)?;
        let x = embeddings.to_device(self.weight.device())?;
        let parameters = (&self.weight, self.bias.as_ref());
        let step = DeviceStep::new(&x, parameters, self.sub_centers, self.rows_per_tile)?;
        Ok((x, step))
    }

    pub(super) fn step_on_device<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        reduction: Reduction<'_>,
    ) -> Result<(Tensor, Forward<F>)> {
        let (x, step) = self.device_step::<F>(embeddings)?;
        let labels = self.labels(labels)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        let (core, parents) = (self.engine.core(), self.parents(&x));
        let reduction = Some(reducer.for_core());
        let (forward, gradients) = step.run(&core, &labels, None, reduction, parents.tracked())?;
        let value = parents.record(&[reducer.value(&forward)], (), known(gradients))?;
        Ok((value.to_device(embeddings.device())?, forward))
    }

    pub(super) fn sampled_on_device<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        sampler: &mut ClassSampler,
        reduction: Reduction<'_>,
    ) -> Result<(Tensor, Forward<F>, ClassSample)> {
        let (x, step) = self.device_step::<F>(embeddings)?;
        let labels = self.labels(labels)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        let mut drawing = sampler.clone();
        let sample = drawing.sample(&labels.classes).map_err(refused)?;
        let (core, parents) = (self.engine.core(), self.parents(&x));
        let (tracked, reduction) = (parents.tracked(), Some(reducer.for_core()));
        let (forward, gradients) = step.run(&core, &labels, Some(&sample), reduction, tracked)?;
        let rows = crate::device::ids(&sample.rows(self.sub_centers), x.device())?;
        let backward = known_rows_of(gradients, rows, self.weight.dim(0)?);
        let value = parents.record(&[reducer.value(&forward)], (), backward)?;
        let value = value.to_device(embeddings.device())?;
        *sampler = drawing;
        Ok((value, forward, sample))
    }

    pub(super) fn losses_on_device<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Tensor> {
        let (x, step) = self.device_step::<F>(embeddings)?;
        let (labels, core) = (self.labels(labels)?, self.engine.core());
        let (forward, _) = step.run::<F>(&core, &labels, None, None, [false; 3])?;
        let parents = self.parents(&x);
        let tracked = parents.tracked();
        let backward = move |upstream: &Tensor| -> Result<InputGradients> {
            let upstream = Array1::from(upstream.to_vec1::<F>()?);
            let reduction = Some(margin_softmax::Reduction::Weighted(&upstream));
            Ok(step.run(&core, &labels, None, reduction, tracked)?.1)
        };
        let losses = forward.losses.to_vec();
        parents.record(&losses, losses.len(), backward)?.to_device(embeddings.device())
    }

    pub(super) fn evaluate_on_device<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Forward<F>> {
        let (_, step) = self.device_step::<F>(embeddings)?;
        let labels = self.labels(labels)?;
        Ok(step.run(&self.engine.core(), &labels, None, None, [false; 3])?.0)
    }

    pub(super) fn predict_on_device<F: Real + WithDType>(&self, x: &Tensor) -> Result<Vec<usize>> {
        self.device_step::<F>(x)?.1.predict::<F>(&self.engine.core())
    }

    /// A zero embedding has no logits, also where it is skipped in training.
    pub(super) fn logits_on_device<F: Real + WithDType>(&self, x: &Tensor) -> Result<Tensor> {
        let core = Core::clone(&self.engine.core()).with_zero_embeddings(ZeroEmbedding::Error);
        self.device_step::<F>(x)?.1.logits::<F>(&core)
    }
}
