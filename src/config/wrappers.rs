//! Serialisation of losses around another loss, which is their field `of`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read;
use crate::loss::MarginLoss;
use crate::losses::{InterclassFilter, LabelSmoothing};

/// For each wrapper: its one hyper-parameter.
macro_rules! around_a_loss {
    ($($name:ident { $parameter:ident } as $fields:ident;)*) => {$(
        /// The fields, not yet checked.
        #[derive(Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $fields<L> {
            of: L,
            $parameter: f64,
        }

        impl<L: MarginLoss + Serialize> Serialize for $name<L> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let fields = $fields { of: self.loss(), $parameter: self.$parameter() };
                fields.serialize(serializer)
            }
        }

        impl<'de, L: MarginLoss + Deserialize<'de>> Deserialize<'de> for $name<L> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $fields { of, $parameter } = read(deserializer)?;
                $name::new(of, $parameter).map_err(D::Error::custom)
            }
        }
    )*};
}

around_a_loss! {
    LabelSmoothing { epsilon } as LabelSmoothingFields;
    InterclassFilter { threshold } as InterclassFilterFields;
}
