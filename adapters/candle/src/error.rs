//! The core's refusals inside candle's error type, and the way back.

use candle_core::Error;

/// What the core answers.
pub(crate) type CoreResult<T> = Result<T, margin_softmax::Error>;

/// What candle carries: it reads as the refusal does, and keeps it.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Refusal(margin_softmax::Error);

// candle prints what it wraps with `Debug`; the user is to read the sentence.
impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A refusal of the core as candle's error.
pub(crate) fn refused(error: margin_softmax::Error) -> Error {
    let context = String::from("refused by the margin head");
    Error::WrappedContext { wrapped: Box::new(Refusal(error)), context }.bt()
}

/// What the core refused, if that is the reason of this error: argument, place and value, typed.
///
/// It looks through the backtrace, the path and the context that candle may have put around it.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{VarBuilder, VarMap};
/// use margin_softmax::{ArcFace, Error};
/// use margin_softmax_candle::{MarginHead, refusal};
///
/// let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu);
/// let head = MarginHead::new(ArcFace::default(), 2, 3, vb)?;
/// let x = Tensor::new(&[[1.0_f32, 2.0], [0.5, -1.0]], &Device::Cpu)?;
/// let labels = Tensor::new(&[2_u32, 3], &Device::Cpu)?;
///
/// let error = head.forward(&x, &labels).unwrap_err();
/// assert_eq!(refusal(&error), Some(&Error::Label { row: 1, label: 3, classes: 3 }));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn refusal(error: &Error) -> Option<&margin_softmax::Error> {
    match error {
        Error::WrappedContext { wrapped, .. } => {
            wrapped.downcast_ref::<Refusal>().map(|Refusal(error)| error)
        }
        Error::Context { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::WithBacktrace { inner, .. } => refusal(inner),
        _ => None,
    }
}
