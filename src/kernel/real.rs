//! The two number types.

use std::fmt::{Debug, Display, LowerExp};
use std::iter::Sum;

use ndarray::{LinalgScalar, ScalarOperand};
use num_traits::{Float, FromPrimitive, NumAssign};

use super::exp::{exp_f32, exp_f64};
use super::simd::{Isa, Vector};

/// The type of the data: `f32` or `f64`. Hyper-parameters are always `f64`.
///
/// Generic code over `F: Real` may rely on the traits below: the operations of
/// [`num_traits::Float`], conversions by [`num_traits::FromPrimitive`], matrix products of ndarray
/// ([`LinalgScalar`]), and that values are `Send`, `Sync` and plain data. The trait is sealed: no
/// type outside this crate implements it, so later versions may ask more of it. Further methods
/// that code completion may show are internal and can change in any version.
///
/// ```
/// use margin_softmax::Real;
///
/// fn mean<F: Real>(losses: &[F]) -> Option<F> {
///     Some(losses.iter().sum::<F>() / F::from_usize(losses.len())?)
/// }
/// assert_eq!(mean(&[1.0_f32, 2.0]), Some(1.5));
/// ```
pub trait Real:
    Element
    + Float
    + LinalgScalar
    + ScalarOperand
    + FromPrimitive
    + NumAssign
    + Sum
    + for<'a> Sum<&'a Self>
    + Default
    + Debug
    + Display
    + LowerExp
    + Send
    + Sync
    + 'static
{
}

impl Real for f32 {}
impl Real for f64 {}

/// What the kernel needs of a number type; it seals [`Real`].
pub trait Element: Sized + Copy + 'static {
    /// The smallest norm that is accepted: neither its inverse nor a gradient divided by it leaves
    /// the type's range.
    const MIN_NORM: f64;
    /// The largest, its reciprocal.
    const MAX_NORM: f64;
    /// The largest finite value of the type.
    const MAX: f64;

    /// The largest index that [`from_index`](Self::from_index) takes.
    const MOST_INDEX: u64;

    /// Runs a job for this type.
    fn run<J: Job>(input: J::Input<Self>) -> J::Output<Self>
    where
        Self: Real;

    /// A vector of these numbers at one level of instructions.
    type Vector<I: Isa>: Vector<Self>;

    /// The same numbers, if they are `f32`.
    fn as_f32(numbers: &[Self]) -> Option<&[f32]>;
    /// As [`as_f32`](Self::as_f32).
    fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;
    /// Exact.
    fn widen(self) -> f64;
    /// Rounded to nearest.
    fn narrow(value: f64) -> Self;
    /// An index as the bits of a positive normal number, larger for a larger index: what carries
    /// integers beyond the mantissa through a channel that moves or compares numbers.
    fn from_index(index: u64) -> Self;
    /// The index back.
    fn to_index(self) -> u64;
    /// e^x for every x, branch-free.
    fn exp_inline<I: Isa>(self) -> Self;
}

/// One entrance to the engine: work that is compiled in this crate, once for each type.
pub trait Job {
    type Input<F: Real>;
    type Output<F: Real>;

    fn run_f32(input: Self::Input<f32>) -> Self::Output<f32>;
    fn run_f64(input: Self::Input<f64>) -> Self::Output<f64>;
}

macro_rules! element {
    ($float:ident, $bits:ident, $vector:ident, $run:ident, $min_norm:literal, $max_norm:literal, $exp:ident, |$numbers:ident| $as_f32:expr) => {
        impl Element for $float {
            const MIN_NORM: f64 = $min_norm;
            const MAX_NORM: f64 = $max_norm;
            const MAX: f64 = $float::MAX as f64;
            const MOST_INDEX: u64 = ($float::MAX.to_bits() - $float::MIN_POSITIVE.to_bits()) as u64;

            #[inline(always)]
            fn run<J: Job>(input: J::Input<Self>) -> J::Output<Self> {
                J::$run(input)
            }

            type Vector<I: Isa> = I::$vector;

            fn as_f32(numbers: &[Self]) -> Option<&[f32]> {
                let $numbers = numbers;
                $as_f32
            }

            fn as_f32_mut(numbers: &mut [Self]) -> Option<&mut [f32]> {
                let $numbers = numbers;
                $as_f32
            }

            #[inline(always)]
            fn widen(self) -> f64 {
                self as f64
            }

            #[inline(always)]
            fn narrow(value: f64) -> Self {
                value as $float
            }

            fn from_index(index: u64) -> Self {
                let index = index.min(Self::MOST_INDEX) as $bits;
                $float::from_bits($float::MIN_POSITIVE.to_bits() + index)
            }

            fn to_index(self) -> u64 {
                u64::from(self.to_bits().saturating_sub($float::MIN_POSITIVE.to_bits()))
            }

            #[inline(always)]
            fn exp_inline<I: Isa>(self) -> Self {
                $exp::<I>(self)
            }
        }
    };
}

element!(f32, u32, F32, run_f32, 1e-30, 1e30, exp_f32, |numbers| Some(numbers));
element!(f64, u64, F64, run_f64, 1e-290, 1e290, exp_f64, |_numbers| None);
