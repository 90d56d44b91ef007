//! The backward passes of scalar losses, and of the losses of each sample.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use margin_softmax::{Error, Gradients, Reduction};
use ndarray::{Array, Array1, Array2, Dimension};

use crate::detached;
use crate::engine::Core;
use crate::inputs::{Values, gradients_for};
use crate::memory::{Labels, Precision, tensor_of};
use crate::operation::{BackwardStep, InputGradients};

/// A scalar with gradients that are already computed: they are multiplied by the upstream gradient.
#[derive(Debug)]
pub(crate) struct Known(InputGradients);

impl Known {
    pub fn new<F: Precision>(gradients: Gradients<F>, tracked: [bool; 3]) -> Self {
        Known(tensors(gradients, tracked))
    }
}

impl BackwardStep for Known {
    fn gradients(self: Arc<Self>, upstream: &FlexTensor) -> InputGradients {
        self.0.each_ref().map(|gradient| gradient.as_ref().map(|known| scaled(known, upstream)))
    }
}

/// The same with gradients of some rows of class weights and bias; those of the others are 0. The
/// full gradients exist only from the backward pass on.
#[derive(Debug)]
pub(crate) struct KnownRows<F> {
    pub gradients: Gradients<F>,
    /// The rows.
    pub rows: Vec<usize>,
    /// The number of all rows.
    pub count: usize,
    pub tracked: [bool; 3],
}

impl<F: Precision> BackwardStep for KnownRows<F> {
    fn gradients(self: Arc<Self>, upstream: &FlexTensor) -> InputGradients {
        let factor = entries::<F>(upstream).first().copied().unwrap_or_else(F::nan);
        let Gradients { embeddings, weights, bias, .. } = &self.gradients;
        let rows = || {
            let mut all = Array2::zeros((self.count, weights.ncols()));
            for (row, &class) in weights.rows().into_iter().zip(&self.rows) {
                all.row_mut(class).zip_mut_with(&row, |to, &from| *to = from * factor);
            }
            tensor(all)
        };
        let entries = |bias: &Array1<F>| {
            let mut all = Array1::zeros(self.count);
            bias.iter().zip(&self.rows).for_each(|(&from, &class)| all[class] = from * factor);
            tensor(all)
        };
        let [x, w, b] = self.tracked;
        [
            x.then(|| tensor(embeddings.mapv(|entry| entry * factor))),
            w.then(rows),
            bias.as_ref().filter(|_| b).map(entries),
        ]
    }
}

/// Losses whose gradients are computed from the upstream gradient of each sample.
#[derive(Debug)]
pub(crate) struct PerSample<F> {
    pub core: Arc<Core>,
    pub values: Values<F>,
    pub labels: Labels,
    pub tracked: [bool; 3],
}

impl<F: Precision> PerSample<F> {
    fn step(&self, upstream: &Array1<F>) -> Result<Option<Gradients<F>>, Error> {
        let arrays = self.values.arrays()?;
        let batch = arrays.batch(&self.labels);
        let Some(mut gradients) = gradients_for(&batch, self.tracked) else { return Ok(None) };
        let reduction = Reduction::Weighted(upstream);
        self.core.forward_backward(&batch, reduction, &mut gradients)?;
        Ok(Some(gradients))
    }

    /// The gradients where the upstream gradient has none that a number can hold.
    fn nan(&self) -> InputGradients {
        let Values { embeddings, weights, bias, .. } = &self.values;
        let inputs = [Some(embeddings), Some(weights), bias.as_ref()];
        std::array::from_fn(|i| {
            let input = inputs[i].filter(|_| self.tracked[i])?;
            let shape: Vec<usize> = input.layout().shape().to_vec();
            Some(tensor_of(vec![F::nan(); shape.iter().product()], &shape))
        })
    }
}

impl<F: Precision> BackwardStep for PerSample<F> {
    fn gradients(self: Arc<Self>, upstream: &FlexTensor) -> InputGradients {
        let upstream = Array1::from(entries::<F>(upstream));
        detached::run(move || match self.step(&upstream) {
            Ok(Some(gradients)) => tensors(gradients, self.tracked),
            Ok(None) => [None, None, None],
            // Burn's backward pass returns no errors.
            Err(_) => self.nan(),
        })
    }
}

/// Converts the gradients that are `tracked`.
fn tensors<F: Precision>(gradients: Gradients<F>, [x, w, b]: [bool; 3]) -> InputGradients {
    let Gradients { embeddings, weights, bias, .. } = gradients;
    [x.then(|| tensor(embeddings)), w.then(|| tensor(weights)), bias.filter(|_| b).map(tensor)]
}

fn tensor<F: Precision, D: Dimension>(array: Array<F, D>) -> FlexTensor {
    let shape = array.shape().to_vec();
    tensor_of(array.into_raw_vec_and_offset().0, &shape)
}

fn entries<F: Precision>(tensor: &FlexTensor) -> Vec<F> {
    F::entries(&tensor.to_contiguous()).unwrap_or_default().to_vec()
}

/// The gradient times the upstream gradient. If that is 1, because the backward pass starts at the
/// loss, this avoids a pass over all class weights.
fn scaled(gradient: &FlexTensor, upstream: &FlexTensor) -> FlexTensor {
    if upstream.as_slice::<f32>() == Some(&[1.0]) || upstream.as_slice::<f64>() == Some(&[1.0]) {
        return gradient.clone();
    }
    let ones = vec![1; gradient.layout().shape().num_dims()];
    Flex::float_mul(gradient.clone(), upstream.reshape(ones.into()))
}
