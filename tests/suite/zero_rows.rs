//! Softmax needs no direction: zero embeddings and zero class weights are valid, at both levels,
//! sampled and over ranks. Every other loss refuses them (docs/math.md, section 5).

use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, Error, Forward, Generalized, Gradients, Head, IGNORED, MarginLoss,
    ModifiedSoftmax, NormalizedLogits, Real, Reduction, Scale, Softmax, ZeroEmbedding,
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

/// Norms whose product is far out of the range of `f32`, either way, and gradients of their size.
#[test]
fn softmax_takes_norms_whose_products_are_out_of_range() {
    let x = array![[3e-25, 0.0, 4e-25], [0.25, 3.0, 1.0], [2.0, 1.0, -1.0], [6e-18, 8e-18, 0.0]];
    let w = array![[1.0, 0.5, 2.0], [1e-22, 0.0, 2e-22], [-1.0, 2.0, 1.5]];
    let b = array![0.5, -0.25, 1.0];
    let labels = [0, 1, 2, 1];
    let expected = naive(&x, &w, &b, &labels);
    let narrow = |v: &f64| *v as f32;
    for (way, found) in every_way(&x.map(narrow), &w.map(narrow), &b.map(narrow), &labels) {
        approx::assert_relative_eq!(found.0, expected.0, max_relative = 1e-5);
        approx::assert_relative_eq!(found.3, expected.3, max_relative = 1e-5, epsilon = 1e-6);
        for (found, expected) in [(found.1, &expected.1), (found.2, &expected.2)] {
            for (found, expected) in found.rows().into_iter().zip(expected.rows()) {
                let size = expected.fold(0.0_f64, |size, v| size.max(v.abs()));
                let close = found.abs_diff_eq(&expected, 1e-5 * size);
                assert!(close, "{way}: {found} for {expected}");
            }
        }
    }
}

/// Beside a long embedding, whose gradients are those of its logits, class weights have a norm of
/// their own; beside a long class weight, embeddings.
#[test]
fn gradients_of_extreme_rows_are_those_of_their_logits_for_the_others() {
    let long = array![[2e15, 1e15, 0.0], [0.25, 3.0, 1.0], [2.0, 1.0, -1.0]];
    let short = array![[2e-15, 0.5e-15, 1e-15], [-1e-15, 2e-15, 1.5e-15], [1e-15, 1e-15, 3e-15]];
    let (b, labels) = (array![0.5, -0.25, 1.0], [0, 1, 2]);
    for (x, w) in [(&long, &short), (&short, &long)] {
        let expected = naive(x, w, &b, &labels);
        let narrow = |v: &f64| *v as f32;
        for (way, found) in every_way(&x.map(narrow), &w.map(narrow), &b.map(narrow), &labels) {
            for (found, expected) in [(found.1, &expected.1), (found.2, &expected.2)] {
                for (found, expected) in found.rows().into_iter().zip(expected.rows()) {
                    let size = expected.fold(0.0_f64, |size, v| size.max(v.abs()));
                    let close = found.abs_diff_eq(&expected, 1e-4 * size);
                    assert!(close, "{way}: {found} for {expected}");
                }
            }
        }
    }
}

/// Norms beyond `f32`: of a class weight, whose logits are small enough; of an embedding, which is
/// refused for the norm that would be reported.
#[test]
fn a_norm_beyond_the_type_is_no_number_of_it() {
    let (x, w) = (array![[1e-3_f32, 1e-3]], array![[3e38_f32, 3e38], [1.0, 1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    for label in [0, 1] {
        let by_head = Head::new(Softmax::new()).forward(&Batch::new(&x, &w, &[label])).unwrap();
        let by_logits = Softmax::new().forward(&logits, &[label]).unwrap();
        let expected = if label == 1 { 6e35 } else { 0.0 };
        approx::assert_relative_eq!(by_head.losses[0], expected, max_relative = 1e-6);
        approx::assert_relative_eq!(by_logits.losses[0], expected, max_relative = 1e-6);
    }
    let plain = Softmax::new().margin_free_logits(&logits).unwrap();
    approx::assert_relative_eq!(plain, array![[6e35, 2e-3]], max_relative = 1e-6);

    let (x, w) = (array![[3e38_f32, 3e38], [1.0, 2.0]], array![[1e-3_f32, 1e-3], [0.0, 1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let batch = Batch::new(&x, &w, &[0, 1]);
    let refused = |answer: Result<Forward<f32>, Error>| match answer.unwrap_err() {
        Error::DegenerateNorm { argument: "embeddings", row: 0, maximum, .. } => maximum,
        other => panic!("{other}"),
    };
    let most = f64::from(f32::MAX);
    assert_eq!(refused(Head::new(Softmax::new()).forward(&batch)), most);
    assert_eq!(refused(Softmax::new().forward(&logits, &[0, 1])), most);
    let labels = [IGNORED, 1];
    let batch = Batch::new(&x, &w, &labels).with_ignored_label(IGNORED);
    let forward = Head::new(Softmax::new()).forward(&batch).unwrap();
    assert_eq!(forward.norms()[0], 0.0);
    let logits = logits.with_ignored_label(IGNORED);
    assert!(Softmax::new().forward(&logits, &labels).unwrap().losses[1].is_finite());
}

/// All of a gradient is in its fields: twice the fields are twice the gradient.
#[test]
fn gradients_of_zero_rows_follow_from_the_fields() {
    let x = array![[0.0, 0.0, 0.0], [0.25, 3.0, 1.0], [1.0, -1.0, 2.0]];
    let w = array![[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [-1.0, 2.0, 1.5]];
    let (labels, loss) = ([1, 1, 0], Softmax::new());
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let forward = loss.forward(&logits, &labels).unwrap();
    let mut gradients = loss.backward(&logits, &labels, &forward, Reduction::Sum).unwrap();
    let once = logits.backward(&gradients).unwrap();
    gradients.cosines *= 2.0;
    gradients.target_angles *= 2.0;
    gradients.feature_norms *= 2.0;
    gradients.weight_norms *= 2.0;
    gradients.extreme_embeddings.iter_mut().for_each(|(_, by_logit)| *by_logit *= 2.0);
    gradients.extreme_weights.iter_mut().for_each(|(_, by_logit)| *by_logit *= 2.0);
    let twice = logits.backward(&gradients).unwrap();
    assert!(once.embeddings.row(0).iter().any(|&g| g != 0.0));
    assert_eq!(twice.embeddings, once.embeddings * 2.0);
    assert_eq!(twice.weights, once.weights * 2.0);

    gradients.extreme_weights[0].0 = 3;
    let argument = "gradients of extreme class weights";
    let refused = Error::Rows { argument, position: 0, row: 3, rows: 3 };
    assert_eq!(logits.backward(&gradients).unwrap_err(), refused);
    gradients.extreme_weights[0] = (1, Array1::zeros(2));
    assert!(
        matches!(logits.backward(&gradients), Err(Error::Shape { actual, .. }) if actual == [2])
    );
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
