//! Hard negatives, norm slopes and penalties that a step refuses, and that ranks must agree on.

use crate::common::compare::wide;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::wide::Wide;
use margin_softmax::custom::{Angle, HardNegatives, Sample, SampleTarget, Target};
use margin_softmax::{
    ArcFace, Batch, CurricularFace, Error, Gradients, Head, InterclassFilter, MarginLoss,
    MvSoftmax, NormalizedLogits, Real, Reduction, Scale,
};
use ndarray::{Array2, Axis, array, s};

/// What both levels say of one sample.
fn refusals(loss: &impl MarginLoss) -> [Error; 2] {
    let (x, w) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.5, 1.0]]);
    let batch = Batch::new(&x, &w, &[0]);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(loss);
    let refused = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap_err();
    assert_eq!(gradients, Gradients::zeros_for(&batch));
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    [refused, loss.forward(&logits, &[0]).unwrap_err()]
}

#[test]
fn hard_negatives_need_cosines() {
    let hard = Some(HardNegatives::above(0.4, 0.0, 0.0, 0.0));
    let loss = Wide { hard, ..Wide::new(Scale::Unnormalized) };
    for refused in refusals(&loss) {
        assert!(matches!(refused, Error::Unsupported(message) if message.contains("cosines")));
        assert!(refused.to_string().contains("Unnormalized"));
    }
}

#[test]
fn numbers_of_hard_negatives_must_be_finite() {
    let cases = [
        ("q0", HardNegatives::above_target(f64::NAN, 1.0, 0.0)),
        ("q1", HardNegatives::above_target(0.0, f64::INFINITY, 0.0)),
        ("q2", HardNegatives::above_target(0.0, 1.0, f64::NEG_INFINITY)),
        ("threshold", HardNegatives::above(f64::NAN, 0.0, 1.0, 0.0)),
    ];
    for (name, hard) in cases {
        let loss = Wide { hard: Some(hard), ..Wide::new(Scale::Fixed(8.0)) };
        for refused in refusals(&loss) {
            assert!(matches!(refused, Error::Parameter { .. }), "{name}");
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }
}

#[test]
fn hard_negatives_beyond_the_range_of_the_type_are_refused() {
    let hard = Some(HardNegatives::above_target(0.0, 1e40, 0.0));
    let loss = Wide { hard, ..Wide::new(Scale::Fixed(8.0)) };
    let (x, w) = (array![[1.0_f32, 2.0]], array![[1.0, 0.0], [0.5, 1.0]]);
    let refused = Head::new(&loss).forward(&Batch::new(&x, &w, &[0]));
    assert!(matches!(refused, Err(Error::Overflow { row: Some(0), .. })), "{refused:?}");
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let refused = loss.forward(&logits, &[0]);
    assert!(matches!(refused, Err(Error::Overflow { row: Some(0), .. })), "{refused:?}");
}

/// Rows of class weights that point where the embedding points have a cosine of 1, which rounding
/// puts above it: no threshold of 1 lies below.
#[test]
fn no_cosine_is_above_a_threshold_of_one() {
    fn check<F: Real>(dims: usize) {
        let mut rng = Rng::new(dims as u64);
        for _ in 0..40 {
            let x = rng.matrix(1, dims).mapv(|v| F::from(v).unwrap());
            let mut w = rng.matrix(3, dims).mapv(|v| F::from(v).unwrap());
            w.row_mut(1).assign(&x.row(0));
            let plain = ArcFace::new(64.0, 0.5).unwrap();
            let filtered = InterclassFilter::new(plain.clone(), 1.0).unwrap();
            let batch = Batch::new(&x, &w, &[0]);
            let [a, b] = [Head::new(&plain as &dyn MarginLoss), Head::new(&filtered as _)]
                .map(|head| head.forward(&batch).unwrap().losses);
            assert_eq!(a, b);
            let logits = NormalizedLogits::new(&x, &w).unwrap();
            let a = plain.forward(&logits, &[0]).unwrap().losses;
            assert_eq!(a, filtered.forward(&logits, &[0]).unwrap().losses);
        }
    }
    check::<f32>(512);
    check::<f64>(512);
    check::<f32>(3);
    let logits = NormalizedLogits::from_cosines(array![[0.5, 1.0005, -0.2]]).unwrap();
    let plain = ArcFace::new(64.0, 0.5).unwrap();
    let filtered = InterclassFilter::new(plain.clone(), 1.0).unwrap();
    let losses = plain.forward(&logits, &[0]).unwrap().losses;
    assert_eq!(filtered.forward(&logits, &[0]).unwrap().losses, losses);
    assert_eq!(HardNegatives::above(1.0, 0.0, 0.0, 0.0).value(1.0 + 1e-15, 0.0), 1.0 + 1e-15);
}

/// One negative, far nearer than the class: the loss is r·(N(c) − f), and its derivative by r
/// N(c) − f, whatever the norm.
fn check_ties<F: Real>() {
    let narrow = |m: &Array2<f64>| m.mapv(|v| F::from(v).unwrap());
    let losses: [Box<dyn MarginLoss>; 2] = [
        Box::new(CurricularFace::new(16.0, 0.0).unwrap().with_t(0.8).unwrap()),
        Box::new(MvSoftmax::arc(16.0, 0.0, 0.5).unwrap()),
    ];
    for (seed, dims) in (0..40).zip([3, 17, 128, 512].into_iter().cycle()) {
        let mut rng = Rng::new(seed);
        let (own, mut x) = (rng.matrix(1, dims), rng.matrix(5, dims));
        x += &(&own * 0.8);
        let w = ndarray::concatenate![Axis(0), own, own, &own * 3.0];
        let (x, w) = (narrow(&x), narrow(&w));
        let labels = [0, 1, 2, 0, 1];
        for loss in &losses {
            let of_head = Head::new(loss).forward(&Batch::new(&x, &w, &labels)).unwrap();
            let logits = NormalizedLogits::new(&x, &w).unwrap();
            let of_logits = MarginLoss::forward(loss, &logits, &labels).unwrap();
            for found in of_head.losses.iter().chain(&of_logits.losses) {
                let off = (wide(*found) - 3.0_f64.ln()).abs();
                assert!(off <= 16.0 * 17.0 * wide(F::epsilon()), "{loss:?}: {found}");
            }
        }
    }
}

/// Without a margin a class weight that points as the sample's own is as near as that, not nearer.
#[test]
fn equal_class_weights_are_no_hard_negatives_without_a_margin() {
    check_ties::<f64>();
    check_ties::<f32>();
}

#[test]
fn hard_negatives_under_the_feature_norm_are_rounded_as_their_largest() {
    fn check<F: Real>(norms: &[f64]) {
        let hard = HardNegatives::above_target(0.2, 0.5, 0.7);
        let loss = Wide { hard: Some(hard), ..Wide::new(Scale::FeatureNorm) };
        let mut rng = Rng::new(3);
        for &norm in norms {
            let narrow = |v: f64| F::from(v).unwrap();
            let x = rng.matrix(1, 7).mapv(narrow);
            let w =
                ndarray::concatenate![Axis(0), x.mapv(|v| -v), &x + &rng.matrix(1, 7).mapv(narrow)];
            let x = x.mapv(|v| v * narrow(norm));
            let logits = NormalizedLogits::new(&x, &w).unwrap();
            let forward = loss.forward(&logits, &[0]).unwrap();
            let gradients = loss.backward(&logits, &[0], &forward, Reduction::Sum).unwrap();
            let target = Angle::from_theta(std::f64::consts::PI);
            let f = loss.target_of(&Sample::new(target, 1.0, 0, 0)).value;
            let c = wide(logits.cosines()[[0, 1]]);
            let expected = hard.value(c, f) - f;
            let (found, epsilon) = (wide(gradients.feature_norms[0]), wide(F::epsilon()));
            approx::assert_relative_eq!(found, expected, max_relative = 16.0 * epsilon);
            let batch = Batch::new(&x, &w, &[0]);
            let mut gradients = Gradients::zeros_for(&batch);
            let head = Head::new(&loss);
            let by_head = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
            let along = gradients.embeddings.iter().zip(&x).map(|(&g, &x)| wide(g) * wide(x));
            let by_norm = along.sum::<f64>() / wide(by_head.norms()[0]);
            approx::assert_relative_eq!(by_norm, expected, max_relative = 64.0 * epsilon);
            let [a, b] = [forward, by_head].map(|forward| wide(forward.losses[0]));
            approx::assert_relative_eq!(a, b, max_relative = 64.0 * epsilon);
        }
    }
    check::<f32>(&[1e3, 1e6, 1e9, 1e20, 1e28]);
    check::<f64>(&[1e3, 1e9, 1e20, 1e100, 1e280]);
}

/// A loss with one part of its sample's target replaced.
#[derive(Debug, Clone, Copy)]
struct Broken {
    norm_slope: f64,
    penalty: f64,
    penalty_slope: f64,
}

impl MarginLoss for Broken {
    fn scale(&self) -> Scale {
        Scale::Fixed(8.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn target_of(&self, sample: &Sample) -> SampleTarget {
        let target = SampleTarget::from(self.target(&sample.angle));
        target.with_norm_slope(self.norm_slope).with_penalty(self.penalty, self.penalty_slope)
    }
}

#[test]
fn norm_slopes_and_penalties_must_be_finite() {
    let whole = Broken { norm_slope: 0.5, penalty: 0.25, penalty_slope: 0.125 };
    let broken = [
        Broken { norm_slope: f64::NAN, ..whole },
        Broken { penalty: f64::INFINITY, ..whole },
        Broken { penalty_slope: f64::NEG_INFINITY, ..whole },
    ];
    for loss in broken {
        for refused in refusals(&loss) {
            assert!(matches!(refused, Error::Target { row: 0, .. }), "{refused:?}");
            assert!(refused.to_string().contains("and the norm 2.236"), "{refused}");
        }
    }
}

#[test]
fn a_penalty_is_in_the_loss_and_not_in_the_margin_free_loss() {
    let (x, w) = (array![[1.0, 2.0], [0.3, 0.1]], array![[1.0, 0.0], [0.5, 1.0]]);
    let (plain, penalized) = (Wide::new(Scale::Fixed(8.0)), Wide::new(Scale::Fixed(8.0)));
    let penalized = Wide { lambda: 0.5, ..penalized };
    let batch = Batch::new(&x, &w, &[0, 1]);
    let [without, with] = [plain, penalized].map(|loss| Head::new(loss).forward(&batch).unwrap());
    assert_eq!(with.margin_free_losses(), without.margin_free_losses());
    let penalties = &with.losses - &without.losses;
    approx::assert_relative_eq!(penalties, array![0.5 * 5.0, 0.5 * 0.1], max_relative = 1e-13);
}

#[test]
fn a_forward_pass_with_another_penalty_or_threshold_is_refused() {
    let (x, w) = (array![[1.0, 2.0], [0.3, 0.1]], array![[1.0, 0.0], [0.5, 1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let loss = Wide::new(Scale::Fixed(8.0));
    let forward = loss.forward(&logits, &[0, 1]).unwrap();
    let hard = Some(HardNegatives::above_target(0.0, 0.2, 1.0));
    for other in [Wide { lambda: 0.1, ..loss.clone() }, Wide { hard, ..loss.clone() }] {
        let refused = other.backward(&logits, &[0, 1], &forward, Reduction::Mean).unwrap_err();
        assert_eq!(refused, Error::Forward { row: 0 });
    }
}

#[test]
fn ranks_must_agree_on_everything_that_a_loss_says() {
    let base = Wide { lambda: 0.1, kappa: 0.1, ..Wide::new(Scale::Fixed(8.0)) };
    let hard = |t| Some(HardNegatives::above_target(0.0, t, 1.0));
    let others = [
        Wide { hard: hard(0.1), ..base.clone() },
        Wide { lambda: 0.2, ..base.clone() },
        Wide { kappa: 0.2, ..base.clone() },
        Wide { by_label: 0.1, ..base.clone() },
    ];
    let (x, w) = (array![[1.0, 2.0]], Array2::from_elem((4, 2), 1.0));
    for other in others {
        let refusals = on_ranks(&even(4, 2), |collective, range| {
            let loss = if range.start == 0 { base.clone() } else { other.clone() };
            let rows = w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&x, &rows, &[1]);
            Head::on_ranks(loss, collective, range).forward(&shard).unwrap_err()
        });
        for refused in refusals {
            let Error::Collective { rank: 1, reason } = refused else { panic!("{refused}") };
            assert!(reason.contains("the loss or one of its parameters"), "{reason}");
        }
    }
}

/// A loss for three classes.
#[derive(Debug)]
struct OfThree;

impl MarginLoss for OfThree {
    fn scale(&self) -> Scale {
        Scale::Fixed(8.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn check_classes(&self, classes: usize) -> Result<(), Error> {
        let (expected, actual) = (vec![classes], vec![3]);
        if classes == 3 {
            Ok(())
        } else {
            Err(Error::Shape { argument: "margins", expected, actual })
        }
    }
}

#[test]
fn a_loss_is_asked_about_the_classes_of_all_ranks() {
    let (x, w) = (array![[1.0, 2.0]], Array2::from_elem((4, 2), 1.0));
    for (classes, accepted) in [(3, true), (4, false)] {
        let rows = w.slice(s![..classes, ..]);
        let batch = Batch::new(&x, &rows, &[1]);
        assert_eq!(Head::new(OfThree).forward(&batch).is_ok(), accepted);
        let logits = NormalizedLogits::new(&x, &rows).unwrap();
        assert_eq!(OfThree.forward(&logits, &[1]).is_ok(), accepted);
        let sub_centers = w.slice(s![..classes / 3 * 3, ..]);
        let sub_centers = NormalizedLogits::new(&x, &sub_centers).unwrap().with_sub_centers(3);
        assert!(OfThree.forward(&sub_centers.unwrap(), &[0]).is_err());
        let results = on_ranks(&even(classes, 2), |collective, range| {
            let rows = w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&x, &rows, &[1]);
            Head::on_ranks(OfThree, collective, range).forward(&shard).is_ok()
        });
        assert_eq!(results, [accepted; 2]);
    }
}
