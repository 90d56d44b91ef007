//! How the losses of a batch become one number.

use burn::tensor::Tensor;
use margin_softmax::{Error, Forward};
use ndarray::Array1;

use crate::memory::{Precision, number};

/// How the losses of a batch become the objective whose gradient is taken.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use margin_softmax::CosFace;
/// use margin_softmax_burn::{MarginHeadConfig, Reduction};
///
/// let device = Device::flex().autodiff();
/// let head = MarginHeadConfig::new(2, 3).init(CosFace::default(), &device)?;
/// let x = Tensor::from_floats([[0.9, 0.1], [-0.2, 0.8]], &device);
/// let labels = Tensor::<1, Int>::from_ints([0, 2], &device);
///
/// let weights = Tensor::from_floats([0.5, 0.5], &device);
/// let weighted = head.forward_with(x.clone(), labels.clone(), Reduction::Weighted(weights))?;
/// let mean = head.forward_with(x, labels, Reduction::Mean)?;
/// assert!((weighted - mean).into_scalar::<f32>().abs() < 1e-5);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // one per step, and a box would be in every call
pub enum Reduction {
    /// The mean over the samples that count: 1/N · Σ_i L_i. Samples that are left out do not count.
    Mean,
    /// The sum: Σ_i L_i.
    Sum,
    /// The weighted sum Σ_i g_i·L_i with one weight g_i per sample: a tensor (N) of any float type,
    /// on any device. Nothing is divided by N. The weights are constants: no gradient flows to
    /// them.
    Weighted(Tensor<1>),
}

const ARGUMENT: &str = "reduction weights";

impl Reduction {
    /// The reduction of so many samples, with its weights in main memory.
    pub(crate) fn read<F: Precision>(self, samples: usize) -> Result<Reducer<F>, Error> {
        let weights = match self {
            Reduction::Mean => return Ok(Reducer::Mean),
            Reduction::Sum => return Ok(Reducer::Sum),
            Reduction::Weighted(weights) => weights.without_autodiff(),
        };
        let actual = weights.dims().to_vec();
        if actual != [samples] {
            return Err(Error::Shape { argument: ARGUMENT, expected: vec![samples], actual });
        }
        let weights: Vec<F> = weights.into_data().iter::<F>().collect();
        // Also where no gradient is computed.
        match weights.iter().position(|weight| !weight.is_finite()) {
            None => Ok(Reducer::Weighted(weights.into())),
            Some(row) => {
                let value = number(weights[row]);
                Err(Error::NonFinite { argument: ARGUMENT, row, column: 0, value })
            }
        }
    }
}

/// A reduction whose weights are in main memory.
pub(crate) enum Reducer<F> {
    Mean,
    Sum,
    Weighted(Array1<F>),
}

impl<F: Precision> Reducer<F> {
    pub fn for_core(&self) -> margin_softmax::Reduction<'_, F> {
        match self {
            Reducer::Mean => margin_softmax::Reduction::Mean,
            Reducer::Sum => margin_softmax::Reduction::Sum,
            Reducer::Weighted(weights) => margin_softmax::Reduction::Weighted(weights),
        }
    }

    /// The objective.
    pub fn value(&self, forward: &Forward<F>) -> F {
        match self {
            Reducer::Mean => forward.mean(),
            Reducer::Sum => forward.sum(),
            Reducer::Weighted(weights) => {
                let products = forward.losses.iter().zip(weights);
                let sum: f64 = products.map(|(&loss, &g)| number(loss) * number(g)).sum();
                F::from_f64(sum).unwrap_or_else(F::nan)
            }
        }
    }
}
