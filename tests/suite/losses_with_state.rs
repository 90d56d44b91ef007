//! What losses of the wider family keep between steps and know of a batch: running statistics, draws
//! by step and row, margins by class, and who may filter whose negatives.

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
fn adaface_moves_its_statistics_as_published() {
    let start = AdaFace::default().with_rate(0.25).unwrap();
    let mut loss = start.clone();
    // Mean 30, and squares of 400, 100 and 900 over n − 1 = 2.
    loss.observe(&[10.0, 20.0, 60.0]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 22.5, max_relative = 1e-15);
    let std = 0.25 * 700.0_f64.sqrt() + 75.0;
    approx::assert_relative_eq!(loss.std(), std, max_relative = 1e-15);
    loss.observe(&[42.5_f32, 42.5]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 27.5, max_relative = 1e-15);
    approx::assert_relative_eq!(loss.std(), 0.75 * std, max_relative = 1e-15);
    assert_eq!((loss.s(), loss.m(), loss.h(), loss.rate()), (64.0, 0.4, 0.333, 0.25));
}

#[test]
fn adaface_clips_the_norms_that_it_observes() {
    let mut loss = AdaFace::default().with_rate(1.0).unwrap();
    loss.observe(&[0.0, 1e6]).unwrap();
    approx::assert_relative_eq!(loss.mean(), 50.0005, max_relative = 1e-15);
    approx::assert_relative_eq!(loss.std(), 99.999 / 2.0_f64.sqrt(), max_relative = 1e-15);
    loss.observe(&[f32::MAX]).unwrap();
    assert_eq!(loss.mean(), 100.0);
    loss.observe(&[1e-30]).unwrap();
    assert_eq!(loss.mean(), 1e-3);
}

#[test]
fn one_norm_has_no_deviation_and_no_norm_changes_nothing() {
    let mut loss = AdaFace::default().with_rate(0.5).unwrap();
    loss.observe(&[30.0]).unwrap();
    assert_eq!((loss.mean(), loss.std()), (25.0, 100.0));
    let before = loss.clone();
    loss.observe::<f64>(&[]).unwrap();
    loss.observe::<f32>(&[]).unwrap();
    assert_eq!(loss, before);
}

#[test]
fn adaface_refuses_what_is_no_norm_and_is_then_as_it_was() {
    let mut loss = AdaFace::default();
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = loss.observe(&[1.0, 2.0, value]).unwrap_err();
        let expected = Error::NonFinite { argument: "norms", row: 2, column: 0, value };
        assert_eq!(text(&refused), text(&expected));
        assert_eq!(loss, AdaFace::default());
    }
    let refused = loss.observe(&[1.0, -0.5]).unwrap_err();
    let Error::DegenerateNorm { argument: "norms", row: 1, norm: -0.5, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(refused.to_string().contains("-5e-1"), "{refused}");
    assert_eq!(loss, AdaFace::default());
}

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
fn curricularface_moves_t_as_published() {
    let mut loss = CurricularFace::default().with_t(0.2).unwrap();
    // Cosines 1, 0.5, 0 and −1.
    loss.observe(&[0.0, FRAC_PI_3, FRAC_PI_2, PI]).unwrap();
    approx::assert_relative_eq!(loss.t(), 0.01 * 0.125 + 0.99 * 0.2, max_relative = 1e-14);
    let mut quick = CurricularFace::default().with_rate(1.0).unwrap();
    quick.observe(&[PI]).unwrap();
    assert_eq!(quick.t(), -1.0);
    quick.observe(&[0.0_f32; 3]).unwrap();
    assert_eq!(quick.t(), 1.0);
    let before = quick.clone();
    quick.observe::<f64>(&[]).unwrap();
    assert_eq!(quick, before);
}

#[test]
fn curricularface_refuses_angles_that_are_not_finite_and_is_then_as_it_was() {
    let mut loss = CurricularFace::default().with_t(0.2).unwrap();
    let before = loss.clone();
    for value in [f64::NAN, f64::INFINITY] {
        let refused = loss.observe(&[1.0, value, 2.0]).unwrap_err();
        let expected = Error::NonFinite { argument: "target angles", row: 1, column: 0, value };
        assert_eq!(text(&refused), text(&expected));
        assert_eq!(loss, before);
    }
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

fn by_head(loss: &impl MarginLoss) -> Forward<f64> {
    let (x, w, labels) = inputs();
    Head::new(loss).forward(&Batch::new(&x, &w, &labels)).unwrap()
}

fn assert_losses(found: &Array1<f64>, expected: &Array1<f64>) {
    approx::assert_relative_eq!(found, expected, max_relative = 1e-12);
}

/// Every level, sampled and split over ranks, finds these losses.
fn assert_everywhere(loss: &(impl MarginLoss + Clone), expected: &Array1<f64>) {
    let (x, w, labels) = inputs();
    assert_losses(&by_head(loss).losses, expected);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_losses(&loss.forward(&logits, &labels).unwrap().losses, expected);
    let batch = Batch::new(&x, &w, &labels);
    let sample = ClassSampler::new(4, 1.0, 1).unwrap().sample(&labels).unwrap();
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let sampled = Head::new(loss)
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap();
    assert_losses(&sampled.losses, expected);
    for forward in on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &labels);
        Head::on_ranks(loss.clone(), collective, range).forward(&shard).unwrap()
    }) {
        assert_losses(&forward.losses, expected);
    }
}

#[test]
fn elasticface_draws_by_the_row_of_the_whole_batch_everywhere() {
    let (x, w, labels) = inputs();
    let arc = ElasticFace::arc(16.0, 0.5, 0.2, 3).unwrap().at_step(5);
    let cos = ElasticFace::cos(16.0, 0.3, 0.2, 3).unwrap().at_step(5);
    let each = |build: &dyn Fn(usize) -> Box<dyn MarginLoss>| -> Array1<f64> {
        let of_row = |row| by_head(&build(row)).losses[row];
        (0..x.nrows()).map(of_row).collect()
    };
    let expected = each(&|row| Box::new(ArcFace::new(16.0, arc.margin_of(row)).unwrap()));
    assert_everywhere(&arc, &expected);
    let expected = each(&|row| Box::new(CosFace::new(16.0, cos.margin_of(row)).unwrap()));
    assert_everywhere(&cos, &expected);
    // Rows of a smaller batch are counted from its own first.
    let (x, labels) = (x.select(Axis(0), &[4]), [labels[4]]);
    let alone = Head::new(&arc).forward(&Batch::new(&x, &w, &labels)).unwrap();
    let first = ArcFace::new(16.0, arc.margin_of(0)).unwrap();
    assert_losses(&alone.losses, &array![by_head(&first).losses[4]]);
}

#[test]
fn class_margins_are_those_of_the_sample_s_own_class_everywhere() {
    let (_, _, labels) = inputs();
    let (m1, m2) = (vec![0.1, 0.9, 0.3, 0.5], vec![0.3, -0.1, 0.0, 0.2]);
    let loss = ClassMargins::new(16.0, m1.clone(), m2.clone()).unwrap();
    let of_row = |(row, &label): (usize, &usize)| {
        let alone = ClassMargins::new(16.0, vec![m1[label]; 4], vec![m2[label]; 4]).unwrap();
        by_head(&alone).losses[row]
    };
    let expected: Array1<f64> = labels.iter().enumerate().map(of_row).collect();
    assert_everywhere(&loss, &expected);
    let angular = ClassMargins::new(16.0, vec![0.4; 4], vec![0.0; 4]).unwrap();
    assert_everywhere(&angular, &by_head(&ArcFace::new(16.0, 0.4).unwrap()).losses);
    let cosine = ClassMargins::new(16.0, vec![0.0; 4], vec![0.4; 4]).unwrap();
    assert_everywhere(&cosine, &by_head(&CosFace::new(16.0, 0.4).unwrap()).losses);
}

#[test]
fn class_margins_are_counted_by_classes_and_not_by_samples_drawn() {
    let mut rng = Rng::new(8);
    let (x, w) = (rng.matrix(3, 5), rng.matrix(30, 5));
    let labels = [29, 4, 17];
    let margins: Vec<f64> = (0..30).map(|class| 0.02 * f64::from(class)).collect();
    let loss = |m1: Vec<f64>| {
        let m2 = vec![0.1; m1.len()];
        ClassMargins::new(16.0, m1, m2).unwrap()
    };
    let sample = ClassSampler::new(30, 0.3, 1).unwrap().sample(&labels).unwrap();
    assert!(sample.classes.len() < 30);
    let drawn = sample.classes.iter().map(|&class| margins[class]).collect();
    let of_drawn = w.select(Axis(0), &sample.classes);
    let alone = Batch::new(&x, &of_drawn, &sample.labels);
    let expected = Head::new(loss(drawn)).forward(&alone).unwrap().losses;
    let batch = Batch::new(&x, &w, &labels);
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let found = Head::new(loss(margins))
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap();
    assert_losses(&found.losses, &expected);
}

/// A step is refused with this error at every level and on every rank.
fn assert_refused_everywhere(loss: &(impl MarginLoss + Clone), expected: &Error) {
    let (x, w, labels) = inputs();
    let batch = Batch::new(&x, &w, &labels);
    assert_eq!(Head::new(loss).forward(&batch).unwrap_err(), *expected);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_eq!(loss.forward(&logits, &labels).unwrap_err(), *expected);
    let refusals = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &labels);
        Head::on_ranks(loss.clone(), collective, range).forward(&shard).unwrap_err()
    });
    assert!(refusals.iter().all(|refusal| refusal == expected), "{refusals:?}");
}

#[test]
fn class_margins_of_another_number_of_classes_are_refused() {
    // Four classes; each rank alone holds two.
    for count in [2, 3, 5] {
        let loss = ClassMargins::new(16.0, vec![0.3; count], vec![0.0; count]).unwrap();
        let (expected, actual) = (vec![4], vec![count]);
        let expected = Error::Shape { argument: "class margins", expected, actual };
        assert_refused_everywhere(&loss, &expected);
        let filter = InterclassFilter::new(loss.clone(), 0.4).unwrap();
        assert_refused_everywhere(&filter, &expected);
        assert_refused_everywhere(&LabelSmoothing::new(filter, 0.1).unwrap(), &expected);
    }
}

#[test]
fn class_margins_are_counted_by_classes_and_not_by_sub_centers() {
    let (x, w) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [-1.0, 0.0]]);
    let batch = Batch::new(&x, &w, &[1]).with_sub_centers(2);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(2).unwrap();
    for (count, accepted) in [(2, true), (4, false)] {
        let loss = ClassMargins::new(16.0, vec![0.3; count], vec![0.0; count]).unwrap();
        assert_eq!(Head::new(&loss).forward(&batch).is_ok(), accepted);
        assert_eq!(loss.forward(&logits, &[1]).is_ok(), accepted);
    }
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

/// Ignored rows have norm 0 and angle π/2, which are no observations.
#[test]
fn what_is_observed_is_of_the_samples_that_count() {
    let x = array![[3.0, 4.0], [0.0, 0.0], [6.0, 8.0], [1.0, 0.0]];
    let w = array![[3.0, 4.0], [0.0, 1.0]];
    let batch = Batch::new(&x, &w, &[0, IGNORED, 1, IGNORED]).with_ignored_label(IGNORED);
    let forward = Head::new(CosFace::default()).forward(&batch).unwrap();
    assert_eq!(forward.counted_norms(), [5.0, 10.0]);
    let angle = 0.6_f64.atan2(0.8);
    let angles = forward.counted_target_angles();
    approx::assert_relative_eq!(angles[..], [0.0, angle][..], epsilon = 1e-15);
    approx::assert_relative_eq!(forward.mean_target_angle(), angle / 2.0, epsilon = 1e-15);
    let mean = forward.margin_free_losses().sum() / 2.0;
    approx::assert_relative_eq!(forward.mean_margin_free_loss(), mean, max_relative = 1e-15);
    let batch = Batch::new(&x, &w, &[IGNORED; 4]).with_ignored_label(IGNORED);
    let forward = Head::new(CosFace::default()).forward(&batch).unwrap();
    assert_eq!((forward.mean_target_angle(), forward.mean_margin_free_loss()), (0.0, 0.0));
}

/// The margins of a part are those of its rows in the whole batch, at every entrance.
#[test]
fn a_part_of_a_batch_draws_the_margins_of_its_rows() {
    let (x, w, labels) = inputs();
    let loss = ElasticFace::arc(16.0, 0.5, 0.2, 7).unwrap();
    let whole = Head::new(&loss).forward(&Batch::new(&x, &w, &labels)).unwrap().losses;
    let (part, labels) = (x.slice(s![2.., ..]), &labels[2..]);
    let expected = whole.slice(s![2..]).to_owned();
    let batch = Batch::new(&part, &w, labels);
    assert!(Head::new(&loss).forward(&batch).unwrap().losses != expected);
    let batch = batch.with_first_row(2);
    assert_losses(&Head::new(&loss).forward(&batch).unwrap().losses, &expected);
    let logits = NormalizedLogits::new(&part, &w).unwrap().with_first_row(2);
    assert_losses(&loss.forward(&logits, labels).unwrap().losses, &expected);
    let answers = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&part, &rows, labels).with_first_row(2);
        Head::on_ranks(&loss, collective, range).forward(&shard).unwrap().losses
    });
    answers.iter().for_each(|losses| assert_losses(losses, &expected));
    let (mut moved, mut dx) = (w.clone(), Array2::zeros(part.dim()));
    let mut batch = BatchMut::new(&part, &mut moved, labels).with_first_row(2);
    let mut sgd = Sgd::new(0.1).unwrap();
    let forward = Head::new(&loss).step(&mut batch, Reduction::Mean, &mut sgd, &mut dx).unwrap();
    assert_losses(&forward.losses, &expected);
    let refused = on_ranks(&even(4, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&part, &rows, labels).with_first_row(range.start);
        Head::on_ranks(&loss, collective, range).forward(&shard).unwrap_err()
    });
    assert!(refused.iter().all(|error| matches!(error, Error::Collective { rank: 1, .. })));
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
