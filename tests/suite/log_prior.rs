//! A class prior: golden cases, published values, and what it does not change.

use margin_softmax::{
    ArcFace, Batch, BatchMut, CosFace, CurricularFace, Error, Forward, Generalized, Gradients,
    Head, LabelSmoothing, MarginLoss, MvSoftmax, NormalizedLogits, Precision, Reduction, Sgd,
    Softmax, TopNegatives,
};
use ndarray::{Array1, Array2, array, s};
use serde_json::Value;

use crate::common::golden::Case;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::golden::{check_head, check_logits};
use crate::published::{LABELS, inputs};

fn loss(json: &Value) -> Option<Box<dyn MarginLoss>> {
    let (params, s) = (&json["params"], json["s"].as_f64().unwrap());
    let [m0, m1, m2] = ["m0", "m1", "m2"].map(|key| params[key].as_f64().unwrap_or_default());
    let loss: Box<dyn MarginLoss> = match json["loss"].as_str().unwrap() {
        "prior_cosface" => Box::new(CosFace::new(s, m2).unwrap()),
        "prior_arcface" => Box::new(ArcFace::new(s, m1).unwrap()),
        "prior_generalized" => Box::new(Generalized::new(s, m0, m1, m2).unwrap()),
        "prior_top_arcface" => {
            let (k, margin) = (params["k"].as_u64().unwrap(), params["top_margin"].as_f64());
            let arcface = ArcFace::new(s, m1).unwrap();
            Box::new(TopNegatives::new(arcface, k as usize, margin.unwrap()).unwrap())
        }
        _ => return None,
    };
    Some(match json["smoothing"].as_f64().unwrap() {
        0.0 => loss,
        epsilon => Box::new(LabelSmoothing::new(loss, epsilon).unwrap()),
    })
}

fn cases() -> Vec<Case> {
    let json: Value = serde_json::from_str(include_str!("../golden/field.json")).unwrap();
    let cases = json["cases"].as_array().unwrap().iter();
    cases.filter_map(|case| Some(Case::read(case, loss(case)?))).collect()
}

#[test]
fn priors_agree_with_golden_cases_at_both_levels_in_both_types() {
    assert_eq!(cases().iter().filter(|case| case.f32_exact).count(), 5);
    cases().into_iter().for_each(check_head::<f64>);
    cases().into_iter().for_each(check_head::<f32>);
    cases().into_iter().for_each(check_logits::<f64>);
    cases().into_iter().for_each(check_logits::<f32>);
}

/// The values of docs/math.md, section 15.
#[test]
fn a_prior_of_counts_gives_the_losses_of_the_table() {
    let (x, w) = inputs();
    let counts: Array1<f64> = array![1000.0, 300.0, 10.0, 5.0, 1.0];
    let prior = (&counts / counts.sum()).ln();
    let loss = CosFace::new(16.0, 0.35).unwrap();
    let expected = array![3.04043482724, 4.00660055002, 3.93406639593, 0.164382404177];
    let batch = Batch::new(&x, &w, &LABELS).with_log_prior(&prior);
    let forward = Head::new(&loss).forward(&batch).unwrap();
    approx::assert_relative_eq!(forward.losses, expected, max_relative = 1e-10);
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_log_prior(&prior).unwrap();
    let forward = loss.forward(&logits, &LABELS).unwrap();
    approx::assert_relative_eq!(forward.losses, expected, max_relative = 1e-10);
}

/// Rows and classes of several chunks, a prior of several orders of magnitude.
fn problem() -> (Array2<f64>, Array2<f64>, Vec<usize>, Array1<f64>) {
    let mut rng = Rng::new(23);
    let (x, w, labels) = (rng.matrix(9, 6), rng.matrix(700, 6), rng.labels(9, 700));
    (x, w, labels, rng.vector(700) * 6.0)
}

/// Under Softmax a prior is a bias that is not learned, and not in what is compared.
#[test]
fn a_prior_adds_up_with_a_bias() {
    let (x, w, labels, prior) = problem();
    let bias = Array1::from_shape_fn(700, |j| (j as f64).sin());
    let head = Head::new(LabelSmoothing::new(Softmax, 0.1).unwrap());
    let plain = Batch::new(&x, &w, &labels);
    let sum = &bias + &prior;
    let [mut found, mut expected] = [(); 2].map(|()| Gradients::zeros_for(&plain.with_bias(&sum)));
    let both = plain.with_bias(&bias).with_log_prior(&prior);
    let forward = head.forward_backward(&both, Reduction::Mean, &mut found).unwrap();
    let batch = plain.with_bias(&sum);
    let of_sum = head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
    approx::assert_abs_diff_eq!(forward.losses, of_sum.losses, epsilon = 1e-13);
    approx::assert_abs_diff_eq!(found.embeddings, expected.embeddings, epsilon = 1e-14);
    approx::assert_abs_diff_eq!(found.weights, expected.weights, epsilon = 1e-14);
    let [found, expected] = [found, expected].map(|gradients| gradients.bias.unwrap());
    approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-14);
    let without = head.forward(&plain.with_bias(&bias)).unwrap();
    assert_eq!(forward.predictions(), without.predictions());
    assert_eq!(forward.margin_free_losses(), without.margin_free_losses());
}

/// Inference is without it: in the head, on ranks, and for logits that are held.
#[test]
fn inference_is_without_a_prior() {
    let (x, w, labels, prior) = problem();
    let loss = ArcFace::default();
    let head = Head::new(&loss);
    let plain = Batch::new(&x, &w, &labels);
    let batch = plain.with_log_prior(&prior);
    assert_eq!(head.predict(&batch).unwrap(), head.predict(&plain).unwrap());
    assert_eq!(head.top_k(&batch, 5).unwrap(), head.top_k(&plain, 5).unwrap());
    assert_eq!(head.target_angles(&batch).unwrap(), head.target_angles(&plain).unwrap());
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let expected = loss.margin_free_logits(&logits).unwrap();
    let forward = loss.forward(&logits, &labels).unwrap();
    let logits = logits.with_log_prior(&prior).unwrap();
    assert_eq!(loss.margin_free_logits(&logits).unwrap(), expected);
    let with_prior = loss.forward(&logits, &labels).unwrap();
    assert_eq!(with_prior.predictions(), forward.predictions());
    assert_eq!(with_prior.margin_free_losses(), forward.margin_free_losses());
    assert_ne!(with_prior.losses, forward.losses);
    let found = on_ranks(&even(700, 3), |collective, range| {
        let (w, prior) = (w.slice(s![range.clone(), ..]), prior.slice(s![range.clone()]));
        let batch = Batch::new(&x, &w, &labels).with_log_prior(&prior);
        let head = Head::on_ranks(&loss, collective, range);
        (head.predict(&batch).unwrap(), head.top_k(&batch, 5).unwrap())
    });
    for found in found {
        assert_eq!(found, (head.predict(&plain).unwrap(), head.top_k(&plain, 5).unwrap()));
    }
}

/// Nearest negatives with a margin are pushed out from tile to tile and from rank to rank.
#[test]
fn a_prior_and_a_margin_on_the_nearest_agree_at_both_levels_and_on_ranks() {
    let (x, w, labels, prior) = problem();
    let hard = MvSoftmax::arc(16.0, 0.2, 0.2).unwrap();
    let loss = LabelSmoothing::new(TopNegatives::new(hard, 3, 0.1).unwrap(), 0.1).unwrap();
    let logits = NormalizedLogits::new(&x, &w).unwrap().with_log_prior(&prior).unwrap();
    let expected = loss.forward(&logits, &labels).unwrap();
    let gradients = loss.backward(&logits, &labels, &expected, Reduction::Mean).unwrap();
    let gradients = logits.backward(&gradients).unwrap();
    for size in [0, 1, 2, 3] {
        let ranges = if size == 0 { even(700, 1) } else { even(700, size) };
        let found = on_ranks(&ranges, |collective, range| {
            let (w, prior) = (w.slice(s![range.clone(), ..]), prior.slice(s![range.clone()]));
            let batch = Batch::new(&x, &w, &labels).with_log_prior(&prior);
            let mut gradients = Gradients::zeros_for(&batch);
            let (reduction, loss) = (Reduction::Mean, &loss);
            let forward = if size == 0 {
                Head::new(loss).forward_backward(&batch, reduction, &mut gradients).unwrap()
            } else {
                let head = Head::on_ranks(loss, collective, range);
                head.forward_backward(&batch, reduction, &mut gradients).unwrap()
            };
            (forward, gradients)
        });
        let weights: Vec<_> = found.iter().map(|(_, gradients)| gradients.weights.view()).collect();
        let weights = ndarray::concatenate(ndarray::Axis(0), &weights).unwrap();
        // Logits of up to 24, sums of 700 terms.
        approx::assert_abs_diff_eq!(weights, gradients.weights, epsilon = 1e-13);
        for (forward, of_rank) in &found {
            approx::assert_abs_diff_eq!(forward.losses, expected.losses, epsilon = 1e-12);
            let [found, expected] = [forward, &expected].map(Forward::margin_free_losses);
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-12);
            approx::assert_abs_diff_eq!(of_rank.embeddings, gradients.embeddings, epsilon = 1e-13);
        }
    }
}

#[test]
fn gradients_with_a_prior_are_differences_of_the_losses() {
    let mut rng = Rng::new(31);
    let (x, w, labels) = (rng.matrix(5, 4) * 2.0, rng.matrix(7, 4), rng.labels(5, 7));
    let prior = rng.vector(7) * 3.0;
    let losses: [Box<dyn MarginLoss>; 4] = [
        Box::new(TopNegatives::new(ArcFace::new(8.0, 0.4).unwrap(), 2, 0.1).unwrap()),
        Box::new(ArcFace::new(8.0, 0.4).unwrap()),
        Box::new(LabelSmoothing::new(CosFace::new(8.0, 0.3).unwrap(), 0.2).unwrap()),
        Box::new(CurricularFace::new(8.0, 0.3).unwrap().with_t(0.3).unwrap()),
    ];
    for loss in losses {
        let head = Head::new(&loss);
        let batch = Batch::new(&x, &w, &labels).with_log_prior(&prior);
        let mut gradients = Gradients::zeros_for(&batch);
        head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
        let sum = |x: &Array2<f64>, w: &Array2<f64>| {
            let batch = Batch::new(x, w, &labels).with_log_prior(&prior);
            head.forward(&batch).unwrap().losses.sum()
        };
        let h = 1e-5;
        for (of_x, matrix, found) in
            [(true, &x, &gradients.embeddings), (false, &w, &gradients.weights)]
        {
            for (at, &found) in found.indexed_iter() {
                let moved = |step: f64| {
                    let mut moved = matrix.clone();
                    moved[at] += step;
                    if of_x { sum(&moved, &w) } else { sum(&x, &moved) }
                };
                // h² of a third derivative below 1e3, and 1e-14 of rounding over h.
                approx::assert_abs_diff_eq!(
                    found,
                    (moved(h) - moved(-h)) / (2.0 * h),
                    epsilon = 2e-7
                );
            }
        }
    }
}

/// A prior of zeros is none, in every type and precision.
#[test]
fn a_prior_of_zeros_changes_nothing() {
    let (x, w, labels, _) = problem();
    let (x, w, zeros) = (x.mapv(|v| v as f32), w.mapv(|v| v as f32), Array1::zeros(700));
    for precision in [Precision::Full, Precision::Bf16] {
        let head = Head::new(ArcFace::default()).with_precision(precision);
        let plain = Batch::new(&x, &w, &labels);
        let [mut found, mut expected] = [(); 2].map(|()| Gradients::zeros_for(&plain));
        let batch = plain.with_log_prior(&zeros);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut found).unwrap();
        let without = head.forward_backward(&plain, Reduction::Mean, &mut expected).unwrap();
        assert_eq!(forward, without);
        assert_eq!(found.weights, expected.weights);
        assert_eq!(found.embeddings, expected.embeddings);
    }
}

/// A prior of bf16 products is that of exact ones: a shift of 3 in f32 is exact to 2e-7.
#[test]
fn a_prior_is_not_rounded_with_the_products() {
    let (x, w) = (array![[1.0_f32, 0.0], [0.0, 1.0]], array![[1.0_f32, 0.0], [0.0, 1.0]]);
    let prior = array![-1.2345678_f32, 0.7654321];
    let head = Head::new(CosFace::new(4.0, 0.25).unwrap());
    let batch = Batch::new(&x, &w, &[0, 1]).with_log_prior(&prior);
    let exact = head.forward(&batch).unwrap();
    let rounded = head.with_precision(Precision::Bf16).forward(&batch).unwrap();
    assert_eq!(exact.losses, rounded.losses);
}

#[test]
fn a_prior_that_does_not_fit_is_refused_by_every_step() {
    let (x, mut w) = (array![[1.0, 2.0]], array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let long = array![0.0, 0.0, 0.0, 0.0];
    let infinite = array![0.0, f64::NEG_INFINITY, 0.0];
    let shape = Error::Shape { argument: "log prior", expected: vec![3], actual: vec![4] };
    let value = f64::NEG_INFINITY;
    let not_finite = Error::NonFinite { argument: "log prior", row: 1, column: 0, value };
    let head = Head::new(CosFace::default());
    for (prior, expected) in [(&long, shape), (&infinite, not_finite)] {
        let batch = Batch::new(&x, &w, &[2]).with_log_prior(prior);
        let mut gradients = Gradients::zeros_for(&batch);
        let refused = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap_err();
        assert_eq!(refused, expected);
        assert_eq!(head.forward(&batch).unwrap_err(), expected);
        assert_eq!(head.predict(&batch).unwrap_err(), expected);
        assert_eq!(head.top_k(&batch, 1).unwrap_err(), expected);
        assert_eq!(head.target_angles(&batch).unwrap_err(), expected);
        let logits = NormalizedLogits::new(&x, &w).unwrap();
        assert_eq!(logits.with_log_prior(prior).unwrap_err(), expected);
        let (before, mut dx) = (w.clone(), Array2::zeros((1, 2)));
        let mut moving = BatchMut::new(&x, &mut w, &[2]).with_log_prior(prior);
        let mut sgd = Sgd::new(0.1).unwrap();
        let refused = head.step(&mut moving, Reduction::Mean, &mut sgd, &mut dx).unwrap_err();
        assert_eq!((refused, &w), (expected, &before));
    }
    // Two logits of half the largest number are too far apart.
    let huge = array![f64::MAX / 4.0, 0.0, 0.0];
    let batch = Batch::new(&x, &w, &[2]).with_log_prior(&huge);
    assert!(matches!(head.forward(&batch), Err(Error::Overflow { .. })));
}

#[test]
fn ranks_with_and_without_a_prior_do_not_agree() {
    let (x, w, labels, prior) = problem();
    let refused = on_ranks(&even(700, 2), |collective, range| {
        let (w, prior) = (w.slice(s![range.clone(), ..]), prior.slice(s![range.clone()]));
        let batch = Batch::new(&x, &w, &labels);
        let first = range.start == 0;
        let batch = if first { batch } else { batch.with_log_prior(&prior) };
        Head::on_ranks(ArcFace::default(), collective, range).forward(&batch).unwrap_err()
    });
    let reason = "takes a class prior, rank 0 no class prior".to_string();
    assert_eq!(refused, [(); 2].map(|()| Error::Collective { rank: 1, reason: reason.clone() }));
}

/// A bias for an angular loss is refused with a word on what is meant instead.
#[test]
fn the_refusal_of_a_bias_points_to_the_prior() {
    assert!(Error::Bias.to_string().contains("with_log_prior"), "{}", Error::Bias);
}
