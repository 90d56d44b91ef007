//! Serialisation of losses, schedules, samplers and updates with serde.

mod fields;
mod sampler;
mod scale;
mod update;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::loss::MarginLoss;
use crate::losses::{
    ArcFace, CosFace, FNormSphereFace, Generalized, ModifiedSoftmax, Softmax, SphereFace,
};

/// A loss as a configuration file describes it: the field `loss` is the name of the loss, and the
/// other fields are its hyper-parameters under the names in its documentation.
///
/// ```
/// use margin_softmax::{ArcFace, Head, LossConfig, MarginLoss};
///
/// let config: LossConfig = serde_json::from_str(r#"{ "loss": "ArcFace", "s": 64, "m": 0.5 }"#)?;
/// assert_eq!(config, LossConfig::ArcFace(ArcFace::new(64.0, 0.5)?));
/// let loss: Box<dyn MarginLoss> = config.build();
/// let head = Head::new(loss);
///
/// let refused = serde_json::from_str::<LossConfig>(r#"{ "loss": "ArcFace", "m": -0.5 }"#);
/// let message = refused.unwrap_err().to_string();
/// assert!(message.starts_with("angular margin m must be in [0, π) radians"));
/// assert!(message.ends_with("got -0.5"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// | `loss` | fields |
/// |---|---|
/// | `"Softmax"`, `"ModifiedSoftmax"` | none |
/// | `"SphereFace"` | `m`, `lambda` |
/// | `"FNormSphereFace"` | `s`, `m`, `lambda` |
/// | `"CosFace"` | `s`, `m` |
/// | `"ArcFace"` | `s`, `m`, `continuation` |
/// | `"Generalized"` | `scale`, `m0`, `m1`, `m2`, `lambda`, `continuation` |
///
/// - A missing field gets its value from the loss's `Default`, the values of the paper. This holds
///   for `m1` = 0.3 and `m2` = 0.2 of `Generalized` too: set them to 0 to leave a margin out.
/// - An unknown field and a value outside its range are errors. The message names the field and the
///   value. The ranges are those of the constructors.
/// - `scale` is a number, `"FeatureNorm"` or `"Unnormalized"`; `continuation` is the name of a
///   [`Continuation`](crate::Continuation).
///
/// This type needs a self-describing format such as JSON, TOML, YAML or CBOR. The losses, schedules
/// and samplers themselves can be written in any format. Numbers are restored bit for bit if the
/// format does so (`serde_json` needs its feature `float_roundtrip`).
///
/// Requires the feature `serde`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "loss")]
#[non_exhaustive]
pub enum LossConfig {
    /// [`Softmax`]
    Softmax(Softmax),
    /// [`ModifiedSoftmax`]
    ModifiedSoftmax(ModifiedSoftmax),
    /// [`SphereFace`]
    SphereFace(SphereFace),
    /// [`FNormSphereFace`]
    FNormSphereFace(FNormSphereFace),
    /// [`CosFace`]
    CosFace(CosFace),
    /// [`ArcFace`]
    ArcFace(ArcFace),
    /// [`Generalized`]
    Generalized(Generalized),
}

impl LossConfig {
    /// Builds the loss, for [`Head`](crate::Head) or any other function that takes a loss.
    pub fn build(self) -> Box<dyn MarginLoss> {
        match self {
            LossConfig::Softmax(loss) => Box::new(loss),
            LossConfig::ModifiedSoftmax(loss) => Box::new(loss),
            LossConfig::SphereFace(loss) => Box::new(loss),
            LossConfig::FNormSphereFace(loss) => Box::new(loss),
            LossConfig::CosFace(loss) => Box::new(loss),
            LossConfig::ArcFace(loss) => Box::new(loss),
            LossConfig::Generalized(loss) => Box::new(loss),
        }
    }
}

/// Reads a `T`. An error in one of its fields carries the name of the field.
fn read<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    serde_path_to_error::deserialize(deserializer).map_err(D::Error::custom)
}
