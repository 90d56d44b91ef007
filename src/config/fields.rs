//! Serialisation of losses and schedules by their fields. Reading goes through the constructors, so
//! that a value that a constructor refuses cannot be read either.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read;
use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::losses::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, ElasticFace, FNormSphereFace,
    Generalized, MagFace, MarginKind, ModifiedSoftmax, MvSoftmax, Softmax, SphereFace,
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
            use super::{Continuation, MarginKind, Scale};
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
                    fields::$name { $($field: self.$field().into()),* }
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
    AdaFace { s: f64, m: f64, h: f64, mean: f64, std: f64, rate: f64 } =>
        AdaFace::new(s, m, h)?.with_statistics(mean, std)?.with_rate(rate);

    #[serde(default)]
    MagFace {
        s: f64, norms: (f64, f64), margins: (f64, f64), lambda_g: f64, continuation: Continuation
    } => Ok(MagFace::new(s, norms, margins, lambda_g)?.with_continuation(continuation));

    #[serde(default)]
    ElasticFace { kind: MarginKind, s: f64, m: f64, sigma: f64, seed: u64, step: u64 } => {
        let build = match kind {
            MarginKind::Angular => ElasticFace::arc,
            MarginKind::Cosine => ElasticFace::cos,
        };
        Ok(build(s, m, sigma, seed)?.at_step(step))
    };

    ClassMargins { s: f64, m1: Vec<f64>, m2: Vec<f64> } => ClassMargins::new(s, m1, m2);

    #[serde(default)]
    CurricularFace { s: f64, m: f64, t: f64, rate: f64, continuation: Continuation } =>
        Ok(CurricularFace::new(s, m)?
            .with_t(t)?
            .with_rate(rate)?
            .with_continuation(continuation));

    #[serde(default)]
    MvSoftmax { kind: MarginKind, s: f64, m: f64, t: f64 } => match kind {
        MarginKind::Angular => MvSoftmax::arc(s, m, t),
        MarginKind::Cosine => MvSoftmax::am(s, m, t),
    };

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

defaults!(
    SphereFace,
    FNormSphereFace,
    CosFace,
    ArcFace,
    Generalized,
    AdaFace,
    MagFace,
    ElasticFace,
    CurricularFace,
    MvSoftmax,
    LambdaAnnealing
);
