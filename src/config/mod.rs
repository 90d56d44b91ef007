//! Serialization of losses, scales and samplers with serde.

mod sampler;
mod scale;

use serde::{Deserialize, Serialize};

use crate::data::Scale;
use crate::error::Error;
use crate::loss::{MarginLoss, forward};
use crate::losses::*;
use crate::math::{Angle, BinaryForm, HardNegatives, Sample, SampleTarget, Target, TopMargin};

/// Defines the configuration by the table of losses: a variant for each.
macro_rules! configuration {
    (
        $(#[$docs:meta])*
        losses { $($file:ident::$loss:ident,)* }
        wrappers { $($wrapper_file:ident::$wrapper:ident,)* }
    ) => {
        $(#[$docs])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "loss")]
        #[non_exhaustive]
        pub enum LossConfig {
            $(
                #[doc = concat!("[`", stringify!($loss), "`]")]
                $loss($loss),
            )*
            $(
                #[doc = concat!("[`", stringify!($wrapper), "`]")]
                $wrapper($wrapper<Box<LossConfig>>),
            )*
        }

        impl LossConfig {
            /// The names that the field `loss` may have: the losses that stand alone, then those
            /// around another.
            pub const NAMES: &[&str] = &[$(stringify!($loss),)* $(stringify!($wrapper),)*];

            /// Builds the loss, for [`Head`](crate::Head) or any other function that takes a loss.
            pub fn build(self) -> Box<dyn MarginLoss> {
                match self {
                    $(LossConfig::$loss(loss) => Box::new(loss),)*
                    $(LossConfig::$wrapper(loss) => Box::new(loss),)*
                }
            }

            fn loss(&self) -> &dyn MarginLoss {
                match self {
                    $(LossConfig::$loss(loss) => loss,)*
                    $(LossConfig::$wrapper(loss) => loss,)*
                }
            }
        }
    };
}
every_loss! {
    configuration
    /// A loss as a configuration file describes it: the field `loss` is the name of the loss, and
    /// the other fields are its hyper-parameters under the names in its documentation.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Head, MarginLoss};
    /// use margin_softmax::config::LossConfig;
    ///
    /// let config: LossConfig =
    ///     serde_json::from_str(r#"{ "loss": "ArcFace", "s": 64, "m": 0.5 }"#)?;
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
    /// `loss` is the name of a type: every loss of this crate. A loss around another, such as
    /// [`LabelSmoothing`], has the field `of` besides, the inner loss, itself a table like this.
    ///
    /// - A missing field gets its value from the loss's `Default`, the values of the paper. This
    ///   holds for `m1` = 0.3 and `m2` = 0.2 of `Generalized` too: set them to 0 to leave a margin
    ///   out. It holds for `m` of `ElasticFace` whatever its `kind`: set it to 0.35 for the paper's
    ///   cosine margins.
    /// - An unknown field and a value outside its range are errors. The message names the field and
    ///   the value. The ranges are those of the constructors.
    /// - `scale` is a number, `"FeatureNorm"` or `"Unnormalized"`; `continuation` is the name of a
    ///   [`Continuation`], `kind` that of a [`MarginKind`].
    /// - `norms` and `margins` are lists of two numbers, `m1` and `m2` of `ClassMargins` of one for
    ///   each class.
    ///
    /// Written again after some steps, a loss with state holds it. A configuration is a loss
    /// itself, the one that it builds; keep the loss, not the box, to call `observe` on it.
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
    /// This type needs a self-describing format such as JSON, TOML, YAML or CBOR. The losses,
    /// schedules and samplers themselves can be written in any format. Numbers are restored bit for
    /// bit if the format does so (`serde_json` needs its feature `float_roundtrip`).
    ///
    /// Requires the feature `serde`.
}

/// The loss that [`build`](LossConfig::build) returns.
impl MarginLoss for LossConfig {
    forward! { self => self.loss();
        scale target target_of hard_negatives top_negatives binary check_classes label_smoothing
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use rand_core::{Rng, SeedableRng};
    use rand_pcg::Pcg64Mcg;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    /// Numbers that a careless writer or reader changes by a bit.
    const AWKWARD: [f64; 6] =
        [0.1 + 0.2, f64::MIN_POSITIVE / 4096.0, f64::MAX, 1.0 - f64::EPSILON, -0.0, 1.0 / 3.0];

    /// Equal to the last bit: `Debug` tells every f64 from every other, the two zeros too.
    fn assert_same<T: Debug>(read: &T, written: &T) {
        assert_eq!(format!("{read:?}"), format!("{written:?}"));
    }

    fn assert_comes_back_from_text<T: Debug + Serialize + DeserializeOwned>(value: &T) {
        let json = serde_json::to_string(value).unwrap();
        assert_same(&serde_json::from_str::<T>(&json).unwrap(), value);
        assert_same(&toml::from_str::<T>(&toml::to_string(value).unwrap()).unwrap(), value);
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).unwrap();
        assert_same(&ciborium::from_reader::<T, _>(&bytes[..]).unwrap(), value);
    }

    fn replace_some(value: &mut Value, random: &mut Pcg64Mcg) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|value| replace_some(value, random)),
            Value::Number(number) if number.is_f64() => {
                if let Some(awkward) = AWKWARD.get(random.next_u32() as usize % 8) {
                    *value = json!(awkward);
                }
            }
            _ => (),
        }
    }

    /// A loss by itself and as a configuration, with the published and with awkward numbers.
    fn assert_comes_back<L>(name: &str, configured: fn(L) -> LossConfig)
    where
        L: Clone + Debug + Serialize + DeserializeOwned,
    {
        let json = match name {
            // The one loss without defaults.
            "ClassMargins" => json!({ "s": 64.0, "m1": [0.3, 0.3], "m2": [0.1, 0.1] }),
            _ => json!({}),
        };
        let published: L = serde_json::from_value(json).unwrap();
        let fields = serde_json::to_value(&published).unwrap();
        let mut random = Pcg64Mcg::seed_from_u64(3);
        let varied = std::iter::repeat_with(|| {
            let mut fields = fields.clone();
            let values = fields.as_object_mut().unwrap().values_mut();
            values.for_each(|value| replace_some(value, &mut random));
            serde_json::from_value(fields)
        });
        let varied = varied.take(1000).flatten().take(20);
        for loss in [published].into_iter().chain(varied) {
            let bytes = postcard::to_stdvec(&loss).unwrap();
            assert_same(&postcard::from_bytes::<L>(&bytes).unwrap(), &loss);
            assert_comes_back_from_text(&loss);
            assert_comes_back_from_text(&configured(loss));
        }
    }

    macro_rules! assert_all_come_back {
        (losses { $($file:ident::$loss:ident,)* } wrappers { $($around:ident::$wrapper:ident,)* }) => {
            #[test]
            fn every_loss_comes_back_bit_for_bit() {
                $(assert_comes_back(stringify!($loss), LossConfig::$loss);)*
            }
        };
    }
    every_loss!(assert_all_come_back);
}
