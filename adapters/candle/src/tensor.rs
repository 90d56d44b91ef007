//! Conversion of tensors in main memory to ndarray views, and of arrays to tensors.

use candle_core::{DType, Device, Error, Layout, Result, Storage, Tensor, WithDType};
use margin_softmax::{labels_from, labels_from_ignoring};
use ndarray::{Array, ArrayView1, ArrayView2, Dimension, ShapeBuilder};

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

/// A view of a vector in main memory.
pub(crate) fn vector<'a, F: WithDType>(
    storage: &'a Storage,
    layout: &Layout,
) -> Result<ArrayView1<'a, F>> {
    let length = layout.shape().dims1()?;
    let values = values(storage, layout)?;
    ArrayView1::from_shape(length.strides(layout.stride()[0]), values).map_err(Error::wrap)
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
pub(crate) fn tensor<F: WithDType, D: Dimension>(array: Array<F, D>) -> Result<Tensor> {
    let shape = array.shape().to_vec();
    let values = if array.is_standard_layout() {
        array.into_raw_vec_and_offset().0
    } else {
        array.into_iter().collect()
    };
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Converts labels (N) of any integer type to class numbers; the `ignored` one becomes
/// [`IGNORED`](margin_softmax::IGNORED).
pub(crate) fn labels(labels: &Tensor, ignored: Option<i64>) -> Result<Vec<usize>> {
    labels.dims1()?;
    if !labels.dtype().is_int() {
        return Err(Error::UnsupportedDTypeForOp(labels.dtype(), "labels of a margin head").bt());
    }
    let labels = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    let labels = match ignored {
        Some(ignored) => labels_from_ignoring(&labels, ignored),
        None => labels_from(&labels),
    };
    labels.map_err(refused)
}
