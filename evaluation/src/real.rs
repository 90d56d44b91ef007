//! The element types of embeddings.

use ndarray::NdFloat;
use num_traits::AsPrimitive;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The element type of embeddings: `f32` or `f64`. The cosines have the same type.
///
/// ```
/// use margin_softmax_evaluation::Real;
///
/// assert_eq!(f32::UNIT_ROUNDOFF, 0.5 * f64::from(f32::EPSILON));
/// ```
pub trait Real: NdFloat + AsPrimitive<f64> + AsPrimitive<i32> + sealed::Sealed {
    /// The largest relative error of one rounding.
    const UNIT_ROUNDOFF: f64;

    /// The nearest value of this type.
    #[doc(hidden)]
    fn narrow(value: f64) -> Self;

    /// The integer as a value of this type; exact for those used here, which are below 2²⁴.
    #[doc(hidden)]
    fn integer(value: i32) -> Self;
}

impl Real for f32 {
    const UNIT_ROUNDOFF: f64 = 0.5 * f32::EPSILON as f64;

    fn narrow(value: f64) -> Self {
        value as f32
    }

    fn integer(value: i32) -> Self {
        value as f32
    }
}

impl Real for f64 {
    const UNIT_ROUNDOFF: f64 = 0.5 * f64::EPSILON;

    fn narrow(value: f64) -> Self {
        value
    }

    fn integer(value: i32) -> Self {
        f64::from(value)
    }
}
