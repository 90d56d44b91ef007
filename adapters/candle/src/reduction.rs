//! How the losses of a batch become one number.

use candle_core::{Device, Result, Tensor, WithDType};
use margin_softmax::{Error, Forward, Real};
use ndarray::Array1;

use crate::error::{CoreResult, refused};

/// How the losses of a batch become the objective whose gradient is taken.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use margin_softmax::CosFace;
/// use margin_softmax_candle::{MarginHead, Reduction};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F64, &Device::Cpu);
/// let head = MarginHead::new(CosFace::default(), 3, 10, vb)?;
/// let x = Tensor::randn(0.0, 1.0, (2, 3), &Device::Cpu)?;
/// let labels = Tensor::new(&[4_u32, 9], &Device::Cpu)?;
///
/// let weights = Tensor::new(&[0.5, 0.5], &Device::Cpu)?;
/// let weighted = head.forward_with(&x, &labels, Reduction::Weighted(&weights))?;
/// let mean = head.forward_with(&x, &labels, Reduction::Mean)?;
/// assert!((weighted - mean)?.to_scalar::<f64>()?.abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Reduction<'a> {
    /// The mean over the samples that count: 1/N · Σ_i L_i. Samples that are left out do not count.
    Mean,
    /// The sum: Σ_i L_i.
    Sum,
    /// The weighted sum Σ_i g_i·L_i with one weight g_i per sample: a tensor (N) of any type, on
    /// any device. Nothing is divided by N. The weights are constants: no gradient flows to them.
    Weighted(&'a Tensor),
}

impl Reduction<'_> {
    /// The reduction of so many samples, with its weights in main memory.
    pub(crate) fn read<F: Real + WithDType>(self, samples: usize) -> Result<Reducer<F>> {
        let Reduction::Weighted(weights) = self else {
            return Ok(if let Reduction::Sum = self { Reducer::Sum } else { Reducer::Mean });
        };
        let shape = weights.dims();
        if shape != [samples] {
            let (expected, actual) = (vec![samples], shape.to_vec());
            return Err(refused(Error::Shape { argument: ARGUMENT, expected, actual }));
        }
        let weights = weights.to_device(&Device::Cpu)?.to_dtype(F::DTYPE)?.to_vec1::<F>()?;
        check_finite(&weights).map_err(refused)?;
        Ok(Reducer::Weighted(weights.into()))
    }
}

const ARGUMENT: &str = "reduction weights";

/// Returns an error for a weight that is not finite, also where no gradient is computed.
fn check_finite<F: Real + WithDType>(weights: &[F]) -> CoreResult<()> {
    let refusal = |row: usize| Error::NonFinite {
        argument: ARGUMENT,
        row,
        column: 0,
        value: WithDType::to_f64(weights[row]),
    };
    weights.iter().position(|weight| !weight.is_finite()).map_or(Ok(()), |row| Err(refusal(row)))
}

/// A reduction whose weights are in main memory.
pub(crate) enum Reducer<F> {
    Mean,
    Sum,
    Weighted(Array1<F>),
}

impl<F: Real + WithDType> Reducer<F> {
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
                let pairs = forward.losses.iter().zip(weights);
                let product = |(&loss, &weight)| -> f64 {
                    WithDType::to_f64(loss) * WithDType::to_f64(weight)
                };
                WithDType::from_f64(pairs.map(product).sum())
            }
        }
    }
}
