//! Conversion of tensors in main memory to ndarray views, and of arrays to tensors.

use candle_core::{DType, Device, Error, Layout, Result, Storage, Tensor, WithDType};
use margin_softmax_device::Labels;
use ndarray::{Array2, ArrayView2, ShapeBuilder};

use crate::error::refused;

/// A view of a matrix in main memory, with any strides.
pub(crate) fn matrix<'a, F: WithDType>(
    storage: &'a Storage,
    layout: &Layout,
) -> Result<ArrayView2<'a, F>> {
    let (rows, columns) = layout.shape().dims2()?;
    let values = values(storage, layout)?;
    // ndarray rejects strides beyond the storage.
    let strides = match layout.stride() {
        [row, column] if !values.is_empty() => (*row, *column),
        _ => (0, 0),
    };
    ArrayView2::from_shape((rows, columns).strides(strides), values).map_err(Error::wrap)
}

/// The storage from the tensor's first entry on.
fn values<'a, F: WithDType>(storage: &'a Storage, layout: &Layout) -> Result<&'a [F]> {
    match storage {
        Storage::Cpu(storage) => {
            Ok(storage.as_slice()?.get(layout.start_offset()..).unwrap_or_default())
        }
        Storage::Cuda(_) | Storage::Metal(_) => {
            Err(Error::msg("the margin head reads tensors in main memory only").bt())
        }
    }
}

/// Converts an array to a tensor in main memory, without a copy if it is in standard layout.
pub(crate) fn tensor<F: WithDType>(array: Array2<F>) -> Result<Tensor> {
    let shape = array.dim();
    let values = if array.is_standard_layout() {
        array.into_raw_vec_and_offset().0
    } else {
        array.into_iter().collect()
    };
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Labels (N) of any integer type; the `ignored` one becomes
/// [`IGNORED`](margin_softmax::IGNORED).
pub(crate) fn labels(labels: &Tensor, ignored: Option<i64>) -> Result<Labels> {
    labels.dims1()?;
    if !labels.dtype().is_int() {
        return Err(Error::UnsupportedDTypeForOp(labels.dtype(), "labels of a margin head").bt());
    }
    let labels = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let labels: Vec<i128> = labels.into_iter().map(i128::from).collect();
    Labels::new(&labels, ignored).map_err(refused)
}
