//! Losses that candle differentiates.

use candle_core::{Result, Tensor, WithDType};
use margin_softmax::Real;
use margin_softmax_device::{Objective, Reducer};
use ndarray::Array1;

use super::{MarginHead, for_its_type};
use crate::node::{input_gradients, known};
use crate::options::{Options, Output, Reduction, log_prior, reducer};
use crate::tensor;

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
        for_its_type!(self.objective(embeddings, labels))
    }

    /// A step: the objective like [`forward`](Self::forward), with the loss, target angle and
    /// margin-free prediction of each sample at no extra cost. [`Options`] set another reduction than
    /// the mean, a sampler, and a class prior. `F` is the type of the class weights, `f32` or `f64`.
    ///
    /// With a [`ClassSampler`](margin_softmax::sampling::ClassSampler) (Partial FC) the loss is among
    /// the classes of the batch and a random part of the others, and the time of the step follows the
    /// number of drawn classes. The gradient of the class weights is dense (C, D), as candle's
    /// optimizers need it, and exactly 0 in every row that was not drawn. It is written in the
    /// backward pass; until then the graph holds the drawn rows alone. Optimizers with momentum or
    /// weight decay also update the rows whose gradient is 0.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use candle_nn::{VarBuilder, VarMap};
    /// # use margin_softmax::CosFace;
    /// # use margin_softmax::sampling::ClassSampler;
    /// # use margin_softmax_candle::{MarginHead, Options, Reduction};
    /// # let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
    /// # let head = MarginHead::new(CosFace::default(), 3, 100, vb)?;
    /// # let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu)?;
    /// # let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
    /// let output = head.run::<f32>(&x, &labels, Options::default())?;
    /// println!("accuracy {:.2}", output.forward.accuracy());
    ///
    /// let weights = Tensor::new(&[1.0, 0.0], &Device::Cpu)?; // the first sample alone
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let options = Options::default()
    ///     .with_reduction(Reduction::Weighted(weights))
    ///     .with_sampler(&mut sampler);
    /// let output = head.run::<f32>(&x, &labels, options)?;
    /// assert!(output.sample.is_some_and(|sample| sample.classes.len() == 10));
    /// let gradients = output.loss.backward()?;
    /// assert_eq!(gradients.get(head.weight()).unwrap().dims(), [100, 3]); // ten rows are not 0
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward), an `F` that is not the type of the class weights, weights
    /// that are not one finite number per sample, a class prior that is not one per class, and a
    /// sampler for another number of classes. The sampler is then unchanged.
    pub fn run<F: Real + WithDType>(
        &self,
        embeddings: &Tensor,
        labels: &Tensor,
        options: Options<'_>,
    ) -> Result<Output<F>> {
        let samples = labels.elem_count();
        let labels = tensor::labels(labels, self.ignored)?;
        let reducer = reducer::<F>(options.reduction, samples)?;
        let prior = options.log_prior.as_ref().map(log_prior::<F>).transpose()?;
        let (core, (x, step)) = (self.engine.core(), self.step::<F>(embeddings)?);
        let parents = self.parents(&x);
        let (mut step, tracked) = (step.with_log_prior(prior), parents.tracked());
        let objective = step.objective(&core, &labels, &reducer, options.sampler, tracked)?;
        let Objective { values, forward, gradients, sample } = objective;
        let rows = self.weight.dim(0)?;
        let loss = match reducer {
            Reducer::None => parents.record(&values, samples, move |upstream| {
                let upstream = Array1::from(upstream.to_vec1::<F>()?);
                let gradients = step.backward(&core, &labels, &upstream, tracked)?;
                input_gradients(&gradients, rows, 1.0)
            }),
            _ => parents.record(&values, (), known(gradients, rows)),
        };
        Ok(Output::new(loss?.to_device(embeddings.device())?, forward, sample))
    }

    /// The loss of every sample (N), differentiable with respect to embeddings (N, D), class
    /// weights and bias: for objectives that are no weighted sum of the losses, such as focal
    /// losses, learned weights, or a selection of the hardest samples. Ignored samples
    /// have loss 0. It is a [`run`](Self::run) with [`Reduction::None`], which takes a sampler and a
    /// class prior, too.
    ///
    /// Only the losses are computed here. The backward pass computes them again, together with the
    /// gradients for the upstream gradient of each sample. Forward and backward cost four matrix
    /// products instead of the three of [`run`](Self::run), which is to be
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
        for_its_type!(self.losses_in(embeddings, labels))
    }

    fn objective<F: Real + WithDType>(&self, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
        Ok(self.run::<F>(x, labels, Options::default())?.loss)
    }

    fn losses_in<F: Real + WithDType>(&self, x: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let options = Options::default().with_reduction(Reduction::None);
        Ok(self.run::<F>(x, labels, options)?.loss)
    }
}
