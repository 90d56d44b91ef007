//! One loop, compiled for each level of the CPU; which one runs is a value.

use std::sync::OnceLock;

use super::simd::{self, Isa};

/// A loop over slices. `run` must be `#[inline(always)]`, so that it is compiled inside the
/// function that enables the CPU's features.
pub(crate) trait Op {
    type Output;

    /// The loop, for one instruction set.
    fn run<I: Isa>(self) -> Self::Output;
}

/// Defines a function that is compiled for every level of vector instructions:
///
/// ```text
/// op! {
///     /// What it does.
///     pub(crate) fn name<I at level>[F: Real](z: &[F]) -> f64 { body }
/// }
/// ```
///
/// declares `name<F: Real>(level: Level, z)`, which runs `body` at that level, with `I: Isa` its
/// instruction set; `<I>` alone declares `name<F: Real>(z)`, which runs at the highest level. Other
/// generics stand in brackets, since a macro cannot tell where `<…>` ends. An argument is a name, or
/// an array or tuple of names. `madd` and the operations of `simd` are what a body can do with `I`.
macro_rules! op {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident<$isa:ident $(at $level:ident)?>[$($generics:tt)*](
            $($argument:tt: $type:ty),* $(,)?
        ) $(-> $output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $visibility fn $name<$($generics)*>(
            $($level: $crate::kernel::dispatch::Level,)? $($argument: $type),*
        ) $(-> $output)? {
            /// The arguments, as a tuple: what `dispatch` hands to a level.
            struct Arguments<T>(T);

            impl<$($generics)*> $crate::kernel::dispatch::Op for Arguments<($($type,)*)> {
                #[allow(unused_parens)] // Without an output this is the unit.
                type Output = ($($output)?);

                #[inline(always)]
                fn run<$isa: $crate::kernel::simd::Isa>(self) $(-> $output)? {
                    let Arguments(($($argument,)*)) = self;
                    $body
                }
            }

            let level = op!(level $($level)?);
            $crate::kernel::dispatch::dispatch(level, Arguments(($($argument,)*)))
        }
    };
    (level) => { $crate::kernel::dispatch::Level::detect() };
    (level $level:ident) => { $level };
}
pub(crate) use op;

/// A level of vector instructions that this CPU has: there is no value for one that it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level(Kind);

/// The levels from the lowest to the highest, each with the CPU features that it detects and that
/// its functions enable.
macro_rules! levels {
    ($($(#[$attribute:meta])* $kind:ident: $isa:ident [$($feature:tt)*] $run:ident;)*) => {
        // Private: `dispatch` relies on every `Level` having passed `Kind::is_available`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Kind {
            $($(#[$attribute])* $kind,)*
        }

        impl Kind {
            const ALL: &[Kind] = &[$($(#[$attribute])* Kind::$kind,)*];

            fn is_available(self) -> bool {
                match self {
                    $($(#[$attribute])*
                    Kind::$kind => true $(&& is_x86_feature_detected!($feature))*,)*
                }
            }
        }

        /// Runs `op` at a level.
        #[inline]
        pub(crate) fn dispatch<O: Op>(level: Level, op: O) -> O::Output {
            match level.0 {
                // SAFETY: a `Level` of this kind exists only if `is_available` has detected the
                // features that the function enables.
                $($(#[$attribute])* #[allow(unused_unsafe)] Kind::$kind => unsafe { $run(op) },)*
            }
        }

        $($(#[$attribute])* $(#[target_feature(enable = $feature)])*
        fn $run<O: Op>(op: O) -> O::Output {
            op.run::<simd::$isa>()
        })*
    };
}

levels! {
    #[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    Portable: Portable [] run_portable;
    #[cfg(target_arch = "aarch64")]
    Neon: Neon [] run_neon;
    #[cfg(target_arch = "x86_64")]
    Sse2: Sse2 [] run_sse2;
    // The blocks of AVX-512 in the instructions of AVX2, and a model of `vdpbf16ps`.
    #[cfg(all(test, target_arch = "x86_64"))]
    Model: DoubleAvx2 ["avx2" "fma"] run_model;
    #[cfg(target_arch = "x86_64")]
    Avx2: Avx2 ["avx2" "fma"] run_avx2;
    #[cfg(target_arch = "x86_64")]
    Avx512: Avx512 ["avx2" "fma" "avx512f" "avx512vl" "avx512dq" "avx512bw"] run_avx512;
}

impl Level {
    /// The highest level of this CPU.
    #[inline]
    pub fn detect() -> Level {
        static HIGHEST: OnceLock<Level> = OnceLock::new();
        *HIGHEST.get_or_init(|| Level::available().last().expect("a level that every CPU has"))
    }

    /// Whether this level multiplies pairs of bf16 in one instruction.
    #[inline]
    pub fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(all(test, target_arch = "x86_64"))]
            Kind::Model => true,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => is_x86_feature_detected!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether a fused multiply-add is one instruction.
    #[cfg(test)]
    pub fn has_fma(self) -> bool {
        op! {
            fn has_fma<I at level>[]() -> bool { I::FMA }
        }
        has_fma(self)
    }

    /// Whether this is AVX-512 in AVX2's instructions.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub fn is_model(self) -> bool {
        self.0 == Kind::Model
    }

    /// Every level of this CPU, from the lowest to the highest.
    pub fn available() -> impl Iterator<Item = Level> {
        Kind::ALL.iter().filter(|kind| kind.is_available()).map(|&kind| Level(kind))
    }
}

/// ab + c: fused where that is one instruction, two operations elsewhere (without the
/// instruction, `mul_add` is a call into the C library).
#[inline(always)]
pub(crate) fn madd<F: num_traits::Float, I: Isa>(a: F, b: F, c: F) -> F {
    if I::FMA { a.mul_add(b, c) } else { a * b + c }
}
