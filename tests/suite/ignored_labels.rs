//! Samples of an ignored label: loss 0, gradient 0, not counted, without a prediction.

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, Error, Forward, Gradients, Head, IGNORED, MarginLoss, NormalizedLogits,
    Reduction, labels_from, labels_from_ignoring,
};
use ndarray::{Array2, Axis, s};

use crate::common::ranks::{even, on_ranks, problem};

const LABELS: [usize; 5] = [4, IGNORED, 0, IGNORED, 7];
const COUNTED: [usize; 3] = [0, 2, 4];

fn loss() -> ArcFace {
    ArcFace::new(16.0, 0.3).unwrap()
}

/// The embeddings of all samples; those that are ignored hold zeros and huge numbers.
fn inputs() -> (Array2<f64>, Array2<f64>) {
    let mut problem = problem(3, (5, 4, 9), false);
    problem.x.row_mut(1).fill(0.0);
    problem.x.row_mut(3).fill(1e300);
    (problem.x, problem.w)
}

/// A step over the samples that count alone.
fn counted_alone(x: &Array2<f64>, w: &Array2<f64>) -> (Forward<f64>, Gradients<f64>) {
    let (x, labels) = (x.select(Axis(0), &COUNTED), COUNTED.map(|i| LABELS[i]));
    let batch = Batch::new(&x, w, &labels);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(loss());
    (head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap(), gradients)
}

fn assert_counted(forward: &Forward<f64>, embeddings: &Array2<f64>, weights: &Array2<f64>) {
    let (x, w) = inputs();
    let (expected, gradients) = counted_alone(&x, &w);
    assert_eq!(forward.counted(), 3);
    approx::assert_relative_eq!(forward.mean(), expected.mean(), epsilon = 1e-13);
    assert_eq!(forward.accuracy(), expected.accuracy());
    let means = [
        (forward.mean_target_angle(), expected.target_angles().mean().unwrap()),
        (forward.mean_margin_free_loss(), expected.margin_free_losses().mean().unwrap()),
    ];
    for (mean, expected) in means {
        approx::assert_relative_eq!(mean, expected, epsilon = 1e-13);
    }
    approx::assert_relative_eq!(
        &forward.counted_norms()[..],
        &expected.norms().to_vec()[..],
        epsilon = 1e-13
    );
    approx::assert_abs_diff_eq!(weights, &gradients.weights, epsilon = 1e-12);
    for (i, label) in LABELS.into_iter().enumerate() {
        let prediction = forward.predictions()[i];
        match COUNTED.iter().position(|&counted| counted == i) {
            Some(at) => {
                assert_eq!(prediction, expected.predictions()[at]);
                approx::assert_abs_diff_eq!(
                    embeddings.row(i),
                    gradients.embeddings.row(at),
                    epsilon = 1e-12
                );
            }
            None => {
                assert_eq!((label, prediction, forward.losses[i]), (IGNORED, IGNORED, 0.0));
                assert!(embeddings.row(i).iter().all(|&g| g == 0.0));
            }
        }
    }
}

#[test]
fn a_head_leaves_ignored_samples_out() {
    let (x, w) = inputs();
    let batch = Batch::new(&x, &w, &LABELS).with_ignored_label(IGNORED);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(loss());
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    assert_counted(&forward, &gradients.embeddings, &gradients.weights);
    assert_eq!(head.forward(&batch).unwrap(), forward);
}

#[test]
fn materialized_logits_leave_ignored_samples_out() {
    let (mut x, w) = inputs();
    x.row_mut(3).fill(2.0);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_ignored_label(IGNORED);
    let forward = loss().forward(&logits, &LABELS).unwrap();
    let gradients = loss().backward(&logits, &LABELS, &forward, Reduction::Mean).unwrap();
    assert!([1, 3].iter().all(|&i| gradients.cosines.row(i).iter().all(|&g| g == 0.0)));
    let gradients = logits.backward(&gradients).unwrap();
    assert_counted(&forward, &gradients.embeddings, &gradients.weights);
}

#[test]
fn a_sampled_step_leaves_ignored_samples_out() {
    let (x, w) = inputs();
    let batch = Batch::new(&x, &w, &LABELS).with_ignored_label(IGNORED);
    let sample = ClassSampler::new(9, 1.0, 0).unwrap().sample(&LABELS).unwrap();
    let head = Head::new(loss());
    let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
    let forward = head
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
        .unwrap();
    assert_counted(&forward, &gradients.embeddings, &gradients.weights);
}

#[test]
fn ranks_leave_ignored_samples_out() {
    let (x, w) = inputs();
    let ranks = on_ranks(&even(9, 2), |collective, range| {
        let rows = w.slice(s![range.clone(), ..]);
        let shard = Batch::new(&x, &rows, &LABELS).with_ignored_label(IGNORED);
        let mut gradients = Gradients::zeros_for(&shard);
        let head = Head::on_ranks(loss(), collective, range);
        let forward = head.forward_backward(&shard, Reduction::Mean, &mut gradients).unwrap();
        (forward, gradients)
    });
    let rows: Vec<_> = ranks.iter().map(|(_, gradients)| gradients.weights.view()).collect();
    let weights = ndarray::concatenate(Axis(0), &rows).unwrap();
    for (forward, gradients) in &ranks {
        assert_counted(forward, &gradients.embeddings, &weights);
    }
}

/// Any label may be the ignored one, that of a class too.
#[test]
fn the_ignored_label_may_be_the_number_of_a_class() {
    let (mut x, w) = inputs();
    x.row_mut(3).fill(2.0);
    let labels = [4, 2, 0, 2, 7];
    let batch = Batch::new(&x, &w, &labels).with_ignored_label(2);
    let mut gradients = Gradients::zeros_for(&batch);
    let forward =
        Head::new(loss()).forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    assert_counted(&forward, &gradients.embeddings, &gradients.weights);
}

#[test]
fn an_ignored_label_that_no_one_asked_to_ignore_is_refused_and_reads_minus_one() {
    let (x, w) = inputs();
    let batch = Batch::new(&x, &w, &LABELS);
    let head = Head::new(loss());
    let refused = Error::Label { row: 1, label: IGNORED, classes: 9 };
    assert_eq!(head.forward(&batch).unwrap_err(), refused);
    assert_eq!(head.target_angles(&batch).unwrap_err(), refused);
    assert_eq!(refused.to_string(), "labels[1] is -1, but there are 9 classes (0..9)");
    let cast = Batch::new(&x, &w, &[0, 1, -2_i64 as usize, 0, 0]);
    let cast = head.forward(&cast.with_ignored_label(IGNORED)).unwrap_err();
    assert!(cast.to_string().starts_with("labels[2] is -2"), "{cast}");
}

#[test]
fn labels_of_any_integer_type_are_converted_or_refused_by_value() {
    assert_eq!(labels_from(&[3_u8, 0]).unwrap(), [3, 0]);
    assert_eq!(labels_from(&[3_i32, 0]).unwrap(), [3, 0]);
    assert_eq!(labels_from::<i64>(&[]).unwrap(), [0; 0]);
    let refused = labels_from(&[5_i64, -100]).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 1, label: -100 });
    assert_eq!(labels_from_ignoring(&[5_i64, -100], -100).unwrap(), [5, IGNORED]);
    let refused = labels_from_ignoring(&[-1_i64, -100], -100).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 0, label: -1 });
    // The one number that no class has is no class here either.
    let refused = labels_from(&[u64::MAX]).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 0, label: i128::from(u64::MAX) });
}
