//! Schedules are functions of the step alone, finite at any step; the AdaCos scale is what it is
//! derived to be.

use std::f64::consts::FRAC_PI_4;

use margin_softmax::schedule::{LambdaAnnealing, MarginWarmup, adacos_scale};
use margin_softmax::{ArcFace, CosFace, Error, MarginLoss, NormalizedLogits, SphereFace};
use ndarray::Array2;
use proptest::array::uniform2;
use proptest::prelude::*;

const STEPS: [usize; 8] = [0, 1, 2, 99, 1657, 1_000_000, usize::MAX - 1, usize::MAX];

fn message<T: std::fmt::Debug>(refused: Result<T, Error>) -> String {
    refused.unwrap_err().to_string()
}

#[test]
fn lambda_is_that_of_the_a_softmax_code() {
    let annealing = LambdaAnnealing::default();
    for step in 0..5000 {
        assert_eq!(annealing.at(step), (1000.0 / (1.0 + 0.12 * step as f64)).max(5.0));
    }
    let cubed = LambdaAnnealing::new(80.0, 0.5, 3.0, 0.25).unwrap();
    assert_eq!([cubed.at(0), cubed.at(2), cubed.at(6), cubed.at(18)], [80.0, 10.0, 1.25, 0.25]);
}

#[test]
fn lambda_stays_where_it_is_without_a_fall() {
    for (gamma, power) in [(0.0, 1.0), (0.12, 0.0), (0.0, f64::MAX), (f64::MAX, 0.0)] {
        let annealing = LambdaAnnealing::new(7.0, gamma, power, 5.0).unwrap();
        assert!(STEPS.iter().all(|&step| annealing.at(step) == 7.0), "{annealing:?}");
    }
}

/// Rounding in between neither: the loss takes every margin on the way.
#[test]
fn a_warm_up_never_leaves_the_range_between_its_ends() {
    let last = std::f64::consts::PI.next_down();
    for start in [0.0, 0.1, 1.0 / 3.0, last.next_down(), last] {
        let warmup = MarginWarmup::new(last, 1000).unwrap().with_start(start).unwrap();
        for step in 0..1000 {
            let margin = warmup.at(step);
            assert!((start..=last).contains(&margin) && ArcFace::new(64.0, margin).is_ok());
        }
    }
}

#[test]
fn a_minimum_above_the_base_holds_from_the_first_step() {
    let annealing = LambdaAnnealing::new(1.0, 0.12, 1.0, 5.0).unwrap();
    assert!(STEPS.iter().all(|&step| annealing.at(step) == 5.0));
}

#[test]
fn a_warmup_reaches_its_margin_exactly_and_stays_there() {
    let warmup = MarginWarmup::new(0.5, 7).unwrap();
    assert_eq!(warmup.at(0), 0.0);
    assert_eq!([warmup.at(7), warmup.at(8), warmup.at(usize::MAX)], [0.5; 3]);
    let steps = (0..7).map(|step| warmup.at(step + 1) - warmup.at(step));
    assert!(steps.into_iter().all(|rise| (rise - 0.5 / 7.0).abs() < 1e-16));
}

#[test]
fn a_warmup_over_no_steps_is_a_jump() {
    let jump = MarginWarmup::new(0.35, 0).unwrap().with_delay(3);
    assert_eq!([jump.at(0), jump.at(2), jump.at(3), jump.at(4)], [0.0, 0.0, 0.35, 0.35]);
}

#[test]
fn a_delayed_warmup_is_the_same_one_later() {
    let warmup = MarginWarmup::new(4.0, 13).unwrap().with_start(1.0).unwrap();
    let delayed = warmup.clone().with_delay(5);
    assert!((0..5).all(|step| delayed.at(step) == 1.0));
    assert!((0..30).all(|step| delayed.at(step + 5) == warmup.at(step)));
}

#[test]
fn a_margin_may_shrink_to_a_negative_one() {
    let warmup = MarginWarmup::new(-0.2, 4).unwrap().with_start(0.2).unwrap();
    assert_eq!([warmup.at(0), warmup.at(2), warmup.at(4)], [0.2, 0.0, -0.2]);
}

#[test]
fn losses_take_what_schedules_give() {
    let annealing = LambdaAnnealing::new(f64::MAX, 1e-300, 0.5, 0.0).unwrap();
    let warmup = MarginWarmup::new(0.5, usize::MAX).unwrap();
    for step in STEPS {
        let sphereface = SphereFace::new(4).unwrap().with_annealing(annealing.at(step)).unwrap();
        assert_eq!(sphereface.lambda(), annealing.at(step));
        assert_eq!(ArcFace::new(64.0, warmup.at(step)).unwrap().m(), warmup.at(step));
    }
}

proptest! {
    #[test]
    fn lambda_never_rises_and_stays_within_its_ends(
        parameters in any::<[f64; 4]>(), steps in any::<[usize; 2]>(),
    ) {
        let [base, gamma, power, minimum] = parameters.map(f64::abs);
        let [early, late] = [steps[0].min(steps[1]), steps[0].max(steps[1])];
        let annealing = LambdaAnnealing::new(base, gamma, power, minimum).unwrap();
        prop_assert_eq!(annealing.at(0), base.max(minimum));
        prop_assert!(annealing.at(early) <= annealing.at(0));
        // A power is right to about its last place.
        prop_assert!(annealing.at(late) <= annealing.at(early) * (1.0 + 4.0 * f64::EPSILON));
        prop_assert!(annealing.at(late) >= minimum);
    }

    #[test]
    fn a_margin_never_falls_back_and_stays_within_its_ends(
        ends in uniform2(-1e300..1e300_f64),
        spans in any::<[usize; 2]>(),
        steps in any::<[usize; 2]>(),
    ) {
        let [start, margin] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
        let [early, late] = [steps[0].min(steps[1]), steps[0].max(steps[1])];
        let warmup = MarginWarmup::new(margin, spans[0]).unwrap();
        let warmup = warmup.with_start(start).unwrap().with_delay(spans[1]);
        // The distance is rounded, and the last step before the end may pass it by as much.
        let rounding = f64::EPSILON * (margin - start);
        prop_assert!(warmup.at(early) >= start && warmup.at(late) <= margin + rounding);
        prop_assert!(warmup.at(early) <= warmup.at(late) + rounding);
    }
}

#[test]
fn at_the_adacos_scale_half_a_right_angle_is_probability_one_half() {
    for classes in [3, 10, 1000, 1_000_000] {
        let mut cosines = Array2::<f64>::zeros((1, classes));
        cosines[[0, 1]] = FRAC_PI_4.cos();
        let logits = NormalizedLogits::from_cosines(cosines).unwrap();
        let plain = CosFace::new(adacos_scale(classes).unwrap(), 0.0).unwrap();
        let loss = plain.forward(&logits, &[1]).unwrap().losses[0];
        // log(C − 1) from a sum of C − 1 ones, and its double rounding: a few digits' last places.
        assert!((loss - 2.0_f64.ln()).abs() < 1e-13, "{classes}: {loss}");
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let annealing = |parameters: [f64; 4]| {
        let [base, gamma, power, minimum] = parameters;
        message(LambdaAnnealing::new(base, gamma, power, minimum))
    };
    let warmup = || MarginWarmup::new(0.5, 10).unwrap();
    for (said, expected) in [
        (annealing([-1.0, 0.1, 1.0, 5.0]), "annealing base must be finite and >= 0, got -1"),
        (annealing([1e3, f64::NAN, 1.0, 5.0]), "annealing gamma must be finite and >= 0, got NaN"),
        (annealing([1e3, 0.1, -1.0, 5.0]), "annealing power must be finite and >= 0, got -1"),
        (
            annealing([1e3, 0.1, 1.0, f64::INFINITY]),
            "annealing minimum must be finite and >= 0, got inf",
        ),
        (message(MarginWarmup::new(f64::NAN, 10)), "margin must be finite, got NaN"),
        (
            message(warmup().with_start(f64::INFINITY)),
            "start of the margin must be finite, and so its distance from the margin, got inf",
        ),
        (message(adacos_scale(2)), "number of classes must be >= 3, got 2"),
        (message(adacos_scale(0)), "number of classes must be >= 3, got 0"),
    ] {
        assert_eq!(said, expected);
    }
    let far = MarginWarmup::new(f64::MAX, 10).unwrap();
    assert!(far.with_start(f64::MIN).is_err());
}
