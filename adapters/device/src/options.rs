//! What a head's `run` takes and returns.

use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::{Error, Forward, Real};
use ndarray::Array1;

/// How the losses of a batch become the objective whose gradient is taken; `T` is the framework's
/// tensor.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Reduction<T> {
    /// The mean over the samples that count: 1/N · Σ_i L_i. Ignored samples do not count.
    #[default]
    Mean,
    /// The sum: Σ_i L_i.
    Sum,
    /// The weighted sum Σ_i g_i·L_i with one weight g_i per sample: a tensor (N) of any float type,
    /// on any device. Nothing is divided by N. The weights are constants: no gradient flows to
    /// them.
    Weighted(T),
    /// No reduction: the loss L_i of each sample (N), for an objective of your own. The backward pass
    /// computes the losses again, with the gradients for the upstream gradient of each.
    None,
}

/// How a step computes its objective: the mean over all classes unless set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Options<'a, T> {
    /// How the losses become one number.
    pub reduction: Reduction<T>,
    /// Partial FC: what draws the classes of the step, with those of the batch; all without. It is
    /// unchanged where the step is refused.
    pub sampler: Option<&'a mut ClassSampler>,
    /// The class prior, which is added to the logits of the step: a tensor (C) of any float type, on
    /// any device. It is a constant: no gradient flows to it. None unless set.
    pub log_prior: Option<T>,
}

/// What a step found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Output<T, F> {
    /// The objective, or the losses (N) under [`Reduction::None`], differentiable with respect to
    /// embeddings, class weights and bias.
    pub loss: T,
    /// The loss, target angle and margin-free prediction of each sample, without a graph.
    pub forward: Forward<F>,
    /// The classes that the sampler drew: the rows of class weights that have a gradient.
    pub sample: Option<ClassSample>,
}

/// A reduction whose weights are in main memory.
#[derive(Debug)]
pub enum Reducer<F> {
    /// The mean.
    Mean,
    /// The sum.
    Sum,
    /// The weighted sum.
    Weighted(Array1<F>),
    /// The losses themselves.
    None,
}

impl<T> Default for Options<'_, T> {
    fn default() -> Self {
        Options { reduction: Reduction::Mean, sampler: None, log_prior: None }
    }
}

impl<'a, T> Options<'a, T> {
    /// The same with another reduction than the mean.
    pub fn with_reduction(self, reduction: Reduction<T>) -> Self {
        Options { reduction, ..self }
    }

    /// The same among classes that `sampler` draws.
    pub fn with_sampler(self, sampler: &'a mut ClassSampler) -> Self {
        Options { sampler: Some(sampler), ..self }
    }

    /// The same with a class prior `p` (C), as
    /// [`Batch::with_log_prior`](margin_softmax::Batch::with_log_prior): balanced softmax, logit
    /// adjustment.
    pub fn with_log_prior(self, p: T) -> Self {
        Options { log_prior: Some(p), ..self }
    }
}

impl<T, F> Output<T, F> {
    /// What an adapter returns.
    pub fn new(loss: T, forward: Forward<F>, sample: Option<ClassSample>) -> Self {
        Output { loss, forward, sample }
    }
}

const ARGUMENT: &str = "reduction weights";

impl<F: Real> Reducer<F> {
    /// A weighted sum of so many samples; `shape` is that of the tensor of weights.
    ///
    /// # Errors
    /// [`Error::Shape`], and [`Error::NonFinite`] also where no gradient is computed.
    pub fn weighted(weights: Vec<F>, shape: &[usize], samples: usize) -> Result<Self, Error> {
        if shape != [samples] {
            let (expected, actual) = (vec![samples], shape.to_vec());
            return Err(Error::Shape { argument: ARGUMENT, expected, actual });
        }
        match weights.iter().position(|weight| !weight.is_finite()) {
            None => Ok(Reducer::Weighted(weights.into())),
            Some(row) => {
                let value = number(weights[row]);
                Err(Error::NonFinite { argument: ARGUMENT, row, column: 0, value })
            }
        }
    }

    /// The reduction as the core takes it; `None` where no gradient is computed with the losses.
    pub fn for_core(&self) -> Option<margin_softmax::Reduction<'_, F>> {
        match self {
            Reducer::Mean => Some(margin_softmax::Reduction::Mean),
            Reducer::Sum => Some(margin_softmax::Reduction::Sum),
            Reducer::Weighted(weights) => Some(margin_softmax::Reduction::Weighted(weights)),
            Reducer::None => None,
        }
    }

    /// The objective, one number, or the losses.
    pub fn values(&self, forward: &Forward<F>) -> Vec<F> {
        match self {
            Reducer::Mean => vec![forward.mean()],
            Reducer::Sum => vec![forward.sum()],
            Reducer::Weighted(weights) => {
                let products = forward.losses.iter().zip(weights);
                vec![narrow(products.map(|(&loss, &g)| number(loss) * number(g)).sum())]
            }
            Reducer::None => forward.losses.to_vec(),
        }
    }
}

/// The number in f64.
pub(crate) fn number<F: Real>(number: F) -> f64 {
    number.to_f64().unwrap_or(f64::NAN)
}

/// The number, rounded to nearest.
pub(crate) fn narrow<F: Real>(number: f64) -> F {
    F::from_f64(number).unwrap_or_else(F::nan)
}
