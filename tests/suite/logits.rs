//! The materialized level at its edges: gradients that are there already, the ends of the range,
//! angles without a direction.

use approx::assert_relative_eq;
use margin_softmax::custom::{Angle, Target};
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, Batch, CurricularFace, Error, Generalized, Gradients, Head, LabelSmoothing,
    LogitGradients, MarginLoss, MvSoftmax, NormalizedLogits, Reduction, Scale, SphereFace,
};
use ndarray::{Array1, Array2, ShapeBuilder, array};

fn matrix(rows: usize, columns: usize, turn: f64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, k)| (turn * (i * columns + k + 1) as f64).sin())
}

/// A loss whose slope alone matters.
#[derive(Debug)]
struct Steep {
    scale: f64,
    slope: f64,
}

impl MarginLoss for Steep {
    fn scale(&self) -> Scale {
        Scale::Fixed(self.scale)
    }

    fn target(&self, _: &Angle) -> Target {
        Target { value: 0.0, slope: self.slope }
    }
}

#[test]
fn logits_say_what_they_were_made_of() {
    let (x, w, b) = (array![[3.0, 4.0]], array![[2.0, 0.0], [0.0, 0.5]], array![0.25, -1.0]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_eq!(logits.cosines(), array![[0.6, 0.8]]);
    assert_eq!((logits.feature_norms(), logits.weight_norms()), (&array![5.0], &array![2.0, 0.5]));
    assert_eq!(logits.bias(), None);
    assert_eq!(logits.with_bias(&b).unwrap().bias(), Some(&b));
}

#[test]
fn gradients_that_are_there_already_are_overwritten_in_any_layout() {
    let logits = NormalizedLogits::new(&matrix(5, 3, 0.7), &matrix(4, 3, 1.9)).unwrap();
    let (loss, labels) = (SphereFace::new(2).unwrap(), [3, 0, 0, 2, 1]);
    let forward = loss.forward(&logits, &labels).unwrap();
    let fresh = loss.backward(&logits, &labels, &forward, Reduction::Sum).unwrap();
    for cosines in [Array2::from_elem((5, 4), 7.0), Array2::from_elem((5, 4).f(), 7.0)] {
        let mut gradients = LogitGradients::zeros_for(&logits);
        gradients.cosines = cosines;
        gradients.target_angles.fill(7.0);
        gradients.feature_norms.fill(7.0);
        gradients.weight_norms.fill(7.0);
        loss.backward_into(&logits, &labels, &forward, Reduction::Sum, &mut gradients).unwrap();
        assert_eq!(gradients, fresh);
    }
}

/// At this cosine the sine is $2^{-26}$ exactly, so that the bound on the gradient of the cosine
/// is a product of powers of two.
#[test]
fn a_gradient_as_large_as_is_safe_is_accepted_and_the_next_one_refused() {
    let logits = NormalizedLogits::from_cosines(array![[1.0 - 0.5_f64.powi(53), 0.0]]).unwrap();
    let largest = f64::MAX / 16.0;
    let refused = |scale, slope, upstream| {
        let (loss, upstream) = (Steep { scale, slope }, array![upstream]);
        let forward = loss.forward(&logits, &[0]).unwrap();
        let answer = loss.backward(&logits, &[0], &forward, Reduction::Weighted(&upstream));
        answer.err()
    };
    let safe = -largest * 0.5_f64.powi(26);
    assert_eq!(refused(1.0, safe, 1.0), None);
    let overflow = |bound| {
        let quantity = "the gradient of the cosines";
        Some(Error::Overflow { quantity, row: Some(0), bound, maximum: largest })
    };
    assert_eq!(refused(1.0, safe.next_down(), 1.0), overflow(largest.next_up()));
    assert_eq!(refused(4.0, safe / 4.0, 4.0), overflow(4.0 * largest));
}

/// The square of such a norm is beyond the range of f64.
#[test]
fn gradients_are_carried_on_to_embeddings_of_any_length() {
    let (x, w, labels) = (matrix(6, 5, 0.7), matrix(7, 5, 1.9), [0, 3, 6, 3, 2, 5]);
    for length in [1e-200, 1e-160, 1e160, 1e200] {
        let x = &x * length;
        let logits = NormalizedLogits::new(&x, &w).unwrap();
        for loss in
            [Generalized::new(Scale::FeatureNorm, 1.0, 0.3, 0.2).unwrap(), Generalized::default()]
        {
            let batch = Batch::new(&x, &w, &labels);
            let mut expected = Gradients::zeros_for(&batch);
            Head::new(&loss).forward_backward(&batch, Reduction::Sum, &mut expected).unwrap();
            let forward = loss.forward(&logits, &labels).unwrap();
            let found = loss.backward(&logits, &labels, &forward, Reduction::Sum).unwrap();
            let found = logits.backward(&found).unwrap();
            for (found, expected) in
                found.embeddings.rows().into_iter().zip(expected.embeddings.rows())
            {
                let size = expected.fold(0.0_f64, |size, v| size.max(v.abs()));
                approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-12 * size);
            }
        }
    }
}

#[test]
fn gradients_of_other_logits_are_refused_whatever_their_shapes() {
    let (small, large) = (matrix(2, 3, 0.7), matrix(5, 3, 1.9));
    let logits = NormalizedLogits::new(&small, &small).unwrap();
    let gradients_of = |x, w, labels: &[usize]| {
        let other = NormalizedLogits::new(x, w).unwrap();
        let loss = SphereFace::default();
        let forward = loss.forward(&other, labels).unwrap();
        let mut gradients = loss.backward(&other, labels, &forward, Reduction::Sum).unwrap();
        gradients.cosines = Array2::zeros((2, 2));
        gradients.target_angles = Array1::zeros(2);
        gradients.feature_norms = Array1::zeros(2);
        gradients.weight_norms = Array1::zeros(2);
        gradients
    };
    let refused = logits.backward(&gradients_of(&small, &large, &[1, 4])).unwrap_err();
    assert_eq!(refused, Error::Label { row: 1, label: 4, classes: 2 });
    let refused = logits.backward(&gradients_of(&large, &small, &[0; 5])).unwrap_err();
    assert!(matches!(refused, Error::Shape { argument: "labels of the gradients", .. }));
}

#[test]
fn a_single_class_has_neither_loss_nor_gradient() {
    let logits = NormalizedLogits::new(&matrix(3, 2, 0.7), &matrix(1, 2, 1.9)).unwrap();
    let loss = SphereFace::new(4).unwrap();
    let forward = loss.forward(&logits, &[0; 3]).unwrap();
    assert_eq!(forward.losses, array![0.0, 0.0, 0.0]);
    let gradients = loss.backward(&logits, &[0; 3], &forward, Reduction::Sum).unwrap();
    let zeros = LogitGradients::zeros_for(&logits).with_labels(&[0; 3]).unwrap();
    assert_eq!(gradients, zeros);
}

/// cos 2θ = 2c² − 1, whose derivative 4c is ±4 at both ends.
#[test]
fn the_gradient_of_a_cosine_has_its_limit_at_both_ends() {
    let loss = Generalized::new(1.0, 2.0, 0.0, 0.0)
        .and_then(|loss| loss.with_continuation(Continuation::Raw))
        .unwrap();
    let logits = NormalizedLogits::from_cosines(array![[1.0, 0.5], [-1.0, 0.5]]).unwrap();
    let forward = loss.forward(&logits, &[0, 0]).unwrap();
    let gradients = loss.backward(&logits, &[0, 0], &forward, Reduction::Sum).unwrap();
    // Both targets are 1 and the other logit is 0.5, and so 1 − p = 1/(1 + √e) for both.
    let miss = (1.0 + 0.5_f64.exp()).recip();
    // The limit is taken a millionth away, where an angle beside π is rounded to 4e-16.
    approx::assert_relative_eq!(gradients.cosines[[0, 0]], -4.0 * miss, max_relative = 1e-9);
    approx::assert_relative_eq!(gradients.cosines[[1, 0]], 4.0 * miss, max_relative = 1e-9);
}

/// Rows longer than what is summed at a time, whose own classes lie in every part of them: the
/// largest negative comes late and early, and the gradients may lie in columns.
#[test]
fn long_rows_are_those_of_a_head() {
    let arcface = ArcFace::new(16.0, 0.3).unwrap();
    assert_long_rows_are_those_of_a_head(&arcface);
    assert_long_rows_are_those_of_a_head(&LabelSmoothing::new(arcface, 0.2).unwrap());
    let curricular = CurricularFace::new(16.0, 0.3).unwrap().with_t(0.4).unwrap();
    assert_long_rows_are_those_of_a_head(&curricular);
    assert_long_rows_are_those_of_a_head(&LabelSmoothing::new(curricular, 0.2).unwrap());
    assert_long_rows_are_those_of_a_head(&MvSoftmax::default());
}

fn assert_long_rows_are_those_of_a_head<L: MarginLoss + Clone>(loss: &L) {
    let (x, w) = (matrix(4, 3, 0.7), matrix(5_003, 3, 0.9));
    let labels = [0, 1_023, 2_500, 5_002];
    let prior = Array1::from_shape_fn(5_003, |j| (1.0 + (j % 7) as f64).ln());
    let plain = Batch::new(&x, &w, &labels);
    for (batch, prior) in [(plain, None), (plain.with_log_prior(&prior), Some(&prior))] {
        let mut expected = Gradients::zeros_for(&batch);
        let head = Head::new(loss.clone());
        let of_head = head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
        let logits = NormalizedLogits::new(&x, &w).unwrap();
        let logits = match prior {
            Some(prior) => logits.with_log_prior(prior).unwrap(),
            None => logits,
        };
        let forward = loss.forward(&logits, &labels).unwrap();
        assert_eq!(forward.predictions(), of_head.predictions());
        assert_eq!(forward.nearest_negatives().0, of_head.nearest_negatives().0);
        assert_relative_eq!(forward.losses, of_head.losses, max_relative = 1e-13);
        let mut in_columns = LogitGradients::zeros_for(&logits);
        in_columns.cosines = Array2::zeros((4, 5_003).f());
        loss.backward_into(&logits, &labels, &forward, Reduction::Mean, &mut in_columns).unwrap();
        let gradients = loss.backward(&logits, &labels, &forward, Reduction::Mean).unwrap();
        assert_eq!(in_columns.cosines, gradients.cosines);
        let gradients = logits.backward(&gradients).unwrap();
        assert_relative_eq!(gradients.embeddings, expected.embeddings, epsilon = 1e-13);
        assert_relative_eq!(gradients.weights, expected.weights, epsilon = 1e-13);
    }
}
