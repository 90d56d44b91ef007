//! Margin-free logits and predictions.

use approx::assert_relative_eq;
use margin_softmax::{
    ArcFace, Batch, Error, Head, MarginLoss, ModifiedSoftmax, NormalizedLogits, Softmax,
};
use ndarray::{Array2, array, s};

fn matrix(rows: usize, columns: usize, turn: f64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, k)| (turn * (i * columns + k + 1) as f64).sin())
}

#[test]
fn a_head_predicts_the_class_with_the_largest_margin_free_logit() {
    let (x, w) = (matrix(40, 7, 1.3), matrix(600, 7, 2.1));
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let found = Head::new(ArcFace::default()).predict(&Batch::unlabeled(&x, &w)).unwrap();
    for (row, found) in logits.cosines().rows().into_iter().zip(found) {
        let largest = row.fold(f64::MIN, |a, &b| a.max(b));
        assert_relative_eq!(row[found], largest, epsilon = 1e-15);
    }
}

#[test]
fn predictions_are_those_of_the_forward_pass() {
    let (x, w) = (matrix(30, 5, 0.7), matrix(300, 5, 1.9));
    let labels: Vec<usize> = (0..30).map(|i| i * 7).collect();
    let head = Head::new(ModifiedSoftmax::new());
    let forward = head.forward(&Batch::new(&x, &w, &labels)).unwrap();
    assert_eq!(head.predict(&Batch::unlabeled(&x, &w)).unwrap(), forward.predictions());
}

#[test]
fn of_equal_classes_the_lowest_is_predicted() {
    let w = array![[0.0, 1.0], [2.0, 0.0], [2.0, 0.0]];
    let found =
        Head::new(ArcFace::default()).predict(&Batch::unlabeled(&array![[3.0, 0.1]], &w)).unwrap();
    assert_eq!(found, [1]);
}

#[test]
fn softmax_predicts_with_its_bias() {
    let (x, w) = (array![[1.0, 0.0]], array![[1.0, 0.0], [0.5, 0.0]]);
    let head = Head::new(Softmax::new());
    assert_eq!(head.predict(&Batch::unlabeled(&x, &w)).unwrap(), [0]);
    assert_eq!(head.predict(&Batch::unlabeled(&x, &w).with_bias(&array![0.0, 2.0])).unwrap(), [1]);
}

#[test]
fn views_are_predicted_as_they_are() {
    let (x, w) = (matrix(12, 6, 0.9), matrix(50, 6, 1.7));
    let head = Head::new(ArcFace::default());
    let straight = head.predict(&Batch::unlabeled(&x, &w)).unwrap();
    let reversed = head.predict(&Batch::unlabeled(&x.slice(s![..;-1, ..]), &w)).unwrap();
    assert!(straight.iter().eq(reversed.iter().rev()));
}

#[test]
fn margin_free_logits_are_scaled_cosines_or_inner_products() {
    let (x, w) = (matrix(4, 3, 0.3), matrix(5, 3, 1.1));
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let scaled = ArcFace::new(64.0, 0.5).unwrap().margin_free_logits(&logits).unwrap();
    assert_relative_eq!(scaled, logits.cosines() * 64.0, max_relative = 1e-15);
    let b = array![0.1, -0.2, 0.3, 0.0, 1.0];
    let logits = logits.with_bias(&b).unwrap();
    let plain = Softmax::new().margin_free_logits(&logits).unwrap();
    assert_relative_eq!(plain, x.dot(&w.t()) + &b, epsilon = 1e-14);
    assert_eq!(ArcFace::default().margin_free_logits(&logits), Err(Error::Bias));
}

#[test]
fn inference_refuses_what_a_step_refuses() {
    let (x, w) = (array![[1.0, 0.0]], array![[1.0, 0.0], [0.0, 0.0]]);
    let refused = Head::new(ArcFace::default()).predict(&Batch::unlabeled(&x, &w)).unwrap_err();
    assert!(matches!(refused, Error::DegenerateNorm { argument: "class weights", row: 1, .. }));
    let refused = Head::new(ArcFace::default())
        .predict(&Batch::unlabeled(&x, &x).with_bias(&array![0.0]))
        .unwrap_err();
    assert_eq!(refused, Error::Bias);
}
