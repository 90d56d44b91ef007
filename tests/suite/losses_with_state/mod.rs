//! What losses of the wider family keep between steps and know of a batch: running statistics, draws
//! by step and row, margins by class, and who may filter whose negatives.

mod everywhere;
mod observed;

use margin_softmax::Gradients;
use std::f64::consts::{FRAC_PI_2, FRAC_PI_3, PI};

use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::refuse::text;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    AdaFace, ArcFace, Batch, BatchMut, ClassMargins, CosFace, CurricularFace, ElasticFace, Error,
    Forward, Head, IGNORED, InterclassFilter, LabelSmoothing, MarginLoss, MvSoftmax,
    NormalizedLogits, Reduction, Sgd,
};
use ndarray::{Array1, Array2, Axis, array, s};

#[test]
fn a_negative_concentration_mirrors_the_norms_of_adaface() {
    let [plus, minus] = [0.5, -0.5].map(|h| AdaFace::new(64.0, 0.4, h).unwrap());
    let [plus, minus] = [plus, minus].map(|loss| loss.with_statistics(50.0, 10.0).unwrap());
    for (distance, theta) in [(-40.0, 1.2), (-3.0, 0.2), (0.0, 2.0), (7.0, 1.5), (45.0, 0.1)] {
        let angle = margin_softmax::custom::Angle::from_theta(theta);
        let at = |norm| margin_softmax::custom::Sample::new(angle, norm, 0, 0);
        assert_eq!(minus.target_of(&at(50.0 - distance)), plus.target_of(&at(50.0 + distance)));
    }
    let check = margin_softmax::custom::check_loss(&minus).unwrap();
    assert!(check.error < 1e-7, "{check}");
}

#[test]
fn adaface_is_arcface_below_and_twice_cosface_above_the_usual_norms() {
    // k = −1, 0 and 1, at norms that are clipped, at the mean, and far above it.
    let loss = AdaFace::new(64.0, 0.4, 0.5).unwrap().with_statistics(50.0, 10.0).unwrap();
    let at = |norm| {
        let angle = margin_softmax::custom::Angle::from_theta(1.2);
        loss.target_of(&margin_softmax::custom::Sample::new(angle, norm, 0, 0))
    };
    // 0.5 · (50 − 20.01) is beyond 10.001.
    for (norms, expected) in [
        ([0.0, 29.0], 1.6_f64.cos()),
        ([50.0, 50.0], 1.2_f64.cos() - 0.4),
        ([71.0, 1e9], 0.8_f64.cos() - 0.8),
    ] {
        for norm in norms {
            approx::assert_relative_eq!(at(norm).value, expected, max_relative = 1e-13);
            assert_eq!(at(norm).norm_slope, 0.0);
        }
    }
    // Between them k = 0.5 · 5 / 10.001; a norm of 100 is the largest that is read.
    let k: f64 = 2.5 / 10.001;
    let expected = (1.2 - 0.4 * k).cos() - 0.4 * (1.0 + k);
    approx::assert_relative_eq!(at(55.0).value, expected, max_relative = 1e-13);
    let wide = loss.clone().with_statistics(50.0, 100.0).unwrap();
    let angle = margin_softmax::custom::Angle::from_theta(1.2);
    let of = |norm| wide.target_of(&margin_softmax::custom::Sample::new(angle, norm, 0, 0)).value;
    assert!(of(100.0) == of(1e4) && of(99.0) != of(100.0));
    assert!(of(1e-3) == of(0.0) && of(1e-3) != of(0.1));
}

#[test]
fn margins_of_elasticface_are_a_function_of_seed_step_and_row() {
    let built = || ElasticFace::cos(64.0, 0.35, 0.05, 11).unwrap();
    let (loss, later) = (built().at_step(3), built().at_step(4));
    let margins = |loss: &ElasticFace| (0..1000).map(|row| loss.margin_of(row)).collect::<Vec<_>>();
    assert_eq!(margins(&loss), margins(&built().at_step(9).at_step(3)));
    let differ = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a != b);
    assert!(differ(&margins(&loss), &margins(&later)));
    let other = ElasticFace::cos(64.0, 0.35, 0.05, 12).unwrap().at_step(3);
    assert!(differ(&margins(&loss), &margins(&other)));
    assert!(differ(&margins(&loss)[1..], &margins(&loss)[..999]));
    let fixed = ElasticFace::arc(64.0, 0.5, 0.0, 11).unwrap();
    assert!(margins(&fixed).iter().all(|&m| m == 0.5));
}

#[test]
fn margins_of_elasticface_are_normally_distributed() {
    const DRAWS: usize = 100_000;
    for loss in [
        ElasticFace::arc(64.0, 0.5, 0.05, 1).unwrap(),
        ElasticFace::cos(64.0, 0.35, 0.025, 2).unwrap().at_step(77),
    ] {
        let z: Vec<f64> =
            (0..DRAWS).map(|row| (loss.margin_of(row) - loss.m()) / loss.sigma()).collect();
        let n = DRAWS as f64;
        let mean = z.iter().sum::<f64>() / n;
        assert!(mean.abs() < 5.0 / n.sqrt(), "{mean}");
        let std = (z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        assert!((std - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{std}");
        let within = z.iter().filter(|z| z.abs() < 1.0).count() as f64 / n;
        assert!((within - 0.6826894921).abs() < 5.0 * (0.683 * 0.317 / n).sqrt(), "{within}");
        let above = z.iter().filter(|&&z| z > 2.0).count() as f64 / n;
        assert!((above - 0.0227501319).abs() < 5.0 * (0.0228 * 0.9772 / n).sqrt(), "{above}");
    }
}

/// A batch of seven samples of four classes.
fn inputs() -> (Array2<f64>, Array2<f64>, Vec<usize>) {
    let mut rng = Rng::new(5);
    (rng.matrix(7, 5), rng.matrix(4, 5), vec![3, 0, 1, 3, 2, 2, 0])
}

/// The state of a loss inside of others moves on; an inner loss that brings rules of its own for
/// hard negatives is refused by the step.
#[test]
fn the_loss_inside_a_wrapper_can_be_changed() {
    let filter = InterclassFilter::new(AdaFace::default().with_rate(0.5).unwrap(), 0.4).unwrap();
    let mut head = Head::new(LabelSmoothing::new(filter, 0.1).unwrap());
    head.loss_mut().loss_mut().loss_mut().observe(&[30.0]).unwrap();
    assert_eq!(head.loss().loss().loss().mean(), 25.0);
    let inner: Box<dyn MarginLoss> = Box::new(CosFace::default());
    let mut filter = InterclassFilter::new(inner, 0.4).unwrap();
    *filter.loss_mut() = Box::new(CurricularFace::default());
    let refused = head_forward(&filter).unwrap_err().to_string();
    assert!(refused.starts_with("number of rules for hard negatives must be 0"), "{refused}");
}

fn head_forward(loss: &impl MarginLoss) -> Result<Forward<f64>, Error> {
    let (x, w, labels) = inputs();
    Head::new(loss).forward(&Batch::new(&x, &w, &labels))
}

#[test]
fn a_filter_refuses_losses_with_hard_negatives_of_their_own() {
    let said = "number of rules for hard negatives must be 0: a filter takes the place of the \
                inner loss's own, got 1";
    fn refusal(loss: impl MarginLoss) -> String {
        InterclassFilter::new(loss, 0.4).unwrap_err().to_string()
    }
    assert_eq!(refusal(CurricularFace::default()), said);
    assert_eq!(refusal(MvSoftmax::default()), said);
    assert_eq!(refusal(MvSoftmax::am(32.0, 0.35, 0.0).unwrap()), said);
    assert_eq!(refusal(InterclassFilter::new(CosFace::default(), 0.9).unwrap()), said);
    assert_eq!(refusal(LabelSmoothing::new(CurricularFace::default(), 0.1).unwrap()), said);
    assert_eq!(refusal(Box::new(MvSoftmax::default()) as Box<dyn MarginLoss>), said);
    let smoothed = LabelSmoothing::new(CosFace::default(), 0.1).unwrap();
    assert_eq!(InterclassFilter::new(&smoothed, 0.4).unwrap().label_smoothing(), 0.1);
}
