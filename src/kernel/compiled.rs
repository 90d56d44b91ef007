//! Work that is compiled in this crate, once for each number type.
//!
//! A generic function is compiled in the crate that calls it: a user's program would compile the
//! engine with every change of a line, and in a debug build without optimization, whatever it says
//! of its dependencies. A [`Job`](super::Job) has a function for `f32` and one for `f64`, neither of them
//! generic, and generic code runs the right one.

/// Declares a [`Job`](super::Job) that runs the generic function `$run`, from its argument to its result for
/// numbers `F`: `job!(Name<'a>, Input<'a, F> => Result<F, Error>, run)`; a caller runs
/// `F::run::<Name<'_>>(input)`.
macro_rules! job {
    (
        $visibility:vis $name:ident<$($lifetime:lifetime $(: $bound:lifetime)?),*>,
        $input:ty => $output:ty, $run:path
    ) => {
        $visibility enum $name<$($lifetime $(: $bound)?),*> {
            #[allow(dead_code)] // never made: the lifetimes have to be used
            Never(std::convert::Infallible, $(std::marker::PhantomData<&$lifetime ()>),*),
        }

        impl<$($lifetime $(: $bound)?),*> crate::kernel::Job for $name<$($lifetime),*> {
            type Input<F: crate::kernel::Real> = $input;
            type Output<F: crate::kernel::Real> = $output;

            // Not inlined: the function would be compiled where it is called after all.
            #[inline(never)]
            fn run_f32(input: Self::Input<f32>) -> Self::Output<f32> {
                $run(input)
            }

            #[inline(never)]
            fn run_f64(input: Self::Input<f64>) -> Self::Output<f64> {
                $run(input)
            }
        }
    };
}
pub(crate) use job;
