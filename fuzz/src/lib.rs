//! Inputs for the fuzz targets, generated from the fuzzer's bytes, and the assertions on every
//! result: either an [`Error`](margin_softmax::Error) with nothing written, or finite numbers.

#[path = "../../tests/suite/configuration.rs"]
mod configuration;
mod losses;
mod numbers;
mod tensors;

pub use losses::Loss;
pub use numbers::{Number, Working};
pub use tensors::{Labels, Matrix, Tensor2, Vector};

use margin_softmax::{Error, Forward, IGNORED, MarginLoss, Reduction};
use ndarray::Array1;

/// The value of gradients before a call. A call that returns an error must leave it there.
pub const UNTOUCHED: f64 = 1234.5;

/// Asserts that every number is finite.
pub fn assert_finite<'a, F: Working>(name: &str, values: impl IntoIterator<Item = &'a F>) {
    for (index, value) in values.into_iter().enumerate() {
        assert!(value.is_finite(), "{name}: entry {index} is {value}");
    }
}

/// Asserts that a successful call wrote finite numbers, and one with an error nothing.
pub fn assert_written<'a, F: Working>(
    succeeded: bool,
    name: &str,
    values: impl IntoIterator<Item = &'a F>,
) {
    if succeeded {
        return assert_finite(name, values);
    }
    let untouched = F::of(UNTOUCHED);
    for (index, value) in values.into_iter().enumerate() {
        assert!(*value == untouched, "{name}: entry {index} is {value} after an error");
    }
}

/// Asserts the invariants of every forward pass. A smoothed loss has a difference of logits, whose
/// rounding may exceed the loss where they are huge; any other is a softplus.
pub fn assert_forward<F: Working>(
    loss: &impl MarginLoss,
    forward: &Forward<F>,
    samples: usize,
    classes: usize,
) {
    assert_eq!(forward.losses.len(), samples);
    assert_finite("losses", &forward.losses);
    let least = if loss.label_smoothing() > 0.0 { F::of(f64::NEG_INFINITY) } else { F::of(0.0) };
    assert!(forward.losses.iter().all(|&loss| loss >= least), "a negative loss");
    assert!(forward.mean().is_finite() && forward.sum().is_finite());
    assert!((0.0..=1.0).contains(&forward.accuracy()));
    let left_out = forward.predictions().iter().filter(|&&class| class == IGNORED).count();
    assert_eq!(left_out, samples - forward.counted());
    assert!(forward.predictions().iter().all(|&class| class < classes || class == IGNORED));
    let straight = F::of(std::f64::consts::PI);
    assert!(forward.target_angles().iter().all(|&theta| theta >= F::of(0.0) && theta <= straight));
}

/// Asserts that an error has a message.
pub fn assert_readable(error: &Error) {
    assert!(!error.to_string().is_empty());
}

/// The reduction of the losses.
#[derive(Debug, Clone, arbitrary::Arbitrary)]
pub enum Reduce {
    Mean,
    Sum,
    /// Weights; above 250, their number differs from the number of samples.
    Weighted(Vector, u8),
}

impl Reduce {
    /// The weights for `samples` samples, if the reduction has any.
    pub fn weights<F: Working>(&self, samples: usize) -> Option<Array1<F>> {
        match self {
            Reduce::Mean | Reduce::Sum => None,
            Reduce::Weighted(weights, misfit) => {
                Some(weights.fill(samples + usize::from(misfit.saturating_sub(250))))
            }
        }
    }

    /// The reduction by these weights.
    pub fn with<'a, F: Working>(&self, weights: Option<&'a Array1<F>>) -> Reduction<'a, F> {
        match (self, weights) {
            (_, Some(weights)) => Reduction::Weighted(weights),
            (Reduce::Mean, None) => Reduction::Mean,
            (_, None) => Reduction::Sum,
        }
    }
}
