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
use margin_softmax_device::WeightGradient;

use crate::memory::with_dtype;
use crate::operations::{add_rows, device_error};

/// The gradients of losses by several inputs, found in the backward pass.
pub(crate) trait LaterGradients: Debug + Send + Sync {
    /// The gradient by input `index`, where that of the losses is `upstream`; NaN where there is
    /// none.
    fn gradient(
        self: Arc<Self>,
        index: usize,
        upstream: Tensor<1>,
    ) -> Option<WeightGradient<Tensor<2>>>;
}

/// The gradient of a value by one of its inputs, a vector as a matrix of one row.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one per input of a step
pub(crate) enum Attached {
    /// The gradient of a scalar. Where it is that of some rows, the whole matrix exists only from
    /// the backward pass on.
    Known(WeightGradient<Tensor<2>>),
    Later(Arc<dyn LaterGradients>, usize),
}

/// The gradient by an input of this shape and type, on this device.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    attached: Attached,
    shape: Vec<usize>,
    dtype: DType,
}

impl Attached {
    /// The value, which is also a function of `input` from now on.
    pub fn to<const D: usize>(self, value: Tensor<1>, input: Tensor<D>) -> Tensor<1> {
        let (shape, dtype) = (input.dims().to_vec(), input.dtype());
        let attachment = Attachment { attached: self, shape, dtype };
        let (value, input) = (value.into_dispatch(), input.into_dispatch());
        Tensor::from_dispatch(Dispatch::attach(value, input, attachment))
    }
}

impl Attachment {
    fn gradient(self, upstream: Tensor<1>) -> Tensor<2> {
        let shape = match self.shape[..] {
            [rows, dims] => [rows, dims],
            _ => [1, self.shape.iter().product()],
        };
        let device = upstream.device();
        let (zeros, dtype) = ((&device, upstream.dtype()), self.dtype);
        let found = match self.attached {
            Attached::Known(WeightGradient { rows, gradient }) => {
                let gradient = gradient.map(|part| times(part, upstream));
                Some(WeightGradient { rows, gradient })
            }
            Attached::Later(gradients, index) => gradients.gradient(index, upstream),
        };
        let gradient = match found {
            None => Tensor::full(shape, f64::NAN, (&device, dtype)),
            Some(WeightGradient { rows: None, gradient: Some(gradient) }) => gradient,
            Some(WeightGradient { rows: Some(rows), gradient: Some(part) }) => {
                add_rows(Tensor::zeros(shape, zeros), &rows, part)
            }
            Some(WeightGradient { gradient: None, .. }) => Tensor::zeros(shape, zeros),
        };
        with_dtype(gradient, self.dtype)
    }
}

/// The gradient of a scalar times the upstream gradient. In main memory, where that is read at no
/// cost, a pass over all class weights is saved if it is 1, because the backward pass starts here.
fn times(gradient: Tensor<2>, upstream: Tensor<1>) -> Tensor<2> {
    let in_memory = matches!(upstream.device().as_dispatch(), DispatchDevice::Flex(_));
    if in_memory && upstream.clone().into_data().iter::<f64>().eq([1.0]) {
        return gradient;
    }
    gradient * upstream.reshape([1, 1])
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
    fn unwrap<const D: usize>(gradient: Tensor<D>) -> FloatTensor<Self>;
}

macro_rules! on_backend {
    ($backend:ty) => {
        impl AttachGradient for $backend {}

        impl Bridge for $backend {
            fn wrap(tensor: FloatTensor<Self>) -> Tensor<1> {
                Tensor::from_primitive::<Self>(tensor)
            }

            fn unwrap<const D: usize>(gradient: Tensor<D>) -> FloatTensor<Self> {
                let converted = gradient.try_into_primitive::<Self>();
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
            let vector = ops.state.shape.len() == 1;
            let gradient = ops.state.gradient(B::wrap(upstream.clone()));
            let gradient = match vector {
                true => B::unwrap(gradient.squeeze_dim::<1>(0)),
                false => B::unwrap(gradient),
            };
            grads.register::<B>(input.id, gradient);
        }
        if let Some(value) = value {
            grads.register::<B>(value.id, upstream);
        }
    }
}
