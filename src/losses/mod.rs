//! The losses of this crate: one file per loss, each in the same order.

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

use std::f64::consts::PI;

pub use crate::math::Continuation;
pub use adaface::AdaFace;
pub use arcface::ArcFace;
pub use class_margins::ClassMargins;
pub use cosface::CosFace;
pub use curricularface::CurricularFace;
pub use elasticface::ElasticFace;
pub use fnorm_sphereface::FNormSphereFace;
pub use generalized::Generalized;
pub use interclass_filter::InterclassFilter;
pub use label_smoothing::LabelSmoothing;
pub use magface::MagFace;
pub use margin_kind::MarginKind;
pub use modified_softmax::ModifiedSoftmax;
pub use mv_softmax::MvSoftmax;
pub use softmax::Softmax;
pub use sphereface::SphereFace;

use crate::error::Error;
use crate::math::{Angle, Target};

/// Checks an additive angle. Half a turn or more can only be a mistake: degrees, or a scale.
fn check_angular_margin(
    parameter: &'static str,
    m: f64,
    expected: &'static str,
) -> Result<f64, Error> {
    Error::check_parameter(parameter, m, expected, (0.0..PI).contains(&m))
}

/// Checks a cosine margin. Two cosines differ by at most 2, so that a larger margin can only be a
/// mistake: per cent, or a scale.
fn check_cosine_margin(
    parameter: &'static str,
    m: f64,
    expected: &'static str,
) -> Result<f64, Error> {
    Error::check_parameter(parameter, m, expected, m.abs() < 2.0)
}

fn check_integer(m: u32) -> Result<f64, Error> {
    Error::check_parameter("angular factor m", f64::from(m), "an integer >= 1", m >= 1)
}

fn check_lambda(lambda: f64) -> Result<f64, Error> {
    let valid = lambda.is_finite() && lambda >= 0.0;
    Error::check_parameter("annealing lambda", lambda, "finite and >= 0", valid)
}

/// ψ(θ + m1) − m2, continued as `Monotone`.
fn with_margins(angle: &Angle, m1: f64, m2: f64) -> Target {
    let Target { value, slope } = Continuation::Monotone.target(angle, 1.0, m1);
    Target { value: value - m2, slope }
}

/// Checks the upper of two bounds.
fn check_order(
    parameter: &'static str,
    (low, high): (f64, f64),
    expected: &'static str,
) -> Result<f64, Error> {
    Error::check_parameter(parameter, high, expected, low <= high)
}

/// Checks the share that a batch has in a running mean.
fn check_unit_rate(parameter: &'static str, rate: f64) -> Result<f64, Error> {
    Error::check_parameter(parameter, rate, "in (0, 1]", rate > 0.0 && rate <= 1.0)
}

/// Checks a number of a batch that a loss observes.
fn check_finite(argument: &'static str, row: usize, value: f64) -> Result<f64, Error> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::NonFinite { argument, row, column: 0, value })
    }
}

/// The running mean `old` after a batch whose mean is `new`.
fn mixed(old: f64, new: f64, rate: f64) -> f64 {
    rate * new + (1.0 - rate) * old
}

#[cfg(test)]
mod tests {
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
