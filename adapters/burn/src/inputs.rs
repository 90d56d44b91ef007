//! The inputs of a step, in main memory and of one type.

use std::marker::PhantomData;

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use margin_softmax::{Batch, Error, Gradients};
use ndarray::{ArrayView1, ArrayView2};

use crate::MarginHead;
use crate::memory::{Precision, bring, numbers_of, tensor_of, view};
use crate::operation::Found;

/// Embeddings, class weights and bias as tensors of the autodiff graph, and their values.
pub(crate) struct Inputs<F> {
    embeddings: Tensor<2>,
    weights: Tensor<2>,
    bias: Option<Tensor<1>>,
    numbers: (FlexTensor, FlexTensor, Option<FlexTensor>),
    precision: PhantomData<F>,
}

/// The values as arrays for the core.
pub(crate) struct Arrays<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub weights: ArrayView2<'a, F>,
    pub bias: Option<ArrayView1<'a, F>>,
}

impl<F: Precision> Inputs<F> {
    pub fn of(head: &MarginHead, embeddings: Tensor<2>) -> Self {
        let embeddings = bring::<F, 2>(embeddings);
        let weights = bring::<F, 2>(head.weights.val());
        let bias = head.bias.as_ref().map(|bias| bring::<F, 1>(bias.val()));
        let numbers =
            (numbers_of(&embeddings), numbers_of(&weights), bias.as_ref().map(numbers_of));
        Inputs { embeddings, weights, bias, numbers, precision: PhantomData }
    }

    pub fn arrays(&self) -> Result<Arrays<'_, F>, Error> {
        let (x, w, b) = &self.numbers;
        let bias = self.bias.as_ref().zip(b.as_ref());
        Ok(Arrays {
            embeddings: view(x, "embeddings", self.embeddings.dims())?,
            weights: view(w, "class weights", self.weights.dims())?,
            bias: bias.map(|(bias, b)| view(b, "bias", bias.dims())).transpose()?,
        })
    }

    /// Whether a gradient with respect to any of them is required.
    pub fn is_tracked(&self) -> bool {
        self.embeddings.is_tracked()
            || self.weights.is_tracked()
            || self.bias.as_ref().is_some_and(Tensor::is_tracked)
    }

    /// Records the loss as a function of these inputs in the autodiff graph.
    pub fn record(&self, loss: F, gradients: Gradients<F>) -> Tensor<1> {
        let loss = tensor_of(vec![loss], &[1]);
        let (x, w) = (self.embeddings.clone(), self.weights.clone());
        let (dx, dw) = (gradients.embeddings, gradients.weights);
        let dx = tensor_of(dx.into_raw_vec_and_offset().0, &x.dims());
        let dw = tensor_of(dw.into_raw_vec_and_offset().0, &w.dims());
        match self.bias.clone().zip(gradients.bias) {
            None => Found { loss, gradients: [dx, dw] }.record(x, w),
            Some((b, db)) => {
                let db = tensor_of(db.into_raw_vec_and_offset().0, &b.dims());
                Found { loss, gradients: [dx, dw, db] }.record(x, w, b)
            }
        }
    }
}

impl<F: Precision> Arrays<'_, F> {
    pub fn batch<'a>(&'a self, labels: &'a [usize]) -> Result<Batch<'a, F>, Error> {
        let batch = Batch::new(&self.embeddings, &self.weights, labels)?;
        match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => Ok(batch),
        }
    }
}
