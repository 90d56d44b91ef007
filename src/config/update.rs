//! Serialization of updates: hyper-parameters and the state of every row, checked on reading.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::kernel::Real;
use crate::parameters::read;
use crate::update::{AdamW, RowState, Sgd};

/// For each update: its hyper-parameters, each with a getter of the same name, the state of one
/// matrix with an expression for each of its fields, and what builds both from their fields.
macro_rules! updates {
    ($(
        $update:ident as $fields:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* }
            => $build:expr;
        $matrix:ident of $state:ident { $($part:ident: $part_type:ty = $value:expr),* }
            => $build_state:expr;
    )*) => {$(
        /// The fields, not yet checked.
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
        struct $fields<'a, F: Clone> {
            $($(#[$attribute])* $field: $type,)*
            weights: Option<$matrix<'a, F>>,
            bias: Option<$matrix<'a, F>>,
        }

        /// The state of one matrix, not yet checked.
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
        struct $matrix<'a, F: Clone> { $($part: $part_type),* }

        impl<F: Real + Serialize> Serialize for $update<F> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let [weights, bias] = self.state().map(|state| {
                    state.map(|$state| $matrix { $($part: $value.into()),* })
                });
                $fields { $($field: self.$field(),)* weights, bias }.serialize(serializer)
            }
        }

        impl<'de, F: Real + Deserialize<'de>> Deserialize<'de> for $update<F> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $fields { $($field,)* weights, bias } =
                    read(deserializer, |from| $fields::deserialize(from))?;
                let state = |matrix: Option<$matrix<'_, F>>| {
                    matrix.map(|$matrix { $($part),* }| $build_state).transpose()
                };
                let build = || -> Result<Self, Error> {
                    $build.with_state([state(weights)?, state(bias)?])
                };
                build().map_err(D::Error::custom)
            }
        }
    )*};
}

updates! {
    Sgd as SgdFields {
        rate: f64,
        #[serde(default)] momentum: f64,
        #[serde(default)] weight_decay: f64,
        #[serde(default)] nesterov: bool
    } => Sgd::new(rate)?
            .with_momentum(momentum)?
            .with_weight_decay(weight_decay)?
            .with_nesterov(nesterov);

    Momentum of state {
        rows: usize = state.rows,
        dims: usize = state.dims,
        momentum: Cow<'a, [F]> = &state.moments[0]
    } => RowState::stored((rows, dims), None, vec![("momentum", momentum.into_owned())]);

    AdamW as AdamWFields {
        rate: f64,
        #[serde(default = "default_betas")] betas: (f64, f64),
        #[serde(default = "default_eps")] eps: f64,
        #[serde(default = "default_weight_decay")] weight_decay: f64
    } => AdamW::new(rate)?
            .with_betas(betas.0, betas.1)?
            .with_eps(eps)?
            .with_weight_decay(weight_decay)?;

    Moments of state {
        dims: usize = state.dims,
        steps: Cow<'a, [u64]> = state.steps.as_deref().unwrap_or_default(),
        first: Cow<'a, [F]> = &state.moments[0],
        second: Cow<'a, [F]> = &state.moments[1]
    } => {
        let moments = [("first moments", first), ("second moments", second)];
        let moments = moments.map(|(name, moments)| (name, moments.into_owned()));
        RowState::stored((steps.len(), dims), Some(steps.into_owned()), moments.into())
    };
}

fn default_betas() -> (f64, f64) {
    AdamW::<f64>::DEFAULTS.0
}

fn default_eps() -> f64 {
    AdamW::<f64>::DEFAULTS.1
}

fn default_weight_decay() -> f64 {
    AdamW::<f64>::DEFAULTS.2
}
