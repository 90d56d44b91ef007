//! The head whose class weights live on the network's device: sweeps by candle's tensor operations,
//! and what is exact in f64 by the core.

mod self_check;
mod step;
mod sweeps;

pub use self_check::SelfCheck;
pub(crate) use step::DeviceStep;

use candle_core::{Device, Result, Tensor, WithDType};
use ndarray::Array2;

/// Reads a matrix of the device.
fn read<F: WithDType>(matrix: &Tensor) -> Result<Array2<F>> {
    let shape = matrix.dims2()?;
    let numbers = matrix.flatten_all()?.to_vec1::<F>()?;
    Array2::from_shape_vec(shape, numbers).map_err(candle_core::Error::wrap)
}

/// Numbers of rows or classes as a tensor.
pub(crate) fn ids(numbers: &[usize], device: &Device) -> Result<Tensor> {
    let number = |&number: &usize| u32::try_from(number).map_err(candle_core::Error::wrap);
    let numbers = numbers.iter().map(number).collect::<Result<Vec<u32>>>()?;
    let count = numbers.len();
    Tensor::from_vec(numbers, count, device)
}
