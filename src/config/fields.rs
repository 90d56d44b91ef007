//! Serialisation of losses and schedules by their fields. Reading goes through the constructors, so
//! that a value that a constructor refuses cannot be read either.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read;
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::losses::{
    ArcFace, CosFace, FNormSphereFace, Generalized, ModifiedSoftmax, Softmax, SphereFace,
};
use crate::math::Continuation;
use crate::schedule::{LambdaAnnealing, MarginWarmup};

/// For each type: its fields, each with a getter of the same name, and the expression that builds
/// the type from them.
macro_rules! by_fields {
    ($(
        $(#[$container:meta])*
        $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* } => $build:expr;
    )*) => {
        /// The fields as they were read, not yet checked.
        mod fields {
            use super::{Continuation, Scale};
            use serde::{Deserialize, Serialize};

            $(
                #[derive(Serialize, Deserialize)]
                #[serde(deny_unknown_fields)]
                $(#[$container])*
                pub struct $name { $($(#[$attribute])* pub $field: $type),* }
            )*
        }

        $(
            impl $name {
                fn fields(&self) -> fields::$name {
                    fields::$name { $($field: self.$field()),* }
                }
            }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    self.fields().serialize(serializer)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let fields::$name { $($field),* } = read(deserializer)?;
                    let build = || -> Result<Self, Error> { $build };
                    build().map_err(D::Error::custom)
                }
            }
        )*
    };
}

by_fields! {
    Softmax {} => Ok(Softmax::new());

    ModifiedSoftmax {} => Ok(ModifiedSoftmax::new());

    #[serde(default)]
    SphereFace { m: u32, lambda: f64 } => SphereFace::new(m)?.with_annealing(lambda);

    #[serde(default)]
    FNormSphereFace { s: f64, m: u32, lambda: f64 } =>
        FNormSphereFace::new(s, m)?.with_annealing(lambda);

    #[serde(default)]
    CosFace { s: f64, m: f64 } => CosFace::new(s, m);

    #[serde(default)]
    ArcFace { s: f64, m: f64, continuation: Continuation } =>
        Ok(ArcFace::new(s, m)?.with_continuation(continuation));

    #[serde(default)]
    Generalized {
        scale: Scale, m0: f64, m1: f64, m2: f64, lambda: f64, continuation: Continuation
    } => Generalized::new(scale, m0, m1, m2)?
            .with_annealing(lambda)?
            .with_continuation(continuation);

    #[serde(default)]
    LambdaAnnealing { base: f64, gamma: f64, power: f64, minimum: f64 } =>
        LambdaAnnealing::new(base, gamma, power, minimum);

    MarginWarmup {
        margin: f64, steps: usize, #[serde(default)] start: f64, #[serde(default)] delay: usize
    } => Ok(MarginWarmup::new(margin, steps)?.with_start(start)?.with_delay(delay));
}

/// A missing field gets its value from the type's `Default`.
macro_rules! defaults {
    ($($name:ident),*) => {$(
        impl Default for fields::$name {
            fn default() -> Self {
                $name::default().fields()
            }
        }
    )*};
}

defaults!(SphereFace, FNormSphereFace, CosFace, ArcFace, Generalized, LambdaAnnealing);
