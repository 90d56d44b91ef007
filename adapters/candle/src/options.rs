//! What `run` takes and returns.

use candle_core::{Device, Result, Tensor, WithDType};
use margin_softmax::Real;
use margin_softmax_device::Reducer;
use ndarray::Array1;

use crate::error::refused;

/// How the losses of a batch become the objective whose gradient is taken. The weights of a weighted
/// sum are a tensor (N) of any type, on any device.
pub type Reduction = margin_softmax_device::Reduction<Tensor>;

/// How [`MarginHead::run`](crate::MarginHead::run) computes its objective: the mean over all classes
/// unless set.
pub type Options<'a> = margin_softmax_device::Options<'a, Tensor>;

/// What [`MarginHead::run`](crate::MarginHead::run) returns; `F` is the type of the class weights.
pub type Output<F = f32> = margin_softmax_device::Output<Tensor, F>;

/// The reduction of so many samples, with its weights in main memory.
pub(crate) fn reducer<F: Real + WithDType>(
    reduction: Reduction,
    samples: usize,
) -> Result<Reducer<F>> {
    match reduction {
        Reduction::Weighted(weights) => {
            let numbers = weights.flatten_all()?.to_device(&Device::Cpu)?.to_dtype(F::DTYPE)?;
            Reducer::weighted(numbers.to_vec1()?, weights.dims(), samples).map_err(refused)
        }
        Reduction::Sum => Ok(Reducer::Sum),
        Reduction::None => Ok(Reducer::None),
        _ => Ok(Reducer::Mean),
    }
}

/// The class prior (C) in main memory.
pub(crate) fn log_prior<F: Real + WithDType>(prior: &Tensor) -> Result<Array1<F>> {
    prior.dims1()?;
    Ok(prior.to_device(&Device::Cpu)?.to_dtype(F::DTYPE)?.to_vec1()?.into())
}
