//! Devices and tensors for tests.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// The device of the head.
pub fn memory() -> Device {
    Device::flex().autodiff()
}

/// A backend other than that of the head, which stands in for a GPU. It takes minutes to build.
#[cfg(feature = "other-backend")]
#[allow(deprecated)] // the only other backend without further system dependencies
pub fn elsewhere() -> Device {
    Device::ndarray().autodiff()
}

/// Without another backend, that of the head.
#[cfg(not(feature = "other-backend"))]
pub fn elsewhere() -> Device {
    memory()
}

/// Pseudo-random numbers within ±1, the same on every device.
pub fn numbers<const D: usize>(shape: [usize; D], seed: f64, to: (&Device, DType)) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let values = (0..count).map(|i| (seed + 12.9898 * i as f64).sin() * 43758.5453);
    let values: Vec<f64> = values.map(|value| 2.0 * (value - value.floor()) - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), to)
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.without_autodiff().cast(DType::F64).into_data().iter::<f64>().collect()
}

/// Asserts that two tensors agree up to `tolerance` times the largest number of either.
pub fn assert_close<const D: usize>(what: &str, a: Tensor<D>, b: Tensor<D>, tolerance: f64) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (values(a), values(b));
    let largest = a.iter().chain(&b).fold(0.0_f64, |most, value| most.max(value.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{i}]: {a} and {b}");
    }
}
