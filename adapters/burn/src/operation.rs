//! The losses of a batch as one operation of burn's autodiff graph.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// The gradients of embeddings, class weights and bias; `None` where none is needed.
pub(crate) type InputGradients = [Option<FlexTensor>; 3];

/// The backward pass of a value.
pub(crate) trait BackwardStep: Debug + Send + Sync {
    /// The gradients of the inputs, from the gradient of the value.
    fn gradients(self: Arc<Self>, upstream: &FlexTensor) -> InputGradients;
}

/// A value that is already computed, and its backward pass.
#[derive(Debug)]
pub(crate) struct Computed {
    pub value: FlexTensor,
    pub backward: Arc<dyn BackwardStep>,
}

impl Computed {
    /// The value as a function of embeddings, class weights and bias.
    pub fn record(self, x: Tensor<2>, w: Tensor<2>, b: Option<Tensor<1>>) -> Tensor<1> {
        let (x, w) = (x.into_dispatch(), w.into_dispatch());
        Tensor::from_dispatch(match b {
            None => Dispatch::losses(x, w, self),
            Some(b) => Dispatch::losses_with_bias(x, w, b.into_dispatch(), self),
        })
    }
}

#[backend_extension(Flex, Autodiff)]
trait MarginLossBackend: Backend {
    fn losses(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        computed: Computed,
    ) -> FloatTensor<Self>;

    fn losses_with_bias(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        computed: Computed,
    ) -> FloatTensor<Self>;
}

impl MarginLossBackend for Flex {
    fn losses(_: FloatTensor<Self>, _: FloatTensor<Self>, computed: Computed) -> FloatTensor<Self> {
        computed.value
    }

    fn losses_with_bias(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        computed: Computed,
    ) -> FloatTensor<Self> {
        computed.value
    }
}

impl<C: CheckpointStrategy> MarginLossBackend for Autodiff<Flex, C> {
    fn losses(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        computed: Computed,
    ) -> FloatTensor<Self> {
        register::<C, 2>([embeddings, weights], computed)
    }

    fn losses_with_bias(
        embeddings: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        computed: Computed,
    ) -> FloatTensor<Self> {
        register::<C, 3>([embeddings, weights, bias], computed)
    }
}

fn register<C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
    computed: Computed,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    match ComputedLosses.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(operation) => operation.finish(computed.backward, computed.value),
        OpsKind::UnTracked(operation) => operation.finish(computed.value),
    }
}

/// The node of losses that are already computed.
#[derive(Debug)]
struct ComputedLosses;

impl<const N: usize> Backward<Flex, N> for ComputedLosses {
    type State = Arc<dyn BackwardStep>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<Flex>(&ops.node);
        let gradients = ops.state.gradients(&upstream);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
