//! `check_loss` accepts every loss of this crate and finds what is wrong with others.

use margin_softmax::custom::{Angle, Coordinate, Sample, SampleTarget, Target, check_loss};
use margin_softmax::{
    ArcFace, CosFace, CurricularFace, Error, FNormSphereFace, InterclassFilter, LabelSmoothing,
    MagFace, MarginLoss, Scale, SphereFace, TopNegatives,
};

#[cfg(feature = "serde")]
use crate::common::random::Rng;
#[cfg(feature = "serde")]
use crate::configuration::with_numbers;
#[cfg(feature = "serde")]
use crate::every_loss::{configurations, published};

/// The classes of the batch that is checked.
#[cfg(feature = "serde")]
const CLASSES: usize = 3;

fn assert_passes(loss: Box<dyn MarginLoss>) {
    let check = check_loss(&loss).unwrap();
    assert!(check.error < 1e-7, "{loss:?}: {check}");
}

#[cfg(feature = "serde")]
#[test]
fn every_loss_passes_as_published() {
    published(CLASSES).into_iter().for_each(assert_passes);
}

#[test]
fn losses_of_any_magnitude_pass() {
    assert_passes(Box::new(MagFace::new(64.0, (11.999, 12.001), (0.45, 0.8), 35.0).unwrap()));
    assert_passes(Box::new(MagFace::new(64.0, (38.9, 39.1), (0.0, 3.0), 1e4).unwrap()));
    assert_passes(Box::new(SphereFace::new(1000).unwrap()));
    assert_passes(Box::new(FNormSphereFace::new(64.0, 300).unwrap()));
    for s in [1e-12, 1e-9, 1e-3, 1e3, 1e6] {
        assert_passes(Box::new(ArcFace::new(s, 0.5).unwrap()));
        assert_passes(Box::new(CurricularFace::new(s, 0.5).unwrap()));
    }
}

#[cfg(feature = "serde")]
#[test]
fn every_loss_passes_with_other_hyper_parameters() {
    let mut rng = Rng::new(7);
    // In steps of 1/8: near the published value, and from −1 to 4 where that is 0, which is every
    // variant.
    let mut near = |published: f64| match rng.below(40) as f64 / 8.0 {
        number if published == 0.0 => number - 1.0,
        number => published * (0.75 + number % 0.5),
    };
    for config in configurations(CLASSES) {
        let varied = std::iter::repeat_with(|| with_numbers(&config, &mut near));
        // Those out of range are refused.
        let varied = varied.take(1000).flatten().take(8);
        varied.for_each(|config| assert_passes(config.build()));
    }
}

#[test]
fn losses_around_others_pass() {
    assert_passes(Box::new(LabelSmoothing::new(CosFace::default(), 0.1).unwrap()));
    assert_passes(Box::new(InterclassFilter::new(ArcFace::default(), 0.2).unwrap()));
    assert_passes(Box::new(TopNegatives::new(ArcFace::default(), 1, 0.06).unwrap()));
}

#[derive(Debug)]
struct Wrong(f64);

impl MarginLoss for Wrong {
    fn scale(&self) -> Scale {
        Scale::Fixed(4.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin + self.0 }
    }
}

#[test]
fn a_slope_off_by_one_in_a_million_is_found() {
    let check = check_loss(&Wrong(1e-6)).unwrap();
    assert!(check.error > 5e-7, "{check}");
}

#[test]
fn a_slope_that_is_not_finite_is_refused() {
    assert!(matches!(check_loss(&Wrong(f64::NAN)), Err(Error::Target { .. })));
}

/// Target and penalty that follow the norm, with derivatives that are off.
#[derive(Debug)]
struct ByNorm {
    norm_slope: f64,
    penalty_slope: f64,
}

impl MarginLoss for ByNorm {
    fn scale(&self) -> Scale {
        Scale::Fixed(4.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let (norm, Target { value, slope }) = (sample.norm, self.target(&sample.angle));
        let target = Target { value: value - 0.3 * norm / (1.0 + norm), slope };
        SampleTarget::from(target)
            .with_norm_slope(-0.3 / (1.0 + norm).powi(2) + self.norm_slope)
            .with_penalty(1.0 / norm, -norm.powi(-2) + self.penalty_slope)
    }
}

#[test]
fn wrong_derivatives_by_the_norm_are_found() {
    let check = |norm_slope: f64, penalty_slope: f64| {
        check_loss(&ByNorm { norm_slope, penalty_slope }).unwrap()
    };
    let right = check(0.0, 0.0);
    assert!(right.error < 1e-7, "{right}");
    let wrong = check(1e-6, 0.0);
    assert!(
        wrong.error > 1e-5 && matches!(wrong.place, Coordinate::Sample { field: "norm_slope", .. }),
        "{wrong}"
    );
    let wrong = check(0.0, 1e-6);
    assert!(
        wrong.error > 1e-5
            && matches!(wrong.place, Coordinate::Sample { field: "penalty_slope", .. }),
        "{wrong}"
    );
}
