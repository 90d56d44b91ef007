//! The inputs of a step, in main memory and of one type.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use margin_softmax::{Batch, Error, Gradients, IGNORED};
use ndarray::{ArrayView1, ArrayView2};

use crate::MarginHead;
use crate::memory::{Labels, Precision, bring, numbers_of, tensor_of, view};
use crate::operation::{BackwardStep, Computed};

/// Embeddings, class weights and bias as tensors of the autodiff graph, and their values.
pub(crate) struct Inputs<F> {
    embeddings: Tensor<2>,
    weights: Tensor<2>,
    bias: Option<Tensor<1>>,
    pub values: Values<F>,
}

/// The values of the inputs. A backward pass may keep them, but not tensors of the graph.
#[derive(Debug, Clone)]
pub(crate) struct Values<F> {
    pub embeddings: FlexTensor,
    pub weights: FlexTensor,
    pub bias: Option<FlexTensor>,
    shapes: ([usize; 2], [usize; 2], Option<[usize; 1]>),
    sub_centers: usize,
    precision: PhantomData<F>,
}

/// The values as arrays for the core.
pub(crate) struct Arrays<'a, F> {
    pub embeddings: ArrayView2<'a, F>,
    pub weights: ArrayView2<'a, F>,
    pub bias: Option<ArrayView1<'a, F>>,
    pub sub_centers: usize,
}

impl<F: Precision> Inputs<F> {
    pub fn of(head: &MarginHead, embeddings: Tensor<2>) -> Self {
        let embeddings = bring::<F, 2>(embeddings);
        let weights = bring::<F, 2>(head.weights.val());
        let bias = head.bias.as_ref().map(|bias| bring::<F, 1>(bias.val()));
        let values = Values {
            embeddings: numbers_of(&embeddings),
            weights: numbers_of(&weights),
            bias: bias.as_ref().map(numbers_of),
            shapes: (embeddings.dims(), weights.dims(), bias.as_ref().map(Tensor::dims)),
            sub_centers: head.sub_centers(),
            precision: PhantomData,
        };
        Inputs { embeddings, weights, bias, values }
    }

    /// Which of embeddings, class weights and bias a gradient is needed for.
    pub fn tracked(&self) -> [bool; 3] {
        let bias = self.bias.as_ref().is_some_and(Tensor::is_tracked);
        [self.embeddings.is_tracked(), self.weights.is_tracked(), bias]
    }

    /// Records `value` as a function of these inputs in the autodiff graph.
    pub fn record(self, value: Vec<F>, backward: impl BackwardStep + 'static) -> Tensor<1> {
        let shape = [value.len()];
        let value = tensor_of(value, &shape);
        let computed = Computed { value, backward: Arc::new(backward) };
        computed.record(self.embeddings, self.weights, self.bias)
    }
}

impl<F: Precision> Values<F> {
    pub fn arrays(&self) -> Result<Arrays<'_, F>, Error> {
        let (x, w, b) = self.shapes;
        let bias = self.bias.as_ref().zip(b);
        Ok(Arrays {
            embeddings: view(&self.embeddings, "embeddings", x)?,
            weights: view(&self.weights, "class weights", w)?,
            bias: bias.map(|(bias, shape)| view(bias, "bias", shape)).transpose()?,
            sub_centers: self.sub_centers,
        })
    }
}

impl<F: Precision> Arrays<'_, F> {
    pub fn batch<'a>(&'a self, labels: &'a Labels) -> Batch<'a, F> {
        let batch = Batch::new(&self.embeddings, &self.weights, &labels.classes);
        let batch = self.complete(batch);
        if labels.with_ignored { batch.with_ignored_label(IGNORED) } else { batch }
    }

    pub fn unlabeled(&self) -> Batch<'_, F> {
        self.complete(Batch::unlabeled(&self.embeddings, &self.weights))
    }

    fn complete<'a>(&'a self, batch: Batch<'a, F>) -> Batch<'a, F> {
        let batch = batch.with_sub_centers(self.sub_centers);
        match &self.bias {
            Some(bias) => batch.with_bias(bias),
            None => batch,
        }
    }
}

/// The gradients to compute where embeddings, class weights and bias are `tracked` or not: those
/// that nothing needs cost nothing.
pub(crate) fn gradients_for<F: Precision>(
    batch: &Batch<'_, F>,
    tracked: [bool; 3],
) -> Option<Gradients<F>> {
    match tracked {
        [false, false, false] => None,
        [true, false, false] => Some(Gradients::embeddings_only(batch)),
        [false, ..] => Some(Gradients::weights_only(batch)),
        [true, ..] => Some(Gradients::zeros_for(batch)),
    }
}
