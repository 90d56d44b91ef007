//! Serialisation of losses, schedules, samplers and updates with serde.

mod fields;
mod sampler;
mod scale;
mod update;
mod wrappers;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::data::Scale;
use crate::error::Error;
use crate::loss::MarginLoss;
use crate::losses::{
    AdaFace, ArcFace, ClassMargins, CosFace, CurricularFace, ElasticFace, FNormSphereFace,
    Generalized, InterclassFilter, LabelSmoothing, MagFace, ModifiedSoftmax, MvSoftmax, Softmax,
    SphereFace,
};
use crate::math::{Angle, HardNegatives, Sample, SampleTarget, Target};

/// A loss as a configuration file describes it: the field `loss` is the name of the loss, and the
/// other fields are its hyper-parameters under the names in its documentation.
///
/// ```
/// use margin_softmax::{ArcFace, Head, MarginLoss};
/// use margin_softmax::config::LossConfig;
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
/// | `"AdaFace"` | `s`, `m`, `h`, `rate`, and its state `mean`, `std` |
/// | `"MagFace"` | `s`, `norms`, `margins`, `lambda_g`, `continuation` |
/// | `"ElasticFace"` | `kind`, `s`, `m`, `sigma`, `seed`, and its state `step` |
/// | `"ClassMargins"` | `s`, `m1`, `m2`, all of them needed |
/// | `"CurricularFace"` | `s`, `m`, `rate`, `continuation`, and its state `t` |
/// | `"MvSoftmax"` | `kind`, `s`, `m`, `t` |
/// | `"LabelSmoothing"` | `epsilon`, and the inner loss `of`, itself a table like this |
/// | `"InterclassFilter"` | `threshold`, and the inner loss `of` |
///
/// - A missing field gets its value from the loss's `Default`, the values of the paper. This holds
///   for `m1` = 0.3 and `m2` = 0.2 of `Generalized` too: set them to 0 to leave a margin out. It
///   holds for `m` of `ElasticFace` whatever its `kind`: set it to 0.35 for the paper's cosine
///   margins.
/// - An unknown field and a value outside its range are errors. The message names the field and the
///   value. The ranges are those of the constructors.
/// - `scale` is a number, `"FeatureNorm"` or `"Unnormalized"`; `continuation` is the name of a
///   [`Continuation`](crate::losses::Continuation), `kind` that of a [`MarginKind`](crate::losses::MarginKind).
/// - `norms` and `margins` are lists of two numbers, `m1` and `m2` of `ClassMargins` of one for each
///   class.
///
/// Written again after some steps, a loss with state holds it. A configuration is a loss itself, the
/// one that it builds; keep the loss, not the box, to call `observe` on it.
///
/// ```
/// use margin_softmax::MarginLoss;
/// use margin_softmax::config::LossConfig;
///
/// let json = r#"{ "loss": "LabelSmoothing", "epsilon": 0.1, "of": { "loss": "CosFace" } }"#;
/// let config: LossConfig = serde_json::from_str(json)?;
/// assert_eq!(config.label_smoothing(), 0.1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// [`AdaFace`]
    AdaFace(AdaFace),
    /// [`MagFace`]
    MagFace(MagFace),
    /// [`ElasticFace`]
    ElasticFace(ElasticFace),
    /// [`ClassMargins`]
    ClassMargins(ClassMargins),
    /// [`CurricularFace`]
    CurricularFace(CurricularFace),
    /// [`MvSoftmax`]
    MvSoftmax(MvSoftmax),
    /// [`LabelSmoothing`]
    LabelSmoothing(LabelSmoothing<Box<LossConfig>>),
    /// [`InterclassFilter`]
    InterclassFilter(InterclassFilter<Box<LossConfig>>),
}

/// Evaluates an expression of the loss inside a configuration.
macro_rules! of_loss {
    ($config:expr, $loss:ident => $value:expr) => {
        match $config {
            LossConfig::Softmax($loss) => $value,
            LossConfig::ModifiedSoftmax($loss) => $value,
            LossConfig::SphereFace($loss) => $value,
            LossConfig::FNormSphereFace($loss) => $value,
            LossConfig::CosFace($loss) => $value,
            LossConfig::ArcFace($loss) => $value,
            LossConfig::Generalized($loss) => $value,
            LossConfig::AdaFace($loss) => $value,
            LossConfig::MagFace($loss) => $value,
            LossConfig::ElasticFace($loss) => $value,
            LossConfig::ClassMargins($loss) => $value,
            LossConfig::CurricularFace($loss) => $value,
            LossConfig::MvSoftmax($loss) => $value,
            LossConfig::LabelSmoothing($loss) => $value,
            LossConfig::InterclassFilter($loss) => $value,
        }
    };
}

impl LossConfig {
    /// Builds the loss, for [`Head`](crate::Head) or any other function that takes a loss.
    pub fn build(self) -> Box<dyn MarginLoss> {
        of_loss!(self, loss => Box::new(loss))
    }
}

/// The loss that [`build`](LossConfig::build) returns.
impl MarginLoss for LossConfig {
    fn scale(&self) -> Scale {
        of_loss!(self, loss => loss.scale())
    }

    fn target(&self, angle: &Angle) -> Target {
        of_loss!(self, loss => loss.target(angle))
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        of_loss!(self, loss => loss.target_of(sample))
    }

    fn hard_negatives(&self) -> Option<HardNegatives> {
        of_loss!(self, loss => loss.hard_negatives())
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        of_loss!(self, loss => loss.check_classes(classes))
    }

    fn label_smoothing(&self) -> f64 {
        of_loss!(self, loss => loss.label_smoothing())
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
