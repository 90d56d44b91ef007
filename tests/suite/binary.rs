//! Binary losses: 90-digit arithmetic at both levels and in both types, the gradient of their bias,
//! every way to split a step, and what they refuse.

use margin_softmax::custom::{Angle, BinaryForm, Target};
use margin_softmax::offload::OffloadedClasses;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, BatchMut, Error, Gradients, Head, IGNORED, InterclassFilter, LabelSmoothing,
    MarginLoss, NormalizedLogits, Precision, Real, Reduction, Scale, Sgd, SphereFace2,
    TopNegatives, UnifiedCrossEntropy, ZeroEmbedding,
};
use ndarray::{Array1, Array2, Axis, array, s};
use serde_json::Value;

use crate::common::compare::{epsilon, wide};
use crate::common::golden::{Case, narrow1, narrow2};
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::golden::{check_head, check_logits};

/// The binary losses among the cases of `field.json`, with dL/db.
fn cases() -> Vec<(Case, f64)> {
    let json: Value = serde_json::from_str(include_str!("../golden/field.json")).unwrap();
    let cases = json["cases"].as_array().unwrap().iter();
    let binary = cases.filter_map(|case| {
        let (params, s) = (&case["params"], case["s"].as_f64().unwrap());
        let number = |key: &str| params[key].as_f64().unwrap();
        let sphereface2 = |loss: Result<SphereFace2, Error>| {
            let loss = loss.unwrap().with_lambda(number("lambda")).unwrap();
            loss.with_t(number("t")).unwrap().with_bias(number("b")).unwrap()
        };
        let loss: Box<dyn MarginLoss> = match case["loss"].as_str().unwrap() {
            "sphereface2_c" => Box::new(sphereface2(SphereFace2::new(s, number("m")))),
            "sphereface2_a" => Box::new(sphereface2(SphereFace2::angular(s, number("m")))),
            "uce" => {
                let loss = UnifiedCrossEntropy::new(s, number("m")).unwrap();
                Box::new(loss.with_bias(number("b")).unwrap())
            }
            _ => return None,
        };
        Some((Case::read(case, loss), case["db"].as_f64().unwrap()))
    });
    binary.collect()
}

/// The gradient of b is a sum of as many terms as there are pairs, each at most 1.
fn assert_bias<F: Real>(case: &Case, found: Option<f64>, expected: f64) {
    let pairs = case.matrix("w").unwrap().nrows().max(case.labels.len());
    let allowed = case.loss_tolerance(epsilon::<F>()) * expected.abs().max(1.0) * pairs as f64;
    let found = found.unwrap();
    assert!((found - expected).abs() <= allowed, "{}: {found} for {expected}", case.id);
}

fn check<F: Real>() {
    for (case, db) in cases() {
        let (x, w) = (case.matrix("x").unwrap(), case.matrix("w").unwrap());
        let (x, w) = (narrow2::<F>(x), narrow2::<F>(w));
        let upstream = narrow1::<F>(case.loss_weights());
        let reduction = Reduction::Weighted(&upstream);
        let batch = Batch::new(&x, &w, &case.labels).with_sub_centers(case.sub_centers);
        let mut gradients = Gradients::zeros_for(&batch);
        let forward =
            Head::new(&case.loss).forward_backward(&batch, reduction, &mut gradients).unwrap();
        assert_bias::<F>(&case, forward.bias_gradient(), db);
        let logits = NormalizedLogits::new(&x, &w).unwrap();
        let logits = logits.with_sub_centers(case.sub_centers).unwrap();
        let loss = &case.loss;
        let forward = loss.forward(&logits, &case.labels).unwrap();
        let gradients = loss.backward(&logits, &case.labels, &forward, reduction).unwrap();
        assert_bias::<F>(&case, gradients.bias_gradient(), db);
        check_logits::<F>(case);
    }
    cases().into_iter().for_each(|(case, _)| check_head::<F>(case));
}

#[test]
fn both_levels_agree_with_the_golden_cases_in_f64() {
    check::<f64>();
}

#[test]
fn both_levels_agree_with_the_golden_cases_in_f32() {
    assert!(cases().iter().all(|(case, _)| case.f32_exact));
    assert_eq!(cases().len(), 8);
    check::<f32>();
}

/// A batch over several tiles and chunks, with sub-centers, labels ignored and an embedding of zeros.
fn problem<F: Real>() -> (Array2<F>, Array2<F>, Vec<usize>) {
    let mut rng = Rng::new(41);
    let (mut x, w) = (rng.matrix(24, 8), rng.matrix(1400, 8));
    let mut labels = rng.labels(24, 700);
    (labels[3], labels[9]) = (IGNORED, IGNORED);
    x.row_mut(5).fill(0.0);
    (narrow2(x), narrow2(w), labels)
}

/// The same with a row for each class, and a class for each sample.
fn one_row_a_class<F: Real>() -> (Array2<F>, Array2<F>, Vec<usize>) {
    let (x, w, labels) = problem();
    (x, w.slice(s![..700, ..]).to_owned(), labels.iter().map(|&label| label.min(699)).collect())
}

fn losses() -> Vec<Box<dyn MarginLoss>> {
    let b = |loss: SphereFace2| {
        let b = loss.starting_bias(700);
        loss.with_bias(b).unwrap()
    };
    let uce = UnifiedCrossEntropy::new(20.0, 0.3).unwrap().with_bias(-7.0).unwrap();
    vec![
        Box::new(b(SphereFace2::default())),
        Box::new(b(SphereFace2::angular(16.0, 0.15).unwrap().with_t(2.5).unwrap())),
        Box::new(uce),
    ]
}

fn head<L: MarginLoss>(loss: L) -> Head<L> {
    Head::new(loss).with_zero_embeddings(ZeroEmbedding::Skip)
}

#[test]
fn ranks_updates_and_the_forward_pass_agree_with_one_step() {
    let (x, w, labels) = problem::<f64>();
    for loss in losses() {
        let batch = Batch::new(&x, &w, &labels).with_sub_centers(2).with_ignored_label(IGNORED);
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head(&loss).forward_backward(&batch, Reduction::Mean, &mut gradients);
        let forward = forward.unwrap();
        assert_eq!((forward.counted(), forward.predictions()[5]), (21, IGNORED));
        assert_eq!(head(&loss).forward(&batch).unwrap(), forward);
        let (mut moved, mut expected) = (w.clone(), w.clone());
        expected.scaled_add(-0.5, &gradients.weights);
        let mut dx = Array2::zeros(x.dim());
        let mut batch = BatchMut::new(&x, &mut moved, &labels);
        batch = batch.with_sub_centers(2).with_ignored_label(IGNORED);
        let mut sgd = Sgd::new(0.5).unwrap();
        let stepped = head(&loss).step(&mut batch, Reduction::Mean, &mut sgd, &mut dx).unwrap();
        assert_eq!((stepped, &dx), (forward.clone(), &gradients.embeddings));
        approx::assert_relative_eq!(moved, expected, max_relative = 1e-15);
        for size in [2, 3] {
            let results = on_ranks(&even(700, size), |collective, range| {
                let rows = w.slice(s![2 * range.start..2 * range.end, ..]);
                let batch = Batch::new(&x, &rows, &labels);
                let batch = batch.with_sub_centers(2).with_ignored_label(IGNORED);
                let mut gradients = Gradients::zeros_for(&batch);
                let head = Head::on_ranks(&loss, collective, range)
                    .with_zero_embeddings(ZeroEmbedding::Skip);
                let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
                (forward.unwrap(), gradients)
            });
            let rows: Vec<_> = results.iter().map(|(_, found)| found.weights.view()).collect();
            let rows = ndarray::concatenate(Axis(0), &rows).unwrap();
            approx::assert_relative_eq!(rows, gradients.weights, max_relative = 1e-12);
            for (found, of_rank) in &results {
                let embeddings = &of_rank.embeddings;
                approx::assert_relative_eq!(
                    embeddings,
                    &gradients.embeddings,
                    max_relative = 1e-9,
                    epsilon = 1e-13
                );
                approx::assert_relative_eq!(found.losses, forward.losses, max_relative = 1e-12);
                approx::assert_relative_eq!(
                    found.bias_gradient().unwrap(),
                    forward.bias_gradient().unwrap(),
                    max_relative = 1e-12
                );
                assert_eq!(found.predictions(), forward.predictions());
                assert_eq!(found.sub_centers(), forward.sub_centers());
            }
        }
    }
}

#[test]
fn a_sample_is_a_batch_of_its_classes_and_bf16_is_near() {
    let (x, w, labels) = one_row_a_class::<f32>();
    let mut sampler = ClassSampler::new(700, 0.4, 3).unwrap();
    let sample = sampler.sample(&labels).unwrap();
    let rows = w.select(Axis(0), &sample.classes);
    for loss in losses() {
        let alone = head(&loss).forward(&Batch::new(&x, &rows, &sample.labels)).unwrap();
        let batch = Batch::new(&x, &w, &labels).with_sample(&sample);
        assert_eq!(head(&loss).forward(&batch).unwrap().losses, alone.losses);
        let rounded = head(&loss).with_precision(Precision::Bf16).forward(&batch).unwrap();
        // docs/math.md, sections 12 and 14: a cosine is right to 2u, a sine to the root of twice that.
        let (form, Scale::Fixed(s)) = (loss.binary().unwrap(), loss.scale()) else { panic!() };
        let cosine = 2.0_f64.powi(-8);
        let logit = s * form.exponent() * (cosine + form.angle().sin() * (2.0 * cosine).sqrt());
        let bound = 1.01 * logit.exp_m1() as f32;
        approx::assert_relative_eq!(rounded.losses, alone.losses, max_relative = bound);
    }
}

#[test]
fn no_scale_or_exponent_gives_nan() {
    let (x, w, labels) = problem::<f32>();
    let (x, w, labels) = (x.slice(s![..3, ..]), w.slice(s![..700, ..]), &labels[..3]);
    for (s, t) in [(1e-42, 3.0), (1e-300, 2.5), (1e30, 1.0), (8.0, 1e60)] {
        for loss in [SphereFace2::new(s, 0.2), SphereFace2::angular(s, 0.2)] {
            let loss = loss.unwrap().with_t(t).unwrap();
            let batch = Batch::new(&x, &w, labels).with_ignored_label(IGNORED);
            let mut gradients = Gradients::zeros_for(&batch);
            let nothing = Array1::zeros(3);
            let reduction = Reduction::Weighted(&nothing);
            let forward = head(&loss).forward_backward(&batch, reduction, &mut gradients).unwrap();
            assert!(forward.losses.iter().all(|loss| loss.is_finite()), "{loss:?}");
            assert!(gradients.embeddings.iter().all(|&g| g == 0.0), "{loss:?}");
            assert!(gradients.weights.iter().all(|&g| g == 0.0), "{loss:?}");
        }
    }
}

/// A class prior that is the same for all classes is one more bias, in training alone.
#[test]
fn a_class_prior_is_added_to_every_logit() {
    let (x, w, labels) = one_row_a_class::<f64>();
    let prior = Array1::from_elem(700, -1.5);
    for loss in [SphereFace2::default(), SphereFace2::angular(16.0, 0.15).unwrap()] {
        let shifted = loss.clone().with_bias(-1.5).unwrap();
        let batch = Batch::new(&x, &w, &labels);
        let with_prior = batch.with_log_prior(&prior);
        let [mut found, mut expected] = [(); 2].map(|()| Gradients::zeros_for(&batch));
        let forward = head(&loss).forward_backward(&with_prior, Reduction::Sum, &mut found);
        let biased = head(&shifted).forward_backward(&batch, Reduction::Sum, &mut expected);
        let (forward, biased) = (forward.unwrap(), biased.unwrap());
        approx::assert_relative_eq!(forward.losses, biased.losses, max_relative = 1e-13);
        approx::assert_relative_eq!(found.weights, expected.weights, max_relative = 1e-12);
        approx::assert_relative_eq!(
            forward.bias_gradient().unwrap(),
            biased.bias_gradient().unwrap(),
            max_relative = 1e-12
        );
        let plain = head(&loss).forward(&batch).unwrap();
        assert_eq!(forward.margin_free_losses(), plain.margin_free_losses());
        assert_eq!(forward.predictions(), plain.predictions());
    }
}

/// dL/db against central differences, of the mean and weighted, and one class alone.
#[test]
fn the_gradient_of_the_bias_is_a_derivative() {
    let (x, w, labels) = one_row_a_class::<f64>();
    let weights = Array1::linspace(-1.0, 2.0, 24);
    let (one, zeros) = (w.slice(s![..1, ..]), [0; 24]);
    for batch in [Batch::new(&x, &w, &labels), Batch::new(&x, &one, &zeros)] {
        let loss = SphereFace2::new(24.0, 0.1).unwrap();
        let at = |b: f64| {
            let head = head(loss.clone().with_bias(b).unwrap());
            let forward = head.forward(&batch).unwrap();
            (wide(forward.mean()), forward.losses.dot(&weights), head)
        };
        let (b, h) = (3.0, 1e-4);
        let ((above, weighted_above, _), (below, weighted_below, _)) = (at(b + h), at(b - h));
        let mut gradients = Gradients::zeros_for(&batch);
        let head = at(b).2;
        let mut given = |reduction: Reduction<'_, f64>| {
            let forward = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
            forward.bias_gradient().unwrap()
        };
        for (given, expected) in [
            (given(Reduction::Mean), above - below),
            (given(Reduction::Weighted(&weights)), weighted_above - weighted_below),
        ] {
            let expected = expected / (2.0 * h);
            assert!((given - expected).abs() < 1e-6 * expected.abs(), "{given} for {expected}");
        }
    }
    let forward =
        Head::new(ArcFace::default()).forward(&Batch::new(&x.slice(s![..1, ..]), &w, &[0]));
    assert_eq!(forward.unwrap().bias_gradient(), None);
}

#[derive(Debug)]
struct Custom(BinaryForm);

impl MarginLoss for Custom {
    fn scale(&self) -> Scale {
        Scale::Fixed(8.0)
    }

    fn target(&self, angle: &Angle) -> Target {
        Target { value: angle.cos, slope: -angle.sin }
    }

    fn binary(&self) -> Option<BinaryForm> {
        Some(self.0)
    }
}

#[test]
fn what_a_binary_loss_cannot_do_is_refused() {
    let (x, w) = (array![[1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let batch = Batch::new(&x, &w, &[0]);
    let refused = |loss: &dyn MarginLoss, batch: &Batch<'_, f64>, word: &str| {
        let error = Head::new(loss).forward(batch).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert!(matches!(error, Error::Unsupported(_) | Error::Bias | Error::Parameter { .. }));
    };
    let loss = SphereFace2::default();
    refused(&LabelSmoothing::new(&loss, 0.1).unwrap(), &batch, "label smoothing");
    refused(&InterclassFilter::new(&loss, 0.4).unwrap(), &batch, "hard and nearest");
    let bias = array![0.0, 0.0, 0.0];
    refused(&TopNegatives::new(&loss, 1, 0.1).unwrap(), &batch, "nearest negatives");
    refused(&loss, &Batch::new(&x, &w, &[0]).with_bias(&bias), "bias");
    let sampler = ClassSampler::new(3, 0.7, 1).unwrap();
    let sample = sampler.with_correction(true).sample(&[0]).unwrap();
    refused(&loss, &batch.with_sample(&sample), "correction");
    let form = BinaryForm::new(1.0, 1.0, 0.0);
    for (form, word) in [
        (BinaryForm::new(-1.0, 1.0, 0.0), "weight"),
        (BinaryForm::new(1.0, 1.0, f64::NAN), "bias b"),
        (form.with_negatives(0.5, 0.0, 0.0), "exponent t"),
        (form.with_negatives(1.0, 4.0, 0.0), "angular margin"),
        (form.with_negatives(1.0, 0.0, f64::INFINITY), "shift"),
    ] {
        refused(&Custom(form), &batch, word);
    }
    let classes = OffloadedClasses::new(&[0], None, (3, 1)).unwrap();
    let classes = classes.with_sample(&sample).unwrap();
    let own = w.select(Axis(0), classes.own_rows());
    let head = Head::new(loss);
    let offloaded = head.offload(&classes, (&x, &own, None), Some(Reduction::Mean));
    assert!(matches!(offloaded, Err(Error::Unsupported(_))));
}

#[test]
fn a_head_keeps_no_pairs_of_an_earlier_loss() {
    let x = Array2::from_shape_fn((5, 3), |(i, k)| (0.7 * (3 * i + k + 1) as f64).sin());
    let w = Array2::from_shape_fn((7, 3), |(j, k)| (0.9 * (3 * j + k + 1) as f64).sin());
    let batch = Batch::new(&x, &w, &[0, 6, 3, 3, 1]);
    let mut expected = Gradients::zeros_for(&batch);
    let head = Head::new(SphereFace2::default());
    head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();

    let with_pairs = TopNegatives::new(ArcFace::default(), 2, 0.1).unwrap();
    let mut head = Head::new(Box::new(with_pairs) as Box<dyn MarginLoss>);
    let mut gradients = Gradients::zeros_for(&batch);
    head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    *head.loss_mut() = Box::new(SphereFace2::default());
    head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    assert_eq!(gradients, expected);
}
