//! Serialisation of updates: hyper-parameters and the state of every row, checked on reading.

use std::borrow::Cow;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::kernel::Real;
use crate::parameters::read;
use crate::update::{AdamW, AdamWState, Sgd, SgdState};

/// The fields of [`Sgd`], not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
struct SgdFields<'a, F: Clone> {
    rate: f64,
    #[serde(default)]
    momentum: f64,
    #[serde(default)]
    weight_decay: f64,
    #[serde(default)]
    nesterov: bool,
    weights: Option<Momentum<'a, F>>,
    bias: Option<Momentum<'a, F>>,
}

/// The state of one matrix, row after row.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
struct Momentum<'a, F: Clone> {
    rows: usize,
    dims: usize,
    momentum: Cow<'a, [F]>,
}

/// The fields of [`AdamW`], not yet checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
struct AdamWFields<'a, F: Clone> {
    rate: f64,
    #[serde(default = "default_betas")]
    betas: (f64, f64),
    #[serde(default = "default_eps")]
    eps: f64,
    #[serde(default = "default_weight_decay")]
    weight_decay: f64,
    weights: Option<Moments<'a, F>>,
    bias: Option<Moments<'a, F>>,
}

/// The state of one matrix: the steps of each row, and the moments row after row.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(serialize = "F: Serialize", deserialize = "F: Deserialize<'de>"))]
struct Moments<'a, F: Clone> {
    dims: usize,
    steps: Cow<'a, [u64]>,
    first: Cow<'a, [F]>,
    second: Cow<'a, [F]>,
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

impl<'a, F: Real> From<&'a SgdState<F>> for Momentum<'a, F> {
    fn from(state: &'a SgdState<F>) -> Self {
        let [momentum] = state.moments().each_ref().map(|moments| Cow::from(&moments[..]));
        Momentum { rows: state.rows(), dims: state.dims(), momentum }
    }
}

impl<F: Real> TryFrom<Momentum<'_, F>> for SgdState<F> {
    type Error = Error;

    fn try_from(fields: Momentum<'_, F>) -> Result<Self, Error> {
        let Momentum { rows, dims, momentum } = fields;
        SgdState::new(dims, vec![(); rows], [("momentum", momentum.into_owned())])
    }
}

impl<'a, F: Real> From<&'a AdamWState<F>> for Moments<'a, F> {
    fn from(state: &'a AdamWState<F>) -> Self {
        let [first, second] = state.moments().each_ref().map(|moments| Cow::from(&moments[..]));
        Moments { dims: state.dims(), steps: state.counters().into(), first, second }
    }
}

impl<F: Real> TryFrom<Moments<'_, F>> for AdamWState<F> {
    type Error = Error;

    fn try_from(fields: Moments<'_, F>) -> Result<Self, Error> {
        let Moments { dims, steps, first, second } = fields;
        let moments =
            [("first moments", first.into_owned()), ("second moments", second.into_owned())];
        AdamWState::new(dims, steps.into_owned(), moments)
    }
}

/// For each update: its fields, the form of its states, and how it is built of its parameters.
macro_rules! by_fields {
    ($($name:ident as $fields:ident of $state:ident { $($parameter:ident),* } => $build:expr;)*) => {$(
        impl<F: Real + Serialize> Serialize for $name<F> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let [weights, bias] = self.state().map(|state| state.map($state::from));
                let fields = $fields { $($parameter: self.$parameter(),)* weights, bias };
                fields.serialize(serializer)
            }
        }

        impl<'de, F: Real + Deserialize<'de>> Deserialize<'de> for $name<F> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let fields: $fields<'_, F> = read(deserializer)?;
                let $fields { $($parameter,)* weights, bias } = fields;
                let build = || $build.with_state(state(weights)?, state(bias)?);
                build().map_err(D::Error::custom)
            }
        }
    )*};
}

by_fields! {
    Sgd as SgdFields of Momentum { rate, momentum, weight_decay, nesterov } => Sgd::new(rate)?
        .with_momentum(momentum)?
        .with_weight_decay(weight_decay)?
        .with_nesterov(nesterov);
    AdamW as AdamWFields of Moments { rate, betas, eps, weight_decay } => AdamW::new(rate)?
        .with_betas(betas.0, betas.1)?
        .with_eps(eps)?
        .with_weight_decay(weight_decay)?;
}

/// The state that fields describe, where there are any.
fn state<T, S: TryFrom<T>>(fields: Option<T>) -> Result<Option<S>, S::Error> {
    fields.map(S::try_from).transpose()
}
