//! Work that is compiled in this crate, once for each number type.
//!
//! A generic function is compiled in the crate that calls it: a user's program would compile the
//! engine with every change of a line, and in a debug build without optimization, whatever it says
//! of its dependencies. A [`Job`](super::Job) has a function for `f32` and one for `f64`, neither of them
//! generic, and generic code runs the right one.

/// Declares a function for numbers `F` whose body is a [`Job`](super::Job):
/// `job!(fn name<'a>(input: Input<'a, F>) -> Result<F, Error> { .. });`.
macro_rules! job {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$($lifetime:lifetime $(: $bound:lifetime)?),*>(
            $($argument:ident: $type:ty),* $(,)?
        ) -> $output:ty $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name<$($lifetime $(: $bound)?,)* F: crate::kernel::Real>(
            $($argument: $type),*
        ) -> $output {
            enum Entrance<$($lifetime $(: $bound)?),*> {
                #[allow(dead_code)] // never made: the lifetimes have to be used
                Never(std::convert::Infallible, $(std::marker::PhantomData<&$lifetime ()>),*),
            }

            impl<$($lifetime $(: $bound)?),*> crate::kernel::Job for Entrance<$($lifetime),*> {
                type Input<F: crate::kernel::Real> = ($($type,)*);
                type Output<F: crate::kernel::Real> = $output;

                // Not inlined: the function would be compiled where it is called after all.
                #[inline(never)]
                fn run_f32(input: Self::Input<f32>) -> Self::Output<f32> {
                    body(input)
                }

                #[inline(never)]
                fn run_f64(input: Self::Input<f64>) -> Self::Output<f64> {
                    body(input)
                }
            }

            fn body<$($lifetime $(: $bound)?,)* F: crate::kernel::Real>(
                ($($argument,)*): ($($type,)*),
            ) -> $output $body

            F::run::<Entrance<$($lifetime),*>>(($($argument,)*))
        }
    };
}
pub(crate) use job;
