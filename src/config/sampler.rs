//! Serialisation of a sampler by its state, which is checked on reading.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read;
use crate::sampling::ClassSampler;

impl Serialize for ClassSampler {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ClassSampler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ClassSampler::from_state(read(deserializer)?).map_err(D::Error::custom)
    }
}

/// Serialises a `u128` as hexadecimal digits.
pub(crate) mod hexadecimal {
    use serde::de::{Error as _, Unexpected};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bits: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{bits:032x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        let digits = String::deserialize(from)?;
        let expected = &"up to 32 hexadecimal digits";
        u128::from_str_radix(&digits, 16)
            .map_err(|_| D::Error::invalid_value(Unexpected::Str(&digits), expected))
    }
}
