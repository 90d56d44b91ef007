//! The loss as one operation of burn's autodiff graph.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// A loss, and its gradients with respect to N tensors.
#[derive(Debug)]
pub(crate) struct Found<const N: usize> {
    pub loss: FlexTensor,
    pub gradients: [FlexTensor; N],
}

impl Found<2> {
    /// The loss as a function of embeddings and class weights.
    pub fn record(self, embeddings: Tensor<2>, weights: Tensor<2>) -> Tensor<1> {
        let inputs = (embeddings.into_dispatch(), weights.into_dispatch());
        Tensor::from_dispatch(Dispatch::loss(inputs.0, inputs.1, self))
    }
}

impl Found<3> {
    /// The loss as a function of embeddings, class weights and bias.
    pub fn record(self, embeddings: Tensor<2>, weights: Tensor<2>, bias: Tensor<1>) -> Tensor<1> {
        let inputs = (embeddings.into_dispatch(), weights.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(Dispatch::loss_with_bias(inputs.0, inputs.1, inputs.2, self))
    }
}

#[backend_extension(Flex, Autodiff)]
trait MarginLossBackend: Backend {
    fn loss(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        found: Found<2>,
    ) -> FloatTensor<Self>;

    fn loss_with_bias(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        found: Found<3>,
    ) -> FloatTensor<Self>;
}

impl MarginLossBackend for Flex {
    fn loss(_: FloatTensor<Self>, _: FloatTensor<Self>, found: Found<2>) -> FloatTensor<Self> {
        found.loss
    }

    fn loss_with_bias(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        found: Found<3>,
    ) -> FloatTensor<Self> {
        found.loss
    }
}

impl<C: CheckpointStrategy> MarginLossBackend for Autodiff<Flex, C> {
    fn loss(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        found: Found<2>,
    ) -> FloatTensor<Self> {
        register::<C, 2>([embeddings, weights], found)
    }

    fn loss_with_bias(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        found: Found<3>,
    ) -> FloatTensor<Self> {
        register::<C, 3>([embeddings, weights, bias], found)
    }
}

fn register<C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
    found: Found<N>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    match KnownGradients.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(operation) => operation.finish(found.gradients, found.loss),
        OpsKind::UnTracked(operation) => operation.finish(found.loss),
    }
}

/// A scalar with gradients that are already computed. The backward pass multiplies them by the
/// upstream gradient.
#[derive(Debug)]
struct KnownGradients;

impl<const N: usize> Backward<Flex, N> for KnownGradients {
    type State = [FlexTensor; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<Flex>(&ops.node);
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, scaled(gradient, &upstream));
            }
        }
    }
}

/// The gradient times the upstream gradient. If that is 1, because the backward pass starts at the
/// loss, this avoids a pass over all class weights.
fn scaled(gradient: FlexTensor, upstream: &FlexTensor) -> FlexTensor {
    if upstream.as_slice::<f32>() == Some(&[1.0]) || upstream.as_slice::<f64>() == Some(&[1.0]) {
        return gradient;
    }
    let ones = vec![1; gradient.layout().shape().num_dims()];
    Flex::float_mul(gradient, upstream.reshape(ones.into()))
}
