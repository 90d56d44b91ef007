//! Serialization of updates: hyper-parameters and the state of every row, checked on reading as if
//! a stranger had written them.

use std::borrow::Cow;

use ndarray::ArrayView2;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::apply::magnitude;
use super::rules::{Adam, Descent, Rule};
use super::state::{RowState, State};
use super::{AdamW, Sgd};
use crate::error::Error;
use crate::kernel::Real;
use crate::parameters::read;

/// For each update: the fields of its rule, and the state of one matrix with an expression for each
/// of its fields and one for the state that they are.
macro_rules! stored {
    ($(
        $update:ident as $fields:ident of $rule:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* }
        $matrix:ident of $state:ident { $($part:ident: $part_type:ty = $value:expr),* } => $build:expr;
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
                let $rule { $($field),* } = self.rule;
                let [weights, bias] = self.state.0.each_ref().map(|state| {
                    state.as_ref().map(|$state| $matrix { $($part: $value.into()),* })
                });
                $fields { $($field,)* weights, bias }.serialize(serializer)
            }
        }

        impl<'de, F: Real + Deserialize<'de>> Deserialize<'de> for $update<F> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $fields { $($field,)* weights, bias } =
                    read(deserializer, |from| $fields::deserialize(from))?;
                let rule = $rule { $($field),* };
                let build = |matrix: Option<$matrix<'_, F>>| {
                    matrix.map(|$matrix { $($part),* }| $build).transpose()
                };
                let state = || State::stored(Rule::$update(rule), [build(weights)?, build(bias)?]);
                Ok($update { rule, state: state().map_err(D::Error::custom)? })
            }
        }
    )*};
}

stored! {
    Sgd as SgdFields of Descent {
        rate: f64,
        #[serde(default)] momentum: f64,
        #[serde(default)] weight_decay: f64,
        #[serde(default)] nesterov: bool
    }
    Momentum of state {
        rows: usize = state.rows(),
        dims: usize = state.dims,
        momentum: Cow<'a, [F]> = &state.moments[0]
    } => RowState::stored((rows, dims), None, [("momentum", momentum)]);

    AdamW as AdamWFields of Adam {
        rate: f64,
        #[serde(default = "betas")] betas: (f64, f64),
        #[serde(default = "eps")] eps: f64,
        #[serde(default = "weight_decay")] weight_decay: f64
    }
    Moments of state {
        dims: usize = state.dims,
        steps: Cow<'a, [u64]> = &state.steps,
        first: Cow<'a, [F]> = &state.moments[0],
        second: Cow<'a, [F]> = &state.moments[1]
    } => {
        let moments = [("first moments", first), ("second moments", second)];
        RowState::stored((steps.len(), dims), Some(steps.into_owned()), moments)
    };
}

fn betas() -> (f64, f64) {
    Adam::DEFAULT.betas
}

fn eps() -> f64 {
    Adam::DEFAULT.eps
}

fn weight_decay() -> f64 {
    Adam::DEFAULT.weight_decay
}

impl<F: Real> RowState<F> {
    /// The state of one matrix, with a name for each of its moments, the second of which is a square;
    /// refuses counts that no row reaches, and moments that do not fill the shape or are not finite.
    fn stored<const K: usize>(
        (rows, dims): (usize, usize),
        steps: Option<Vec<u64>>,
        moments: [(&'static str, Cow<'_, [F]>); K],
    ) -> Result<Self, Error> {
        let most = steps.iter().flatten().copied().max().unwrap_or_default();
        let valid = most <= Self::MOST_STEPS;
        Error::check_parameter("number of steps of a row", most as f64, "at most 2^53", valid)?;
        for (_, second) in moments.iter().skip(1) {
            let least = second.iter().fold(0.0_f64, |least, v| least.min(v.widen()));
            Error::check_parameter("second moment", least, ">= 0", least >= 0.0)?;
        }
        Error::check_not_empty("row of the state", &[dims])?;
        let mut bounds = [0.0; 2];
        for ((argument, moments), bound) in moments.iter().zip(&mut bounds) {
            // ndarray also refuses a shape whose size overflows.
            let matrix = ArrayView2::from_shape((rows, dims), moments).map_err(|_| {
                let (expected, actual) = (vec![rows, dims], vec![moments.len()]);
                Error::Shape { argument, expected, actual }
            })?;
            *bound = magnitude(argument, &matrix, 0..rows)?;
        }
        let moments = moments.into_iter().map(|(_, moments)| moments.into_owned()).collect();
        Ok(RowState { dims, steps: steps.unwrap_or_else(|| vec![0; rows]), moments, bounds })
    }
}

impl<F: Real> State<F> {
    /// The states of class weights and bias, which must have as many rows.
    fn stored(rule: Rule, state: [Option<RowState<F>>; 2]) -> Result<Self, Error> {
        rule.check()?;
        let valid = rule.moments() > 0 || state.iter().all(Option::is_none);
        Error::check_parameter("momentum", 0.0, "in (0, 1) where rows have one", valid)?;
        if let [weights, Some(bias)] = &state {
            let rows = weights.as_ref().map_or(bias.rows(), RowState::rows);
            Error::check_shape("state of the bias", &[rows, 1], &[bias.rows(), bias.dims])?;
        }
        Ok(State(state))
    }
}
