//! Serialization of a sampler by its state, which is checked on reading.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::parameters::read;
use crate::sampling::{ClassSampler, SamplerState};

impl Serialize for ClassSampler {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ClassSampler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let state = read(deserializer, |from| SamplerState::deserialize(from))?;
        ClassSampler::from_state(state).map_err(D::Error::custom)
    }
}
