//! The head whose class weights live on the network's device: sweeps by burn's tensor operations,
//! and what is exact in f64 by the core.

mod inputs;
mod operation;
mod self_check;
mod step;
mod sweeps;
mod tiles;

pub(crate) use inputs::DeviceInputs;
pub(crate) use operation::check_supported;
pub use self_check::SelfCheck;

use burn::tensor::{DType, Device, Int, Tensor, TensorData, Transaction};
use margin_softmax::Error;

/// The error of a device.
pub(crate) fn device_error(device: &Device, reason: &str) -> Error {
    Error::Device { device: format!("{device:?}"), reason: reason.to_owned() }
}

/// Reads tensors of the device.
fn read(device: &Device, tensors: Transaction) -> Result<Vec<TensorData>, Error> {
    tensors.try_execute().map_err(|error| device_error(device, &error.to_string()))
}

/// Numbers of rows or classes as a tensor, whatever the default integer of the device.
fn ids(numbers: &[i64], device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = numbers.iter().map(|&number| number as i32).collect();
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), (device, DType::I32))
}
