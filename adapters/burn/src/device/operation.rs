//! Gradients that are computed along with a loss, recorded for every backend.

// burn deprecates its NdArray backend, and has it still.
#![cfg_attr(feature = "ndarray", allow(deprecated))]

use std::fmt::Debug;
use std::sync::Arc;

#[cfg(feature = "cube")]
use burn::backend::Cube;
#[cfg(feature = "ndarray")]
use burn::backend::NdArray;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Device, Tensor};
use margin_softmax::Error;

use super::device_error;
use super::sweeps::add_rows;
use crate::memory::with_dtype;

/// The gradient of one input.
#[derive(Debug, Clone)]
pub(crate) enum Gradient {
    Matrix(Tensor<2>),
    Vector(Tensor<1>),
}

impl Gradient {
    fn of_type(self, dtype: DType) -> Self {
        match self {
            Gradient::Matrix(matrix) => Gradient::Matrix(with_dtype(matrix, dtype)),
            Gradient::Vector(vector) => Gradient::Vector(with_dtype(vector, dtype)),
        }
    }
}

/// The gradients of losses by several inputs, found in the backward pass.
pub(crate) trait LaterGradients: Debug + Send + Sync {
    /// The gradient by input `index`, where that of the losses is `upstream`.
    fn gradient(self: Arc<Self>, index: usize, upstream: Tensor<1>) -> Gradient;
}

/// The gradient of a value by one of its inputs.
#[derive(Debug, Clone)]
pub(crate) enum Attached {
    /// The gradient of a scalar.
    Known(Gradient),
    /// The gradient of a scalar by some rows of a matrix with `count` rows; the others' is 0. The
    /// whole matrix exists only from the backward pass on.
    Rows {
        rows: Vec<i64>,
        gradient: Tensor<2>,
        count: usize,
    },
    Later(Arc<dyn LaterGradients>, usize),
}

/// The gradient by an input of this type.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    attached: Attached,
    dtype: DType,
}

impl Attached {
    /// The value, which is also a function of `input` from now on.
    pub fn to<const D: usize>(self, value: Tensor<1>, input: Tensor<D>) -> Tensor<1> {
        let attachment = Attachment { attached: self, dtype: input.dtype() };
        let (value, input) = (value.into_dispatch(), input.into_dispatch());
        Tensor::from_dispatch(Dispatch::attach(value, input, attachment))
    }

    fn gradient(self, upstream: Tensor<1>) -> Gradient {
        let times = |matrix: Tensor<2>| matrix * upstream.clone().reshape([1, 1]);
        match self {
            Attached::Known(Gradient::Matrix(matrix)) => Gradient::Matrix(times(matrix)),
            Attached::Known(Gradient::Vector(vector)) => Gradient::Vector(vector * upstream),
            Attached::Rows { rows, gradient, count } => {
                let [_, dims] = gradient.dims();
                let zeros = Tensor::zeros([count, dims], (&gradient.device(), gradient.dtype()));
                Gradient::Matrix(add_rows(zeros, &rows, times(gradient)))
            }
            Attached::Later(gradients, index) => gradients.gradient(index, upstream),
        }
    }
}

/// Refuses a device of a backend on which no operation can be recorded.
pub(crate) fn check_supported(device: &Device) -> Result<(), Error> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Flex(_) => Ok(()),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => Ok(()),
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => Ok(()),
        #[allow(unreachable_patterns)] // where burn has no other backends
        _ => Err(device_error(device, "a head on this backend needs its feature of this crate")),
    }
}

#[backend_extension(
    Cube: cfg(feature = "cube"),
    NdArray: cfg(feature = "ndarray"),
    Flex,
    Autodiff
)]
trait AttachGradient: Backend {
    /// The value. Under autodiff it depends on `input` by the attached gradient.
    fn attach(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        attachment: Attachment,
    ) -> FloatTensor<Self> {
        let _ = (input, attachment);
        value
    }
}

/// The primitive tensors of a backend as those of burn's public interface.
trait Bridge: Backend {
    fn wrap(tensor: FloatTensor<Self>) -> Tensor<1>;
    fn unwrap(gradient: Gradient) -> FloatTensor<Self>;
}

macro_rules! on_backend {
    ($backend:ty) => {
        impl AttachGradient for $backend {}

        impl Bridge for $backend {
            fn wrap(tensor: FloatTensor<Self>) -> Tensor<1> {
                Tensor::from_primitive::<Self>(tensor)
            }

            fn unwrap(gradient: Gradient) -> FloatTensor<Self> {
                let converted = match gradient {
                    Gradient::Matrix(tensor) => tensor.try_into_primitive::<Self>(),
                    Gradient::Vector(tensor) => tensor.try_into_primitive::<Self>(),
                };
                converted.expect("a gradient is computed on the backend of its input")
            }
        }
    };
}

on_backend!(Flex);
#[cfg(feature = "cube")]
on_backend!(Cube);
#[cfg(feature = "ndarray")]
on_backend!(NdArray);

impl<B: AttachGradient + Bridge, C: CheckpointStrategy> AttachGradient for Autodiff<B, C> {
    fn attach(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        attachment: Attachment,
    ) -> FloatTensor<Self> {
        let nodes = [value.node(), input.node()];
        let value = value.into_primitive();
        match AttachmentNode.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(attachment, value),
            OpsKind::UnTracked(operation) => operation.finish(value),
        }
    }
}

/// The node of a value with an attached gradient.
#[derive(Debug)]
struct AttachmentNode;

impl<B: Bridge> Backward<B, 2> for AttachmentNode {
    type State = Attachment;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let [value, input] = ops.parents;
        if let Some(input) = input {
            let Attachment { attached, dtype } = ops.state;
            let gradient = attached.gradient(B::wrap(upstream.clone())).of_type(dtype);
            grads.register::<B>(input.id, B::unwrap(gradient));
        }
        if let Some(value) = value {
            grads.register::<B>(value.id, upstream);
        }
    }
}
