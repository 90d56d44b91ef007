//! Norms, scales and probabilities so small that products fall out of the range of `f32`, though
//! the results do not: as the same numbers in `f64`.

use margin_softmax::custom::HardNegatives;
use margin_softmax::{
    ArcFace, Batch, CosFace, CurricularFace, Forward, Gradients, Head, LabelSmoothing, MarginLoss,
    NormalizedLogits, Reduction, Scale, Softmax, SphereFace,
};
use ndarray::{Array1, Array2, array, s};

use crate::common::compare::norm;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::wide::Wide;

/// A step in f32, and the same of the same numbers in f64.
fn both(
    loss: &dyn MarginLoss,
    (x, w): (&Array2<f32>, &Array2<f32>),
    labels: &[usize],
) -> [(Forward<f64>, Array2<f64>, Array2<f64>); 2] {
    let wide = |m: &Array2<f32>| m.mapv(f64::from);
    let (x64, w64) = (wide(x), wide(w));
    let head = Head::new(loss);
    let batch = Batch::new(&x64, &w64, labels);
    let mut exact = Gradients::zeros_for(&batch);
    let of_exact = head.forward_backward(&batch, Reduction::Sum, &mut exact).unwrap();
    let batch = Batch::new(x, w, labels);
    let mut found = Gradients::zeros_for(&batch);
    let of_found = head.forward_backward(&batch, Reduction::Sum, &mut found).unwrap();
    assert_eq!(of_found.predictions(), of_exact.predictions(), "{loss:?}");
    assert_eq!(of_found.accuracy(), of_exact.accuracy());
    let losses = of_found.losses.mapv(f64::from);
    for (found, exact) in losses.iter().zip(&of_exact.losses) {
        approx::assert_relative_eq!(found, exact, max_relative = 1e-4, epsilon = 1e-37);
    }
    let nearest = head.predict(&batch).unwrap();
    assert_eq!(nearest, of_exact.predictions());
    let negatives = of_exact.nearest_negatives().0;
    assert_eq!(of_found.nearest_negatives().0, negatives);
    let logits = NormalizedLogits::new(x, w).unwrap();
    let by_logits = MarginLoss::forward(&loss, &logits, labels).unwrap();
    let by_ranks = on_ranks(&even(w.nrows(), 2), |collective, range| {
        let shard = w.slice(s![range.clone(), ..]);
        let head = Head::on_ranks(loss, collective, range);
        head.forward(&Batch::new(x, &shard, labels)).unwrap()
    });
    for forward in by_ranks.iter().chain([&by_logits]) {
        assert_eq!(forward.predictions(), nearest);
        assert_eq!(forward.nearest_negatives().0, negatives);
    }
    [
        (of_exact.clone(), wide(&found.embeddings), wide(&found.weights)),
        (of_exact, exact.embeddings, exact.weights),
    ]
}

/// Each row within 1e-4 of its own length: rounding of logits up to 64, 16 times. A share of the
/// negatives below the smallest number of f32 is 0.
fn assert_rows(what: &str, found: &Array2<f64>, exact: &Array2<f64>) {
    let longest = exact.rows().into_iter().map(norm).fold(0.0, f64::max);
    for (found, exact) in found.rows().into_iter().zip(exact.rows()) {
        let allowed = 1e-4 * norm(exact) + 1e-37 * (1.0 + longest);
        let off = norm((&found - &exact).view());
        assert!(off <= allowed, "{what}: {found:e} for {exact:e}");
    }
}

fn assert_same(loss: &dyn MarginLoss, numbers: (&Array2<f32>, &Array2<f32>), labels: &[usize]) {
    let [(_, dx, dw), (_, exact_dx, exact_dw)] = both(loss, numbers, labels);
    assert_rows(&format!("{loss:?}: dx"), &dx, &exact_dx);
    assert_rows(&format!("{loss:?}: dw"), &dw, &exact_dw);
}

/// The class is certain to 1e-45 and less, and the norms that a gradient is divided by are tiny.
#[test]
fn gradients_of_certain_samples_with_small_norms_keep_their_sign() {
    let mut rng = Rng::new(5);
    for norm in [1e-15, 1e-12, 1e-18] {
        for _ in 0..20 {
            let w = rng.matrix(3, 4);
            let mut x = &w.slice(s![..2, ..]) * 1.0;
            x.scaled_add(0.05, &rng.matrix(2, 4));
            let small = |m: Array2<f64>| m.mapv(|v| (v * norm) as f32);
            let w = ndarray::concatenate![
                ndarray::Axis(0),
                w.slice(s![..2, ..]),
                w.slice(s![..1, ..]).mapv(|v| -v)
            ];
            let (x, w) = (small(x), small(w));
            let loss = ArcFace::new(64.0, 0.1).unwrap();
            assert_same(&loss, (&x.slice(s![..1, ..]).to_owned(), &w), &[0]);
            assert_same(&loss, (&x, &w), &[0, 1]);
        }
    }
}

/// Certain to 1e-40, with norms large enough to bring the gradient back.
#[test]
fn gradients_of_certain_samples_under_softmax_are_those_of_the_weights() {
    let (x, w) = (array![[10.0_f32, 0.0]], array![[9.5_f32, 0.0], [1.0, 1e4], [-1.0, -1e4]]);
    assert_same(&Softmax::new(), (&x, &w), &[0]);
    let b = Array1::<f32>::zeros(3);
    let batch = Batch::new(&x, &w, &[0]).with_bias(&b);
    let mut gradients = Gradients::zeros_for(&batch);
    Head::new(Softmax::new()).forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
    let bias = gradients.bias.unwrap();
    let expected = (-85.0_f64).exp() as f32;
    approx::assert_relative_eq!(bias[1], expected, max_relative = 1e-4);
    approx::assert_relative_eq!(bias[0], -(bias[1] + bias[2]), max_relative = 1e-4);
}

/// The products of such norms are 0 in f32, and their cosines are not.
#[test]
fn the_nearest_class_is_that_at_the_smallest_angle_whatever_the_norms() {
    let mut rng = Rng::new(6);
    for (of_x, of_w) in [(1e-23, 1e-23), (1e-29, 1e-29), (1e-29, 1.0), (1.0, 1e-29)] {
        for _ in 0..20 {
            let (x, w) = (rng.matrix(4, 5), rng.matrix(7, 5));
            let (x, w) = (x.mapv(|v| (v * of_x) as f32), w.mapv(|v| (v * of_w) as f32));
            let labels = rng.labels(4, 7);
            for loss in [
                Box::new(SphereFace::new(3).unwrap()) as Box<dyn MarginLoss>,
                Box::new(CosFace::new(1e-20, 0.2).unwrap()),
                Box::new(CosFace::new(1e-44, 0.2).unwrap()),
            ] {
                assert_same(&*loss, (&x, &w), &labels);
            }
            let head = Head::new(SphereFace::new(3).unwrap());
            let (x64, w64) = (x.mapv(f64::from), w.mapv(f64::from));
            let found = head.top_k(&Batch::unlabeled(&x, &w), 3).unwrap();
            let exact = head.top_k(&Batch::unlabeled(&x64, &w64), 3).unwrap();
            assert_eq!(found.classes, exact.classes);
            let (found, exact) = (found.logits.mapv(f64::from), exact.logits);
            assert_rows("top k", &found, &exact);
        }
    }
}

/// q2 over the scale is beyond the range of f32.
#[test]
fn hard_negatives_of_tiny_scales_are_finite() {
    let mut rng = Rng::new(7);
    let (x, w) = (rng.matrix(4, 5).mapv(|v| v as f32), rng.matrix(7, 5).mapv(|v| v as f32));
    let hard = Some(HardNegatives::above_target(0.1, 0.4, 0.8));
    for (loss, of_x) in [
        (Box::new(CurricularFace::new(1e-39, 0.5).unwrap()) as Box<dyn MarginLoss>, 1e-5),
        (Box::new(Wide { hard, ..Wide::new(Scale::FeatureNorm) }), 1e-29),
        (Box::new(Wide { hard, ..Wide::new(Scale::Fixed(1e-35)) }), 1e-8),
    ] {
        let x = x.mapv(|v| v * of_x);
        assert_same(&*loss, (&x, &w), &[0, 3, 6, 2]);
    }
}

/// A certain sample has the uniform part of its gradients alone, which is lifted: however small it
/// is and however long the embedding, by a finite number.
#[test]
fn a_tiny_smoothing_beside_long_embeddings_has_finite_gradients() {
    let w = array![[0.4, 0.1], [-0.3, 0.2], [1.2, 0.0]];
    for epsilon in [1e-300, 1e-250, 1e-200, 1e-100, 1e-10] {
        for norm in [1e10, 1e30, 1e70, 1e150] {
            let (x, loss) = (array![[norm, 0.0]], LabelSmoothing::new(Softmax::new(), epsilon));
            let loss = loss.unwrap();
            let batch = Batch::new(&x, &w, &[2]);
            let mut of_head = Gradients::zeros_for(&batch);
            let head = Head::new(&loss);
            head.forward_backward(&batch, Reduction::Mean, &mut of_head).unwrap();
            let logits = NormalizedLogits::new(&x, &w).unwrap();
            let forward = loss.forward(&logits, &[2]).unwrap();
            let of_cosines = loss.backward(&logits, &[2], &forward, Reduction::Mean).unwrap();
            let of_logits = logits.backward(&of_cosines).unwrap();
            let by_logit = array![[-epsilon / 3.0], [-epsilon / 3.0], [epsilon * 2.0 / 3.0]];
            for found in [of_head, of_logits] {
                let of_matrices = [
                    (found.embeddings, by_logit.t().dot(&w), epsilon),
                    (found.weights, by_logit.dot(&x), epsilon * norm),
                ];
                for (found, exact, size) in of_matrices {
                    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-14 * size;
                    assert!(found.iter().zip(&exact).all(close), "{found} is not {exact}");
                }
            }
        }
    }
}
