//! The losses of this crate: one file per loss, each in the same order, and the table of them all.

mod adaface;
mod arcface;
mod class_margins;
mod cosface;
mod curricularface;
mod elasticface;
mod fnorm_sphereface;
mod generalized;
mod interclass_filter;
mod label_smoothing;
mod magface;
mod margin_kind;
mod modified_softmax;
mod mv_softmax;
mod softmax;
mod sphereface;
mod sphereface2;
mod top_negatives;
mod unified_cross_entropy;

pub use crate::math::Continuation;
pub use margin_kind::MarginKind;

// What losses are written with: each file has `use super::*`.
use crate::data::{Scale, check_finite};
use crate::error::{Error, check};
use crate::kernel::Real;
use crate::loss::{MarginLoss, forward};
use crate::math::{
    Angle, BinaryForm, HardNegatives, Sample, SampleTarget, Target, TopMargin, annealed, stretched,
};
use crate::parameters::hyper_parameters;

/// The table of losses, each with its file: those that stand alone, and those around another one.
/// `every_loss!(macro tokens)` calls the macro with the tokens and the table.
macro_rules! every_loss {
    ($then:ident $($first:tt)*) => {
        $then! {
            $($first)*
            losses {
                softmax::Softmax,
                modified_softmax::ModifiedSoftmax,
                sphereface::SphereFace,
                fnorm_sphereface::FNormSphereFace,
                cosface::CosFace,
                arcface::ArcFace,
                generalized::Generalized,
                adaface::AdaFace,
                magface::MagFace,
                elasticface::ElasticFace,
                class_margins::ClassMargins,
                curricularface::CurricularFace,
                mv_softmax::MvSoftmax,
                sphereface2::SphereFace2,
                unified_cross_entropy::UnifiedCrossEntropy,
            }
            wrappers {
                label_smoothing::LabelSmoothing,
                interclass_filter::InterclassFilter,
                top_negatives::TopNegatives,
            }
        }
    };
}
#[cfg(feature = "serde")]
pub(crate) use every_loss;

macro_rules! exported {
    (
        losses { $($file:ident::$loss:ident,)* }
        wrappers { $($wrapper_file:ident::$wrapper:ident,)* }
    ) => {
        $(pub use $file::$loss;)*
        $(pub use $wrapper_file::$wrapper;)*

        /// The same, for the root of the crate.
        pub(crate) mod names {
            $(pub use super::$loss;)*
            $(pub use super::$wrapper;)*
        }
    };
}
every_loss!(exported);

/// ψ(θ + m1) − m2, continued as `Monotone`.
fn with_margins(angle: &Angle, m1: f64, m2: f64) -> Target {
    let Target { value, slope } = Continuation::Monotone.target(angle, 1.0, m1);
    Target { value: value - m2, slope }
}

/// The running mean `old` after a batch whose mean is `new`.
fn mixed(old: f64, new: f64, rate: f64) -> f64 {
    rate * new + (1.0 - rate) * old
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use super::*;

    fn assert_refused<L>(loss: Result<L, Error>, words: &[&str]) {
        let message = loss.err().expect("refused").to_string();
        for word in words {
            assert!(message.contains(word), "{message:?} lacks {word:?}");
        }
    }

    #[test]
    fn angles_in_degrees_are_refused() {
        let words = ["angular margin m", "[0, π) radians", "scale s, then margin m", "got 28.6"];
        assert_refused(ArcFace::new(64.0, 28.6), &words);
        let words = ["angular margin m1", "[0, π) radians", "scale, then m0, m1, m2", "got 17.2"];
        assert_refused(Generalized::new(64.0, 1.0, 17.2, 0.2), &words);
    }

    #[test]
    fn cosine_margins_in_per_cent_are_refused() {
        let words = ["cosine margin m", "(-2, 2)", "cosines", "scale s, then margin m", "got 35"];
        assert_refused(CosFace::new(64.0, 35.0), &words);
        let words = ["cosine margin m2", "(-2, 2)", "cosines", "then m0, m1, m2", "got -20"];
        assert_refused(Generalized::new(64.0, 1.0, 0.3, -20.0), &words);
    }

    #[test]
    fn swapped_arguments_are_refused() {
        assert_refused(ArcFace::new(0.5, 64.0), &["radians", "scale s, then margin m", "got 64"]);
        assert_refused(CosFace::new(0.35, 64.0), &["cosines", "scale s, then margin m", "got 64"]);
        assert_refused(Generalized::new(1.0, 0.3, 0.2, 64.0), &["then m0, m1, m2", "got 64"]);
    }

    #[test]
    fn margins_are_accepted_up_to_their_bounds() {
        let (angle, cosine) = (PI.next_down(), 2.0_f64.next_down());
        for m in [0.0, -0.0, angle] {
            assert!(ArcFace::new(64.0, m).is_ok(), "{m}");
            assert!(Generalized::new(64.0, 1.0, m, 0.0).is_ok(), "{m}");
        }
        for m in [PI, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            assert_refused(ArcFace::new(64.0, m), &["radians"]);
            assert_refused(Generalized::new(64.0, 1.0, m, 0.0), &["radians"]);
        }
        for m in [-cosine, 0.0, cosine] {
            assert!(CosFace::new(64.0, m).is_ok(), "{m}");
            assert!(Generalized::new(64.0, 1.0, 0.0, m).is_ok(), "{m}");
        }
        for m in [-2.0, 2.0, f64::NAN, f64::NEG_INFINITY] {
            assert_refused(CosFace::new(64.0, m), &["cosines"]);
            assert_refused(Generalized::new(64.0, 1.0, 0.0, m), &["cosines"]);
        }
    }
}
