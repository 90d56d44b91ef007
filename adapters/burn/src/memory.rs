//! Tensors in main memory, where the head reads them.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{
    DType, Device, Element, GradientCheckpointingStrategy, Int, Tensor, TensorData,
};
use margin_softmax::{Error, Real, labels_from, labels_from_ignoring};
use ndarray::{ArrayView, Dimension, IntoDimension};

/// The types that a head computes in: `f32` and `f64`. Sealed, like [`Real`].
pub trait Precision: Real + Element {
    /// The entries of a tensor of this type, if they are contiguous.
    #[doc(hidden)]
    fn entries(tensor: &FlexTensor) -> Option<&[Self]>;
}

impl Precision for f32 {
    fn entries(tensor: &FlexTensor) -> Option<&[Self]> {
        tensor.as_slice()
    }
}

impl Precision for f64 {
    fn entries(tensor: &FlexTensor) -> Option<&[Self]> {
        tensor.as_slice()
    }
}

/// The number in f64.
pub(crate) fn number<F: Precision>(number: F) -> f64 {
    number.elem()
}

/// Main memory, with the autodiff settings of `device`.
pub(crate) fn main_memory(device: &Device) -> Device {
    let memory = Device::flex();
    match device.gradient_checkpointing_strategy() {
        None => memory,
        Some(GradientCheckpointingStrategy::Disabled) => memory.autodiff(),
        Some(GradientCheckpointingStrategy::Balanced) => memory.autodiff().gradient_checkpointing(),
    }
}

/// Moves a tensor to main memory and converts it to `F`. Both are recorded in the autodiff graph.
pub(crate) fn bring<F: Precision, const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    with_dtype(on_device(tensor.dequantize(), &Device::flex()), F::dtype())
}

/// Moves the tensor to `device`; a step of the graph only if it is on another device.
pub(crate) fn on_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    if tensor.device() == *device { tensor } else { tensor.to_device(device) }
}

/// Converts the tensor to `dtype`; a step of the graph only if it has another type.
pub(crate) fn with_dtype<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
}

/// Converts numbers to a tensor in main memory, without a copy.
pub(crate) fn tensor_of<F: Precision>(numbers: Vec<F>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

/// The numbers of a tensor in row-major order, without a copy if it stores them so in main memory.
pub(crate) fn numbers_of<const D: usize>(tensor: &Tensor<D>) -> FlexTensor {
    let tensor = tensor.clone().without_autodiff();
    match tensor.clone().try_into_primitive::<Flex>() {
        Ok(tensor) => tensor.to_contiguous(),
        Err(_) => FlexTensor::from_data(tensor.into_data()),
    }
}

/// Converts row-major numbers to an array.
///
/// # Errors
/// [`Error::Shape`] unless the numbers are of type `F` and as many as `shape` has entries.
pub(crate) fn view<'a, F: Precision, D: Dimension>(
    numbers: &'a FlexTensor,
    argument: &'static str,
    shape: impl IntoDimension<Dim = D>,
) -> Result<ArrayView<'a, F, D>, Error> {
    let shape = shape.into_dimension();
    let entries = F::entries(numbers).unwrap_or_default();
    ArrayView::from_shape(shape.clone(), entries).map_err(|_| Error::Shape {
        argument,
        expected: shape.slice().to_vec(),
        actual: vec![entries.len()],
    })
}

/// The labels of a step, and whether some may be ignored.
#[derive(Debug)]
pub(crate) struct Labels {
    pub classes: Vec<usize>,
    pub with_ignored: bool,
}

impl Labels {
    /// Converts labels of any integer type; the `ignored` one becomes
    /// [`IGNORED`](margin_softmax::IGNORED).
    pub fn read(labels: Tensor<1, Int>, ignored: Option<i64>) -> Result<Self, Error> {
        let data = labels.without_autodiff().into_data();
        let labels: Vec<i128> = match data.dtype() {
            DType::U64 => data.iter::<u64>().map(i128::from).collect(),
            _ => data.iter::<i64>().map(i128::from).collect(),
        };
        let classes = match ignored {
            Some(ignored) => labels_from_ignoring(&labels, i128::from(ignored)),
            None => labels_from(&labels),
        };
        Ok(Labels { classes: classes?, with_ignored: ignored.is_some() })
    }
}
