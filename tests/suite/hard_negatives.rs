//! Hard negatives, norm slopes and penalties that a step refuses, and that ranks must agree on.

use crate::common::ranks::{even, on_ranks};
use crate::common::wide::Wide;
use margin_softmax::custom::{Angle, HardNegatives, Sample, SampleTarget, Target};
use margin_softmax::{
    Batch, Error, Gradients, Head, MarginLoss, NormalizedLogits, Reduction, Scale,
};
use ndarray::{Array2, array, s};

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
    assert!(matches!(refused, Err(Error::Overflow { row: 0, .. })), "{refused:?}");
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let refused = loss.forward(&logits, &[0]);
    assert!(matches!(refused, Err(Error::Overflow { row: 0, .. })), "{refused:?}");
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
