//! Losses that burn differentiates.

use burn::tensor::{Int, Tensor};
use margin_softmax::Error;
use margin_softmax_device::{Objective, Reducer};

use super::{MarginHead, in_its_type};
use crate::inputs::Inputs;
use crate::memory::{Precision, on_device, read_labels, with_dtype};
use crate::options::{Options, Output, Reduction, log_prior, reducer};

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
        in_its_type!(self.objective(embeddings, labels))
    }

    /// A step: the objective like [`forward`](Self::forward), with the loss, target angle and
    /// margin-free prediction of each sample at no extra cost. [`Options`] set another reduction than
    /// the mean, a sampler, and a class prior. `F` is the type that the head computes in, whatever the
    /// type of the class weights.
    ///
    /// With a [`ClassSampler`](margin_softmax::sampling::ClassSampler) (Partial FC) the loss is among
    /// the classes of the batch and a random part of the others, and the time of the step follows the
    /// number of drawn classes. The gradient of the class weights is dense (C, D), as burn's
    /// optimizers need it, and exactly 0 in every row that was not drawn. It is written in the
    /// backward pass; until then the graph holds the drawn rows alone. Optimizers with momentum or
    /// weight decay also update the rows whose gradient is 0.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_burn::{MarginHeadConfig, Options, Reduction};
    /// # let device = Device::flex().autodiff();
    /// # let head = MarginHeadConfig::new(2, 100).init(CosFace::default(), &device)?;
    /// # let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
    /// # let labels = Tensor::from_ints([4, 9], &device);
    /// let output = head.run::<f32>(x.clone(), labels.clone(), Options::default())?;
    /// println!("accuracy {:.2}", output.forward.accuracy());
    ///
    /// let weights = Tensor::from_floats([1.0, 0.0], &device); // the first sample alone
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let options = Options::default()
    ///     .with_reduction(Reduction::Weighted(weights))
    ///     .with_sampler(&mut sampler);
    /// let output = head.run::<f32>(x, labels, options)?;
    /// assert!(output.sample.is_some_and(|sample| sample.classes.len() == 10));
    /// let gradient = head.weights.grad(&output.loss.backward());
    /// assert_eq!(gradient.map(|rows| rows.dims()), Some([100, 2])); // ten rows are not 0
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::Shape`] and [`Error::NonFinite`] also for weights
    /// that are not one finite number per sample; [`Error::SampledRange`], [`Error::Sample`] or
    /// [`Error::Label`] for a sampler of another number of classes; [`Error::Shape`] or
    /// [`Error::NonFinite`] for a class prior that is not one finite number per class. The sampler is
    /// then unchanged.
    pub fn run<F: Precision>(
        &self,
        embeddings: Tensor<2>,
        labels: Tensor<1, Int>,
        options: Options<'_>,
    ) -> Result<Output<F>, Error> {
        let embeddings = embeddings.dequantize();
        let like = (embeddings.device(), embeddings.dtype());
        let samples = labels.dims()[0];
        let labels = read_labels(labels, self.ignored)?;
        let reducer = reducer::<F>(options.reduction, samples)?;
        let (core, inputs) = (self.engine.core(), Inputs::of::<F>(self, embeddings)?);
        let mut step = inputs.step(self).with_log_prior(options.log_prior.map(log_prior));
        let tracked = inputs.tracked();
        let objective = step.objective(&core, &labels, &reducer, options.sampler, tracked)?;
        let Objective { values, forward, gradients, sample } = objective;
        let loss = match reducer {
            Reducer::None => inputs.record_losses(values, step, core, labels),
            _ => inputs.record(values, gradients),
        };
        let loss = on_device(with_dtype(loss, like.1), &like.0);
        Ok(Output::new(loss, forward, sample))
    }

    /// The loss of every sample (N), differentiable with respect to embeddings (N, D), class
    /// weights and bias: for objectives that are no weighted sum of the losses, such as focal
    /// losses, learned weights, or a selection of the hardest samples. Ignored samples
    /// have loss 0. The losses have the device and float type of the embeddings. It is a [`run`](Self::run)
    /// with [`Reduction::None`], which takes a sampler and a class prior, too.
    ///
    /// Only the losses are computed here. The backward pass computes them again, together with the
    /// gradients for the upstream gradient of each sample. Forward and backward cost four matrix
    /// products instead of the three of [`run`](Self::run), which is to be
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

    fn objective<F: Precision>(
        &self,
        x: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        Ok(self.run::<F>(x, labels, Options::default())?.loss)
    }

    fn losses_in<F: Precision>(
        &self,
        x: Tensor<2>,
        labels: Tensor<1, Int>,
    ) -> Result<Tensor<1>, Error> {
        let options = Options::default().with_reduction(Reduction::None);
        Ok(self.run::<F>(x, labels, options)?.loss)
    }
}
