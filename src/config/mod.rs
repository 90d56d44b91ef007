//! Losses, schedules and samplers as they are written and read.

mod fields;
mod sampler;
mod scale;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::loss::MarginLoss;
use crate::losses::{
    ArcFace, CosFace, FNormSphereFace, Generalized, ModifiedSoftmax, Softmax, SphereFace,
};

/// A loss of this crate as a configuration file names it: `loss` is its name, and the other fields
/// are its hyper-parameters, by their names in its documentation.
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
/// assert_eq!(message, "angular margin m must be finite and >= 0, got -0.5");
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
/// - A field that is missing has the paper's value, that of the loss's `Default`: `m1` and `m2` of
///   a `Generalized` too, which are 0.3 and 0.2, so write the margins it shall not have as 0.
/// - A field that the loss does not have is refused, and so is a value out of its range; the
///   message names the field and the value.
/// - `scale` is a number, `"FeatureNorm"` or `"Unnormalized"`; `continuation` is the name of a
///   [`Continuation`](crate::Continuation).
///
/// This type needs a format that describes itself, such as JSON, TOML, YAML or CBOR. The losses,
/// schedules and samplers themselves are written in any format, bit for bit where the format is
/// (`serde_json` reads so with its feature `float_roundtrip`).
///
/// Needs the feature `serde`.
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
    /// The loss, for [`Head`](crate::Head) and whatever else takes a loss.
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

/// Reads a `T`; what is wrong in one of its fields is told with the field's name.
fn read<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    serde_path_to_error::deserialize(deserializer).map_err(D::Error::custom)
}
