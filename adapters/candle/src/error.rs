//! Conversion of the core's errors to candle's error type, and back.

use std::io;

use candle_core::Error;

/// Wraps an error of the core in candle's error, which displays as the core's and keeps it: of
/// candle's variants only this one does both.
pub(crate) fn refused(error: margin_softmax::Error) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidInput, error)).bt()
}

/// The typed error of the core inside `error`, with argument, position and value; `None` if the
/// core did not cause it.
///
/// The backtrace, path and context that candle may have added are skipped.
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
        Error::Io(error) => error.get_ref()?.downcast_ref(),
        Error::Context { inner, .. }
        | Error::WithPath { inner, .. }
        | Error::WithBacktrace { inner, .. } => refusal(inner),
        _ => None,
    }
}
