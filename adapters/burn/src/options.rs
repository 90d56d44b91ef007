//! What `run` takes and returns.

use burn::tensor::Tensor;
use margin_softmax::Error;
use margin_softmax_device::Reducer;
use ndarray::Array1;

use crate::memory::Precision;

/// How the losses of a batch become the objective whose gradient is taken. The weights of a weighted
/// sum are a tensor (N) of any float type, on any device.
pub type Reduction = margin_softmax_device::Reduction<Tensor<1>>;

/// How [`MarginHead::run`](crate::MarginHead::run) computes its objective: the mean over all classes
/// unless set.
pub type Options<'a> = margin_softmax_device::Options<'a, Tensor<1>>;

/// What [`MarginHead::run`](crate::MarginHead::run) returns; `F` is the type that the head computes
/// in.
pub type Output<F = f32> = margin_softmax_device::Output<Tensor<1>, F>;

/// The reduction of so many samples, with its weights in main memory.
pub(crate) fn reducer<F: Precision>(
    reduction: Reduction,
    samples: usize,
) -> Result<Reducer<F>, Error> {
    match reduction {
        Reduction::Weighted(weights) => {
            let weights = weights.without_autodiff();
            let shape = weights.dims();
            Reducer::weighted(weights.into_data().iter::<F>().collect(), &shape, samples)
        }
        Reduction::Sum => Ok(Reducer::Sum),
        Reduction::None => Ok(Reducer::None),
        _ => Ok(Reducer::Mean),
    }
}

/// The class prior in main memory.
pub(crate) fn log_prior<F: Precision>(prior: Tensor<1>) -> Array1<F> {
    prior.without_autodiff().into_data().iter::<F>().collect()
}
