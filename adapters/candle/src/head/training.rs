//! Losses that candle differentiates.

use candle_core::{Device, Result, Tensor, WithDType};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Forward, Gradients, Real};
use ndarray::Array1;

use super::{MarginHead, for_its_type};
use crate::error::refused;
use crate::inputs::gradients_for;
use crate::node::{Parents, known, known_rows, tensors};
use crate::reduction::Reduction;

impl MarginHead {
    /// The mean loss of `embeddings` (N, D) with `labels` (N, any integer type): a scalar on the
    /// device of the embeddings, differentiable with respect to embeddings, class weights and bias.
    ///
    /// If any input is tracked, as class weights that are variables always are, the gradients of
    /// the tracked inputs are computed here, together with the loss. [`evaluate`](Self::evaluate)
    /// computes the loss alone, for a third of the cost. The backward pass may run any number of
    /// times. It treats the gradients as constants, so that second derivatives are not available.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// let loss = head.forward(&x, &Tensor::new(&[4_u32, 9], &Device::Cpu)?)?;
    /// let gradients = loss.backward()?;
    /// assert_eq!((loss.dims(), gradients.get(head.weight()).is_some()), (&[][..], true));
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Embeddings of another type than the class weights, labels that are not integers, and the
    /// errors of [`Head::forward_backward`](margin_softmax::Head::forward_backward). The error for
    /// a label out of range contains its row; a negative one is
    /// [`margin_softmax::Error::LabelValue`].
    pub fn forward(&self, embeddings: &Tensor, labels: &Tensor) -> Result<Tensor> {
        self.forward_with(embeddings, labels, Reduction::Mean)
    }

    /// As [`forward`](Self::forward), with another reduction than the mean: the sum, or a sum with
    /// one weight per sample.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::{MarginHead, Reduction};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F64, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let weights = Tensor::new(&[1.0, 0.0], &Device::Cpu)?; // the first sample alone
    /// let loss = head.forward_with(&x, &labels, Reduction::Weighted(&weights))?;
    /// let losses = head.evaluate::<f64>(&x, &labels)?.losses;
    /// assert_eq!(loss.to_scalar::<f64>()?, losses[0]);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and weights that are not one finite number per sample.
    pub fn forward_with(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        reduction: Reduction<'_>,
    ) -> Result<Tensor> {
        for_its_type!(self.objective(embeddings, labels, reduction))
    }

    /// Returns the loss like [`forward`](Self::forward), and the loss, margin-free prediction and
    /// target angle of each sample, with the margin-free accuracy. `F` is the type of the class
    /// weights, `f32` or `f64`.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let (loss, forward) = head.forward_detailed::<f32>(&x, &labels)?;
    /// assert_eq!(loss.to_scalar::<f32>()?, forward.mean());
    /// println!("accuracy {:.2}, norms {}", forward.accuracy(), forward.norms());
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), and an `F` that is not the type of the class weights.
    pub fn forward_detailed<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<(Tensor, Forward<F>)> {
        self.forward_detailed_with(embeddings, labels, Reduction::Mean)
    }

    /// As [`forward_detailed`](Self::forward_detailed), with another reduction than the mean.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::{MarginHead, Reduction};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let (loss, forward) = head.forward_detailed_with::<f32>(&x, &labels, Reduction::Sum)?;
    /// assert_eq!(loss.to_scalar::<f32>()?, forward.sum());
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_with`](Self::forward_with), and an `F` that is not the type of the class
    /// weights.
    pub fn forward_detailed_with<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        reduction: Reduction<'_>,
    ) -> Result<(Tensor, Forward<F>)> {
        if self.on_device {
            return self.step_on_device(embeddings, labels, reduction);
        }
        let device = embeddings.device();
        // The move from another device is a separate node, which moves the gradient back.
        let x = &embeddings.to_device(&Device::Cpu)?;
        let labels = self.labels(labels)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        let (core, parents) = (self.engine.core(), self.parents(x));
        let tracked = parents.tracked();
        let (forward, gradients) = self.with_inputs(x, |inputs| {
            let batch = inputs.batch(&labels);
            let Some(mut gradients) = gradients_for(&batch, tracked) else {
                return Ok((core.forward(&batch)?, None));
            };
            let forward = core.forward_backward(&batch, reducer.for_core(), &mut gradients)?;
            Ok((forward, Some(gradients)))
        })?;
        let value = reducer.value(&forward);
        let loss = match gradients {
            None => Tensor::from_vec(vec![value], (), &Device::Cpu)?,
            Some(gradients) => parents.record(&[value], (), known(tensors(gradients, tracked)?))?,
        };
        Ok((loss.to_device(device)?, forward))
    }

    /// The loss of every sample (N), differentiable with respect to embeddings (N, D), class
    /// weights and bias: for objectives that are no weighted sum of the losses, such as focal
    /// losses, learned weights, or a selection of the hardest samples. Samples that are left out
    /// have loss 0.
    ///
    /// Only the losses are computed here. The backward pass computes them again, together with the
    /// gradients for the upstream gradient of each sample. Forward and backward cost four matrix
    /// products instead of the three of [`forward_with`](Self::forward_with), which is to be
    /// preferred where it serves. The backward pass reads embeddings, class weights and bias again,
    /// so that it must run before an optimizer changes them, and uses the loss function of the
    /// forward pass, whatever [`set_loss`](Self::set_loss) has set since.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_candle::MarginHead;
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// let losses = head.losses(&x, &Tensor::new(&[4_u32, 9], &Device::Cpu)?)?;
    /// let p = losses.neg()?.exp()?;
    /// let focal = ((1.0 - p)?.sqr()? * losses)?.mean_all()?;
    /// assert!(focal.backward()?.get(head.weight()).is_some());
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward). The backward pass returns an error where the upstream
    /// gradient of a sample is not finite, or so large that gradients may overflow.
    pub fn losses(&self, embeddings: &Tensor, labels: &Tensor) -> Result<Tensor> {
        for_its_type!(self.losses_of(embeddings, labels))
    }

    /// Partial FC: the loss among the classes of the batch and a random part of the others, which
    /// `sampler` draws. The time of the step follows the number of drawn classes.
    ///
    /// **Shapes**: embeddings (N, D), `labels` (N), a scalar loss. The gradient of the class
    /// weights is dense (C, D), as candle's optimizers need it, and exactly 0 in every row that was
    /// not drawn. It is written in the backward pass; until then the graph holds the drawn rows
    /// alone. Optimizers with momentum or weight decay also move the rows whose gradient is 0.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_candle::{MarginHead, Reduction};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 100, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let loss = head.forward_sampled(&x, &labels, &mut sampler, Reduction::Mean)?;
    /// let gradients = loss.backward()?;
    /// assert_eq!(gradients.get(head.weight()).unwrap().dims(), [100, 3]); // ten rows are not 0
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_with`](Self::forward_with), and a sampler for another number of classes.
    /// The sampler is then unchanged.
    pub fn forward_sampled(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        sampler: &mut ClassSampler,
        reduction: Reduction<'_>,
    ) -> Result<Tensor> {
        for_its_type!(self.sampled_objective(embeddings, labels, sampler, reduction))
    }

    /// As [`forward_sampled`](Self::forward_sampled), with the losses and predictions of each
    /// sample among the drawn classes, and the drawn classes themselves: the rows of the class
    /// weights that have a gradient.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_candle::{MarginHead, Reduction};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 100, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let (loss, forward, sample) =
    ///     head.forward_sampled_detailed::<f32>(&x, &labels, &mut sampler, Reduction::Mean)?;
    /// assert_eq!(loss.to_scalar::<f32>()?, forward.mean());
    /// assert!(sample.classes.len() == 10 && sample.classes.contains(&9));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_sampled`](Self::forward_sampled), and an `F` that is not the type of the
    /// class weights.
    pub fn forward_sampled_detailed<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        sampler: &mut ClassSampler,
        reduction: Reduction<'_>,
    ) -> Result<(Tensor, Forward<F>, ClassSample)> {
        if self.on_device {
            return self.sampled_on_device(embeddings, labels, sampler, reduction);
        }
        let device = embeddings.device();
        let x = &embeddings.to_device(&Device::Cpu)?;
        let labels = self.labels(labels)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        let mut drawing = sampler.clone();
        let sample = drawing.sample(&labels.classes).map_err(refused)?;
        let core = self.engine.core();
        let (forward, gradients) = self.with_inputs(x, |inputs| {
            let batch = inputs.batch(&labels).with_sample(&sample);
            let mut gradients = Gradients::zeros_for(&batch);
            let forward = core.forward_backward(&batch, reducer.for_core(), &mut gradients)?;
            Ok((forward, gradients))
        })?;
        let (value, parents) = (reducer.value(&forward), self.parents(x));
        let (classes, count) = (sample.rows(self.sub_centers), self.weight.dim(0)?);
        let backward = known_rows(gradients, classes, count, parents.tracked())?;
        let loss = parents.record(&[value], (), backward)?.to_device(device)?;
        *sampler = drawing;
        Ok((loss, forward, sample))
    }

    fn objective<F: Real + WithDType>(
        &self,
        x: &Tensor,
        labels: &Tensor,
        reduction: Reduction<'_>,
    ) -> Result<Tensor> {
        Ok(self.forward_detailed_with::<F>(x, labels, reduction)?.0)
    }

    fn sampled_objective<F: Real + WithDType>(
        &self,
        x: &Tensor,
        labels: &Tensor,
        sampler: &mut ClassSampler,
        reduction: Reduction<'_>,
    ) -> Result<Tensor> {
        Ok(self.forward_sampled_detailed::<F>(x, labels, sampler, reduction)?.0)
    }

    fn losses_of<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
    ) -> Result<Tensor> {
        if self.on_device {
            return self.losses_on_device::<F>(embeddings, labels);
        }
        let x = embeddings.to_device(&Device::Cpu)?;
        let (labels, core) = (self.labels(labels)?, self.engine.core());
        let losses = self
            .with_inputs::<F, _>(&x, |inputs| Ok(core.forward(&inputs.batch(&labels))?.losses))?;
        let parents = self.parents(&x);
        let tracked = parents.tracked();
        let (head, inputs) = (self.clone(), x.detach());
        let backward = move |upstream: &Tensor| {
            let upstream = Array1::from(upstream.to_vec1::<F>()?);
            let gradients = head.with_inputs::<F, _>(&inputs, |inputs| {
                let batch = inputs.batch(&labels);
                let gradients = gradients_for(&batch, tracked);
                let reduction = margin_softmax::Reduction::Weighted(&upstream);
                gradients
                    .map(|mut gradients| {
                        core.forward_backward(&batch, reduction, &mut gradients)?;
                        Ok(gradients)
                    })
                    .transpose()
            })?;
            gradients.map_or(Ok([None, None, None]), |gradients| tensors(gradients, tracked))
        };
        let values = losses.to_vec();
        parents.record(&values, values.len(), backward)?.to_device(embeddings.device())
    }

    pub(super) fn parents<'a>(&'a self, embeddings: &'a Tensor) -> Parents<'a> {
        Parents { embeddings, weight: &self.weight, bias: self.bias.as_ref() }
    }
}
