//! Serialization of a scale: a plain number if it is fixed.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::data::Scale;

/// The representation that `derive` generates, for binary formats.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Scale")]
enum Tagged {
    Fixed(f64),
    FeatureNorm,
    Unnormalized,
}

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scale::Fixed(s) if serializer.is_human_readable() => serializer.serialize_f64(*s),
            _ => Tagged::serialize(self, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scale = if deserializer.is_human_readable() {
            deserializer.deserialize_any(NumberOrName)
        } else {
            Tagged::deserialize(deserializer)
        };
        scale?.checked().map_err(D::Error::custom)
    }
}

struct NumberOrName;

impl<'de> Visitor<'de> for NumberOrName {
    type Value = Scale;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, \"FeatureNorm\" or \"Unnormalized\"")
    }

    fn visit_f64<E: Error>(self, s: f64) -> Result<Scale, E> {
        Ok(Scale::Fixed(s))
    }

    fn visit_i64<E: Error>(self, s: i64) -> Result<Scale, E> {
        Ok(Scale::Fixed(s as f64))
    }

    fn visit_u64<E: Error>(self, s: u64) -> Result<Scale, E> {
        Ok(Scale::Fixed(s as f64))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Scale, E> {
        match name {
            "FeatureNorm" => Ok(Scale::FeatureNorm),
            "Unnormalized" => Ok(Scale::Unnormalized),
            _ => Err(E::invalid_value(Unexpected::Str(name), &self)),
        }
    }

    /// Reads the derived representation. serde buffers the content of an internally tagged enum,
    /// and the buffer reports itself as human-readable even for a binary format.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scale, A::Error> {
        Tagged::deserialize(MapAccessDeserializer::new(map))
    }
}
