//! Tensors in main memory, where the head reads them.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Device, Element, GradientCheckpointingStrategy, Int, Tensor};
use margin_softmax::{Error, Real};
use margin_softmax_device::Labels;
use ndarray::ArrayView2;

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

/// Main memory, with the autodiff settings of `device`.
pub(crate) fn main_memory(device: &Device) -> Device {
    let memory = Device::flex();
    match device.gradient_checkpointing_strategy() {
        None => memory,
        Some(GradientCheckpointingStrategy::Disabled) => memory.autodiff(),
        Some(GradientCheckpointingStrategy::Balanced) => memory.autodiff().gradient_checkpointing(),
    }
}

/// Moves the tensor to `device`; a step of the graph only if it is on another device.
pub(crate) fn on_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    if tensor.device() == *device { tensor } else { tensor.to_device(device) }
}

/// Converts the tensor to `dtype`; a step of the graph only if it has another type.
pub(crate) fn with_dtype<const D: usize>(tensor: Tensor<D>, dtype: DType) -> Tensor<D> {
    if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) }
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
pub(crate) fn view<F: Precision>(
    numbers: &FlexTensor,
    shape: [usize; 2],
) -> Result<ArrayView2<'_, F>, Error> {
    let entries = F::entries(numbers).unwrap_or_default();
    let (expected, actual) = (shape.to_vec(), vec![entries.len()]);
    let refused = |_| Error::Shape { argument: "a tensor of the step", expected, actual };
    ArrayView2::from_shape(shape, entries).map_err(refused)
}

/// Labels of any integer type; the `ignored` one becomes [`IGNORED`](margin_softmax::IGNORED).
pub(crate) fn read_labels(labels: Tensor<1, Int>, ignored: Option<i64>) -> Result<Labels, Error> {
    let data = labels.without_autodiff().into_data();
    let labels: Vec<i128> = match data.dtype() {
        DType::U64 => data.iter::<u64>().map(i128::from).collect(),
        _ => data.iter::<i64>().map(i128::from).collect(),
    };
    Labels::new(&labels, ignored)
}
