//! Softmax needs no direction: zero embeddings and zero class weights are valid, at both levels,
//! sampled and over ranks. Every other loss refuses them (docs/math.md, section 5).

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, Error, Generalized, Gradients, Head, MarginLoss, ModifiedSoftmax,
    NormalizedLogits, Real, Reduction, Scale, Softmax, ZeroEmbedding,
};
use ndarray::{Array1, Array2, Axis, array, s};

use crate::common::compare::wide;
use crate::common::ranks::{even, on_ranks};

/// Losses, gradients of their mean with respect to x, w and b.
type Step = (Array1<f64>, Array2<f64>, Array2<f64>, Array1<f64>);

/// Softmax written down from its formula.
fn naive(x: &Array2<f64>, w: &Array2<f64>, b: &Array1<f64>, labels: &[usize]) -> Step {
    let z = x.dot(&w.t()) + b;
    let mut g = z.clone();
    let mut losses = Array1::zeros(labels.len());
    for ((mut row, z), (loss, &y)) in
        g.rows_mut().into_iter().zip(z.rows()).zip(losses.iter_mut().zip(labels))
    {
        let max = z.fold(f64::MIN, |a, &b| a.max(b));
        row.assign(&z.mapv(|z| (z - max).exp()));
        let sum = row.sum();
        row /= sum;
        *loss = max + sum.ln() - z[y];
        row[y] -= 1.0;
    }
    g /= labels.len() as f64;
    (losses, g.dot(w), g.t().dot(x), g.sum_axis(Axis(0)))
}

/// Every way through the crate: the head, the materialized level, all classes sampled, two ranks.
fn every_way<F: Real>(
    x: &Array2<F>,
    w: &Array2<F>,
    b: &Array1<F>,
    labels: &[usize],
) -> Vec<(&'static str, Step)> {
    let widen = |m: &Array2<F>| m.mapv(wide);
    let mut found = Vec::new();
    let batch = Batch::new(x, w, labels).with_bias(b);
    for rule in [ZeroEmbedding::Error, ZeroEmbedding::Skip] {
        let mut g = Gradients::zeros_for(&batch);
        let head = Head::new(Softmax::new()).with_zero_embeddings(rule);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut g).unwrap();
        let db = g.bias.unwrap().mapv(wide);
        let step = (forward.losses.mapv(wide), widen(&g.embeddings), widen(&g.weights), db);
        found.push(("head", step));
    }
    let logits = NormalizedLogits::new(x, w).unwrap().with_bias(b).unwrap();
    let forward = Softmax::new().forward(&logits, labels).unwrap();
    let by_logit = Softmax::new().backward(&logits, labels, &forward, Reduction::Mean).unwrap();
    let g = logits.backward(&by_logit).unwrap();
    let db = g.bias.unwrap().mapv(wide);
    let step = (forward.losses.mapv(wide), widen(&g.embeddings), widen(&g.weights), db);
    found.push(("logits", step));

    let sample = ClassSampler::new(w.nrows(), 1.0, 1).unwrap().sample(labels).unwrap();
    let mut g = Gradients::zeros_for(&batch.with_sample(&sample));
    let forward = Head::new(Softmax::new())
        .forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut g)
        .unwrap();
    let db = g.bias.unwrap().mapv(wide);
    let step = (forward.losses.mapv(wide), widen(&g.embeddings), widen(&g.weights), db);
    found.push(("sampled", step));

    let ranks = on_ranks(&even(w.nrows(), 2), |collective, range| {
        let (rows, bias) = (w.slice(s![range.clone(), ..]), b.slice(s![range.clone()]));
        let shard = Batch::new(x, &rows, labels).with_bias(&bias);
        let mut g = Gradients::zeros_for(&shard);
        let head = Head::on_ranks(Softmax::new(), collective, range);
        let forward = head.forward_backward(&shard, Reduction::Mean, &mut g).unwrap();
        (forward.losses.mapv(wide), g)
    });
    let rows: Vec<_> = ranks.iter().map(|(_, g)| g.weights.view()).collect();
    let biases: Vec<_> = ranks.iter().map(|(_, g)| g.bias.as_ref().unwrap().view()).collect();
    let step = (
        ranks[0].0.clone(),
        widen(&ranks[0].1.embeddings),
        widen(&ndarray::concatenate(Axis(0), &rows).unwrap()),
        ndarray::concatenate(Axis(0), &biases).unwrap().mapv(wide),
    );
    found.push(("ranks", step));
    found
}

fn assert_is_naive<F: Real>(x: &Array2<f64>, w: &Array2<f64>, b: &Array1<f64>, labels: &[usize]) {
    let narrow = |v: &f64| F::from_f64(*v).unwrap();
    let expected = naive(x, w, b, labels);
    // A few dozen roundings of numbers below 10.
    let epsilon = 300.0 * wide(F::epsilon());
    for (way, found) in every_way::<F>(&x.map(narrow), &w.map(narrow), &b.map(narrow), labels) {
        approx::assert_abs_diff_eq!(found.0, expected.0, epsilon = epsilon);
        approx::assert_abs_diff_eq!(found.1, expected.1, epsilon = epsilon);
        approx::assert_abs_diff_eq!(found.2, expected.2, epsilon = epsilon);
        approx::assert_abs_diff_eq!(found.3, expected.3, epsilon = epsilon);
        assert!(found.0.iter().all(|loss| loss.is_finite()), "{way}");
    }
}

#[test]
fn softmax_of_zero_weights_is_the_logarithm_of_the_classes() {
    let x = array![[1.0, -2.0, 0.5], [0.25, 3.0, 1.0]];
    let (w, b) = (Array2::zeros((5, 3)), Array1::zeros(5));
    assert_is_naive::<f64>(&x, &w, &b, &[3, 0]);
    assert_is_naive::<f32>(&x, &w, &b, &[3, 0]);
    let forward = Head::new(Softmax::new()).forward(&Batch::new(&x, &w, &[3, 0]));
    let losses = forward.unwrap().losses;
    assert_eq!(losses, array![5.0_f64.ln(), 5.0_f64.ln()]);
}

#[test]
fn softmax_takes_zero_embeddings_and_zero_class_weights_among_others() {
    let x = array![[0.0, 0.0, 0.0], [0.25, 3.0, 1.0], [1.0, -1.0, 2.0], [0.0, 0.0, 0.0]];
    let w = array![[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [-1.0, 2.0, 1.5], [0.5, 0.5, -1.0]];
    let b = array![0.5, -0.25, 1.0, 0.0];
    for labels in [[1, 1, 0, 2], [2, 3, 1, 1]] {
        assert_is_naive::<f64>(&x, &w, &b, &labels);
        assert_is_naive::<f32>(&x, &w, &b, &labels);
    }
}

/// Rows that are too short or too long to be normalized, but not zero.
#[test]
fn softmax_takes_rows_of_any_finite_norm() {
    let x = array![[3e-31, 0.0, 4e-31], [0.25, 3.0, 1.0], [2.0, 1.0, -1.0]];
    let w = array![[1.0, 0.5, 2.0], [1e-32, 0.0, 2e-32], [-1.0, 2.0, 1.5]];
    let b = array![0.5, -0.25, 1.0];
    assert_is_naive::<f32>(&x, &w, &b, &[0, 1, 2]);
    assert_is_naive::<f32>(&x, &w, &b, &[1, 2, 1]);
    // The logit of the long embedding and the short class weight is 1.
    let (x, w) = (array![[1e31_f32, 0.0], [0.0, 1.0]], array![[1e-31_f32, 0.0], [0.0, 1.0]]);
    let forward = Head::new(Softmax::new()).forward(&Batch::new(&x, &w, &[0, 1]));
    approx::assert_relative_eq!(forward.unwrap().losses[0], (-1.0_f32).exp().ln_1p());
}

#[test]
fn a_zero_embedding_is_predicted_by_the_bias_and_zero_weights_are_no_nearer_than_others() {
    let (x, w) = (array![[0.0, 0.0], [1.0, 0.0]], array![[0.0, 0.0], [-1.0, 0.0]]);
    let head = Head::new(Softmax::new());
    assert_eq!(
        head.predict(&Batch::unlabeled(&x, &w).with_bias(&array![0.0, 1.0])).unwrap(),
        [1, 0]
    );
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let plain = Softmax::new().margin_free_logits(&logits).unwrap();
    assert_eq!(plain, array![[0.0, 0.0], [0.0, -1.0]]);
}

#[test]
fn every_other_loss_refuses_a_zero_row_at_both_levels() {
    let (zero, other) = (array![[1.0, 0.0], [0.0, 0.0]], array![[1.0, 0.5], [0.5, 1.0]]);
    let losses: [Box<dyn MarginLoss>; 3] = [
        Box::new(ArcFace::default()),
        Box::new(ModifiedSoftmax::new()),
        Box::new(Generalized::new(Scale::Unnormalized, 2.0, 0.0, 0.0).unwrap()),
    ];
    for loss in losses {
        for (x, w, argument) in [(&zero, &other, "embeddings"), (&other, &zero, "class weights")] {
            let refused = |error: Error| match error {
                Error::DegenerateNorm { argument, row, norm, .. } => (argument, row, norm),
                other => panic!("{other}"),
            };
            let batch = Batch::new(x, w, &[0, 1]);
            let by_head = Head::new(&loss).forward(&batch).unwrap_err();
            assert_eq!(refused(by_head), (argument, 1, 0.0), "{loss:?}");
            let logits = NormalizedLogits::new(x, w).unwrap();
            let by_logits = loss.forward(&logits, &[0, 1]).unwrap_err();
            assert_eq!(refused(by_logits), (argument, 1, 0.0), "{loss:?}");
        }
    }
}
