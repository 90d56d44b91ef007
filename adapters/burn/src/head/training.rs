//! Losses that burn differentiates.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Error, Forward, Gradients};

use super::{MarginHead, in_its_type};
use crate::backward::{Known, KnownRows, PerSample};
use crate::inputs::{Inputs, gradients_for};
use crate::memory::{Labels, Precision, on_device, with_dtype};
use crate::reduction::Reduction;

impl MarginHead {
    /// The mean loss of a batch (1), recorded as one operation of the autodiff graph with gradients
    /// with respect to embeddings, class weights and bias.
    ///
    /// **Shapes**: embeddings (N, D), `labels` (N) in 0..C. The loss has the device and float type
    /// of the embeddings. The gradients are computed together with the loss, and only those that an
    /// input requires. [`evaluate`](Self::evaluate) computes the loss alone, for a third of the
    /// cost.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// let loss = head.forward(x, Tensor::from_ints([0, 2], &device))?;
    /// assert!(head.weights.grad(&loss.backward()).is_some());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Empty`], [`Error::Label`], [`Error::LabelValue`] for a negative
    /// label, [`Error::Bias`], [`Error::NonFinite`], [`Error::DegenerateNorm`],
    /// [`Error::Overflow`], [`Error::Target`].
    pub fn forward(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        self.forward_with(embeddings, labels, Reduction::Mean)
    }

    /// As [`forward`](Self::forward), with another reduction than the mean: the sum, or a sum with
    /// one weight per sample.
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::{MarginHeadConfig, Reduction};
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::<1, Int>::from_ints([0, 2], &device);
    /// let weights = Tensor::from_floats([1.0, 0.0], &device); // the first sample alone
    /// let loss = head.forward_with(x.clone(), labels.clone(), Reduction::Weighted(weights))?;
    /// let losses = head.evaluate::<f32>(x, labels)?.losses;
    /// assert_eq!(loss.into_scalar::<f32>(), losses[0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::Shape`] and [`Error::NonFinite`] also for
    /// weights that are not one finite number per sample.
    pub fn forward_with(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
        reduction: Reduction,
    ) -> Result<Tensor<1>, Error> {
        in_its_type!(self.objective(embeddings, labels, reduction))
    }

    /// Returns the loss like [`forward`](Self::forward), and the loss, target angle and margin-free
    /// prediction of each sample, with the margin-free accuracy, at no extra cost.
    ///
    /// `F` is the type that the head computes in, whatever the type of the class weights.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([0, 2], &device);
    /// let (loss, forward) = head.forward_detailed::<f32>(x, labels)?;
    /// assert_eq!(loss.into_scalar::<f32>(), forward.mean());
    /// println!("accuracy {:.2}, norms {}", forward.accuracy(), forward.norms());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_detailed<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<(Tensor<1>, Forward<F>), Error> {
        self.forward_detailed_with(embeddings, labels, Reduction::Mean)
    }

    /// As [`forward_detailed`](Self::forward_detailed), with another reduction than the mean.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::{MarginHeadConfig, Reduction};
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([0, 2], &device);
    /// let (loss, forward) = head.forward_detailed_with::<f32>(x, labels, Reduction::Sum)?;
    /// assert_eq!(loss.into_scalar::<f32>(), forward.sum());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_with`](Self::forward_with).
    pub fn forward_detailed_with<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
        reduction: Reduction,
    ) -> Result<(Tensor<1>, Forward<F>), Error> {
        let embeddings = embeddings.dequantize();
        let like = (embeddings.device(), embeddings.dtype());
        let labels = Labels::read(labels, self.ignored)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        if self.is_on_device() {
            let (loss, forward) = self.step_on_device(embeddings, &labels, None, &reducer)?;
            return Ok((returned(loss, &like), forward));
        }
        let (core, inputs) = (self.engine.core(), Inputs::<F>::of(self, embeddings));
        let tracked = inputs.tracked();
        let (forward, gradients) = {
            let arrays = inputs.values.arrays()?;
            let batch = arrays.batch(&labels);
            let mut gradients = gradients_for(&batch, tracked);
            let forward = match &mut gradients {
                None => core.forward(&batch)?,
                Some(gradients) => core.forward_backward(&batch, reducer.for_core(), gradients)?,
            };
            (forward, gradients)
        };
        let value = vec![reducer.value(&forward)];
        let loss = match gradients {
            None => constant(value, &like),
            Some(gradients) => {
                returned(inputs.record(value, Known::new(gradients, tracked)), &like)
            }
        };
        Ok((loss, forward))
    }

    /// The loss of every sample (N), differentiable with respect to embeddings (N, D), class
    /// weights and bias: for objectives that are no weighted sum of the losses, such as focal
    /// losses, learned weights, or a selection of the hardest samples. Samples that are left out
    /// have loss 0. The losses have the device and float type of the embeddings.
    ///
    /// Only the losses are computed here. The backward pass computes them again, together with the
    /// gradients for the upstream gradient of each sample. Forward and backward cost four matrix
    /// products instead of the three of [`forward_with`](Self::forward_with), which is to be
    /// preferred where it serves. The graph keeps embeddings, class weights and bias until then,
    /// and the loss function of the forward pass, whatever [`set_loss`](Self::set_loss) has set
    /// since.
    ///
    /// Burn's backward pass cannot return an error. Where the upstream gradient of a sample is not
    /// finite, or so large that gradients may overflow, all gradients are NaN.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax_burn::MarginHeadConfig;
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([0, 2], &device);
    /// let losses = head.losses(x, labels)?;
    /// let p = (-losses.clone()).exp();
    /// let focal = ((-p + 1.0).powi_scalar(2) * losses).mean();
    /// assert!(head.weights.grad(&focal.backward()).is_some());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn losses(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        in_its_type!(self.losses_in(embeddings, labels))
    }

    /// Partial FC: the loss among the classes of the batch and a random part of the others, which
    /// `sampler` draws. The time of the step follows the number of drawn classes.
    ///
    /// **Shapes**: embeddings (N, D), `labels` (N), a loss (1). The gradient of the class weights
    /// is dense (C, D), as burn's optimizers need it, and exactly 0 in every row that was not
    /// drawn. It is written in the backward pass; until then the graph holds the drawn rows alone.
    /// Optimizers with momentum or weight decay also move the rows whose gradient is 0.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_burn::{MarginHeadConfig, Reduction};
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 100).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([4, 9], &device);
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let loss = head.forward_sampled(x, labels, &mut sampler, Reduction::Mean)?;
    /// let gradient = head.weights.grad(&loss.backward());
    /// assert_eq!(gradient.map(|rows| rows.dims()), Some([100, 2])); // ten rows are not 0
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_with`](Self::forward_with), and [`Error::SampledRange`],
    /// [`Error::Sample`] or [`Error::Label`] for a sampler of another number of classes. The sampler
    /// is then unchanged.
    pub fn forward_sampled(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
        sampler: &mut ClassSampler,
        reduction: Reduction,
    ) -> Result<Tensor<1>, Error> {
        in_its_type!(self.sampled_objective(embeddings, labels, sampler, reduction))
    }

    /// As [`forward_sampled`](Self::forward_sampled), with the losses and predictions of each
    /// sample among the drawn classes, and the drawn classes themselves: the rows of the class
    /// weights that have a gradient.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_burn::{MarginHeadConfig, Reduction};
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 100).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([4, 9], &device);
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let (loss, forward, sample) =
    ///     head.forward_sampled_detailed::<f32>(x, labels, &mut sampler, Reduction::Mean)?;
    /// assert_eq!(loss.into_scalar::<f32>(), forward.mean());
    /// assert!(sample.classes.len() == 10 && sample.classes.contains(&9));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward_sampled`](Self::forward_sampled).
    pub fn forward_sampled_detailed<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
        sampler: &mut ClassSampler,
        reduction: Reduction,
    ) -> Result<(Tensor<1>, Forward<F>, ClassSample), Error> {
        let embeddings = embeddings.dequantize();
        let like = (embeddings.device(), embeddings.dtype());
        let labels = Labels::read(labels, self.ignored)?;
        let reducer = reduction.read::<F>(labels.classes.len())?;
        let mut drawing = sampler.clone();
        let sample = drawing.sample(&labels.classes)?;
        if self.is_on_device() {
            let step = self.step_on_device(embeddings, &labels, Some(&sample), &reducer);
            let (loss, forward) = step?;
            *sampler = drawing;
            return Ok((returned(loss, &like), forward, sample));
        }
        let (core, inputs) = (self.engine.core(), Inputs::<F>::of(self, embeddings));
        let (forward, gradients, count) = {
            let arrays = inputs.values.arrays()?;
            let batch = arrays.batch(&labels).with_sample(&sample);
            let mut gradients = Gradients::zeros_for(&batch);
            let forward = core.forward_backward(&batch, reducer.for_core(), &mut gradients)?;
            (forward, gradients, arrays.weights.nrows())
        };
        let (value, tracked) = (vec![reducer.value(&forward)], inputs.tracked());
        let loss = if tracked.contains(&true) {
            let rows = sample.rows(self.sub_centers);
            let backward = KnownRows { gradients, rows, count, tracked };
            returned(inputs.record(value, backward), &like)
        } else {
            constant(value, &like)
        };
        *sampler = drawing;
        Ok((loss, forward, sample))
    }

    fn objective<F: Precision>(
        &self,
        x: Tensor<2>,
        labels: Tensor<1, Int>,
        reduction: Reduction,
    ) -> Result<Tensor<1>, Error> {
        Ok(self.forward_detailed_with::<F>(x, labels, reduction)?.0)
    }

    fn sampled_objective<F: Precision>(
        &self,
        x: Tensor<2>,
        labels: Tensor<1, Int>,
        sampler: &mut ClassSampler,
        reduction: Reduction,
    ) -> Result<Tensor<1>, Error> {
        Ok(self.forward_sampled_detailed::<F>(x, labels, sampler, reduction)?.0)
    }

    fn losses_in<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        let embeddings = embeddings.dequantize();
        let like = (embeddings.device(), embeddings.dtype());
        let labels = Labels::read(labels, self.ignored)?;
        if self.is_on_device() {
            return Ok(returned(self.losses_on_device::<F>(embeddings, labels)?, &like));
        }
        let (core, inputs) = (self.engine.core(), Inputs::<F>::of(self, embeddings));
        let losses = {
            let arrays = inputs.values.arrays()?;
            core.forward(&arrays.batch(&labels))?.losses.to_vec()
        };
        let tracked = inputs.tracked();
        if !tracked.contains(&true) {
            return Ok(constant(losses, &like));
        }
        let values = inputs.values.clone();
        let backward = PerSample { core, values, labels, tracked };
        Ok(returned(inputs.record(losses, backward), &like))
    }
}

/// Numbers without a graph, on the device and of the type of the embeddings.
fn constant<F: Precision>(numbers: Vec<F>, (device, dtype): &(Device, DType)) -> Tensor<1> {
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), (device, *dtype))
}

/// Moves the result of a step to the device of the embeddings and converts it to their type.
fn returned(result: Tensor<1>, (device, dtype): &(Device, DType)) -> Tensor<1> {
    on_device(with_dtype(result, *dtype), device)
}
