//! Checks of a head that run before the core is called.

use candle_core::{DType, Error, Result, Tensor};

use crate::error::refused;

/// Returns an error for a head without classes or dimensions.
pub(crate) fn not_empty(classes: usize, dims: usize) -> Result<()> {
    if classes > 0 && dims > 0 {
        return Ok(());
    }
    let actual = vec![classes, dims];
    Err(refused(margin_softmax::Error::Empty { argument: "class weights", actual }))
}

/// Returns an error for a tensor that is not in main memory.
pub(crate) fn in_main_memory(argument: &str, tensor: &Tensor) -> Result<()> {
    if tensor.device().is_cpu() {
        return Ok(());
    }
    let device = tensor.device().location();
    Err(Error::msg(format!(
        "{argument} are on {device:?}, but a margin head keeps them on the CPU"
    )))
}

/// Returns an error for a tensor of another type.
pub(crate) fn same_type(msg: &'static str, expected: DType, tensor: &Tensor) -> Result<()> {
    let got = tensor.dtype();
    if got == expected { Ok(()) } else { Err(Error::UnexpectedDType { msg, expected, got }.bt()) }
}

/// The error for a type that the core does not compute in.
pub(crate) fn unsupported(dtype: DType) -> Error {
    Error::UnsupportedDTypeForOp(dtype, "a margin head, whose class weights are F32 or F64").bt()
}
