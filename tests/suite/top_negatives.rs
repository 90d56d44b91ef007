//! The margin on each sample's nearest negatives: against 80-digit arithmetic, finite differences and
//! the materialized level, sampled, over ranks, and updated in the step (docs/math.md, section 13).

use margin_softmax::custom::TopMargin;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    ArcFace, Batch, BatchMut, CosFace, CurricularFace, Error, Forward, Generalized, Gradients,
    Head, IGNORED, LabelSmoothing, MarginLoss, ModifiedSoftmax, NormalizedLogits, Real, Reduction,
    Scale, Sgd, Softmax, TopNegatives, ZeroEmbedding,
};
use ndarray::{Array1, Array2, Axis, array, s};
use serde_json::Value;

use crate::common::compare::{bits, epsilon, norm, step_bits, wide};
use crate::common::golden::Case;
use crate::common::oracle::Problem;
use crate::common::ranks::{even, on_ranks, problem};
use crate::golden::{check_head, check_logits};
use crate::offload::{Over, offloaded};
use crate::published::{LABELS, inputs};

type Boxed = Box<dyn MarginLoss>;

fn cases() -> impl Iterator<Item = Case> {
    let json: Value = serde_json::from_str(include_str!("../golden/field.json")).unwrap();
    let Value::Array(cases) = &json["cases"] else { panic!("cases are a list") };
    let top = |json: &&Value| json["loss"].as_str().unwrap().starts_with("top_");
    let read = |json: &Value| {
        let number = |key: &str| json["params"][key].as_f64().unwrap();
        let s = json["s"].as_f64().unwrap();
        let inner: Boxed = match json["loss"].as_str().unwrap() {
            "top_arcface" => Box::new(ArcFace::new(s, number("m1")).unwrap()),
            "top_cosface" => Box::new(CosFace::new(s, number("m2")).unwrap()),
            _ => Box::new(Generalized::new(s, number("m0"), number("m1"), number("m2")).unwrap()),
        };
        let smoothed = LabelSmoothing::new(inner, json["smoothing"].as_f64().unwrap()).unwrap();
        let k = number("k") as usize;
        let loss = TopNegatives::new(smoothed, k, number("top_margin")).unwrap();
        Case::read(json, Box::new(loss))
    };
    cases.iter().filter(top).map(read).collect::<Vec<_>>().into_iter()
}

#[test]
fn both_levels_agree_with_the_golden_cases() {
    assert_eq!(cases().count(), 7);
    cases().for_each(check_head::<f64>);
    cases().for_each(check_head::<f32>);
    cases().for_each(check_logits::<f64>);
    cases().for_each(check_logits::<f32>);
}

#[test]
fn the_table_of_values_is_met() {
    let (x, w) = inputs();
    let loss = TopNegatives::new(ArcFace::new(32.0, 0.2).unwrap(), 2, 0.06).unwrap();
    let forward = Head::new(&loss).forward(&Batch::new(&x, &w, &LABELS)).unwrap();
    let expected = array![12.344185035, 0.0521078348849, 4.88845872227, 0.000522519872661];
    approx::assert_relative_eq!(forward.losses, expected, max_relative = 1e-10);
    // Of the third sample, whose class is 2, class 4 is nearer.
    assert_eq!(forward.predictions()[2], 4);
}

/// Losses with and without what else a loss can have.
fn losses() -> Vec<Boxed> {
    let arc = || ArcFace::new(16.0, 0.3).unwrap();
    let hard = CurricularFace::new(8.0, 0.3).unwrap().with_t(0.4).unwrap();
    vec![
        Box::new(TopNegatives::new(arc(), 5, 0.1).unwrap()),
        Box::new(TopNegatives::new(ModifiedSoftmax, 1, 0.3).unwrap()),
        Box::new(TopNegatives::new(hard, 3, 0.2).unwrap()),
        Box::new(LabelSmoothing::new(TopNegatives::new(arc(), 40, 0.06).unwrap(), 0.1).unwrap()),
    ]
}

/// That the entries of `found` are within `tolerance` of the largest of their row.
fn assert_near<F: Real>(what: &str, found: &Array2<F>, expected: &Array2<F>, tolerance: f64) {
    let expected = expected.mapv(|v| wide(v));
    let largest = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    for (row, (found, expected)) in found.rows().into_iter().zip(expected.rows()).enumerate() {
        let error = norm((&found.mapv(|v| wide(v)) - &expected).view());
        assert!(error <= tolerance * largest, "{what}, row {row}: {error:e} of {largest:e}");
    }
}

fn check_levels<F: Real>() {
    // Logits of at most 16, or norms of at most 8, each of a few roundings; and ties broken alike,
    // since both levels form the same cosines.
    let tolerance = 400.0 * epsilon::<F>();
    for (seed, (shape, k)) in
        (0..).zip([((9, 6, 40), 1), ((40, 5, 700), 1), ((12, 16, 1300), 1), ((7, 4, 30), 3)])
    {
        let (n, d, c) = shape;
        let problem = problem(seed, (n, d, c * k), false).rounded::<F>();
        let labels: Vec<usize> = problem.labels.iter().map(|label| label / k).collect();
        let (x, w) =
            (problem.x.mapv(|v| F::from(v).unwrap()), problem.w.mapv(|v| F::from(v).unwrap()));
        for loss in losses() {
            let what = format!("{loss:?} {shape:?} {k}");
            let batch = Batch::new(&x, &w, &labels).with_sub_centers(k);
            let logits = NormalizedLogits::new(&x, &w).unwrap().with_sub_centers(k).unwrap();
            let expected = loss.forward(&logits, &labels).unwrap();
            let gradients = loss.backward(&logits, &labels, &expected, Reduction::Sum).unwrap();
            let by_logits = logits.backward(&gradients).unwrap();
            for budget in [0, 256 << 20] {
                let head = Head::new(&loss).with_memory_budget(budget);
                let mut gradients = Gradients::zeros_for(&batch);
                let forward =
                    head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
                for (found, expected) in forward.losses.iter().zip(&expected.losses) {
                    let allowed = tolerance * (1.0 + wide(*expected).abs());
                    assert!((wide(*found) - wide(*expected)).abs() <= allowed, "{what}");
                }
                assert_eq!(forward.predictions(), expected.predictions(), "{what}");
                assert_near(&what, &gradients.embeddings, &by_logits.embeddings, tolerance);
                assert_near(&what, &gradients.weights, &by_logits.weights, tolerance);
            }
        }
    }
}

#[test]
fn the_levels_agree_in_f64() {
    check_levels::<f64>();
}

#[test]
fn the_levels_agree_in_f32() {
    check_levels::<f32>();
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let problem = problem(5, (4, 5, 9), false);
    for loss in losses() {
        let head = Head::new(&loss);
        let sum = |x: &Array2<f64>, w: &Array2<f64>| {
            head.forward(&Batch::new(x, w, &problem.labels)).unwrap().sum()
        };
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
        let mut gradients = Gradients::zeros_for(&batch);
        head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
        let h = 1e-6;
        for (of_x, gradient) in [(true, &gradients.embeddings), (false, &gradients.weights)] {
            for ((i, j), gradient) in gradient.indexed_iter() {
                let at = |step: f64| {
                    let (mut x, mut w) = (problem.x.clone(), problem.w.clone());
                    (if of_x { &mut x } else { &mut w })[[i, j]] += step;
                    sum(&x, &w)
                };
                let difference = (at(h) - at(-h)) / (2.0 * h);
                // The third derivative by h², and the losses' roundings by h.
                assert!((difference - gradient).abs() < 1e-6, "{loss:?} {i} {j}: {difference}");
            }
        }
    }
}

#[test]
fn ranks_give_the_result_of_one_machine() {
    let problem = problem(8, (11, 6, 600), false);
    let (x, w, labels) = (&problem.x, &problem.w, &problem.labels);
    for loss in losses() {
        let batch = Batch::new(x, w, labels);
        let mut expected = Gradients::zeros_for(&batch);
        let whole =
            Head::new(&loss).forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
        for size in [1, 2, 3] {
            let ranges = even(600, size);
            let ranks = on_ranks(&ranges, |collective, range| {
                let rows = w.slice(s![range.clone(), ..]);
                let batch = Batch::new(x, &rows, labels);
                let mut gradients = Gradients::zeros_for(&batch);
                let head = Head::on_ranks(&loss, collective, range);
                let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
                (forward.unwrap(), gradients)
            });
            for ((forward, gradients), range) in ranks.iter().zip(&ranges) {
                approx::assert_relative_eq!(forward.losses, whole.losses, max_relative = 1e-12);
                assert_eq!(forward.predictions(), whole.predictions());
                assert_near("dx", &gradients.embeddings, &expected.embeddings, 1e-12);
                let rows = expected.weights.slice(s![range.clone(), ..]).to_owned();
                assert_near("dw", &gradients.weights, &rows, 1e-12);
            }
        }
    }
}

#[test]
fn a_sampled_step_looks_among_the_sampled_classes() {
    let problem = problem(3, (6, 5, 50), false);
    let mut sampler = ClassSampler::new(50, 0.4, 1).unwrap();
    let sample = sampler.sample(&problem.labels).unwrap();
    let rows = problem.w.select(Axis(0), &sample.classes);
    for loss in losses() {
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels).with_sample(&sample);
        let alone = Batch::new(&problem.x, &rows, &sample.labels);
        let [sampled, alone] = [batch, alone].map(|batch| {
            let mut gradients = Gradients::zeros_for(&batch);
            let head = Head::new(&loss);
            let forward = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
            (forward.losses, gradients.weights, gradients.embeddings)
        });
        assert_eq!(sampled, alone, "{loss:?}");
    }
}

#[test]
fn a_step_with_an_update_gives_the_bits_of_separate_calls() {
    let problem = problem(4, (8, 6, 300), false);
    for loss in losses() {
        let head = Head::new(&loss);
        let (mut apart, mut fused) = (problem.w.clone(), problem.w.clone());
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
        let mut gradients = Gradients::zeros_for(&batch);
        head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
        let mut sgd = Sgd::new(0.1).unwrap();
        sgd.apply(&mut apart, &gradients.weights).unwrap();
        let mut dx = Array2::zeros(problem.x.dim());
        let mut sgd = Sgd::new(0.1).unwrap();
        let mut moving = BatchMut::new(&problem.x, &mut fused, &problem.labels);
        head.step(&mut moving, Reduction::Mean, &mut sgd, &mut dx).unwrap();
        assert_eq!(bits(&fused), bits(&apart), "{loss:?}");
        assert_eq!(bits(&dx), bits(&gradients.embeddings), "{loss:?}");
    }
}

#[test]
fn a_margin_of_zero_changes_nothing_but_roundings_and_a_wrapper_passes_the_rest_on() {
    let problem = problem(6, (5, 4, 20), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let arc = ArcFace::new(16.0, 0.3).unwrap();
    let top = TopNegatives::new(&arc, 3, 0.0).unwrap();
    let [plain, topped] =
        [&arc as &dyn MarginLoss, &top].map(|loss| Head::new(loss).forward(&batch).unwrap().losses);
    approx::assert_relative_eq!(plain, topped, max_relative = 1e-13);
    assert_eq!(top.top_negatives(), Some(TopMargin { k: 3, margin: 0.0 }));
    assert_eq!((top.scale(), top.k(), top.margin()), (arc.scale(), 3, 0.0));
    let smoothed = LabelSmoothing::new(top, 0.1).unwrap();
    assert_eq!(smoothed.top_negatives(), Some(TopMargin { k: 3, margin: 0.0 }));
}

#[test]
fn samples_left_out_have_no_nearest_negatives_and_one_class_has_none() {
    let x = array![[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]];
    let w = array![[1.0, 0.5], [0.2, -1.0], [1.0, 1.0]];
    let loss = TopNegatives::new(ArcFace::default(), 2, 0.1).unwrap();
    let head = Head::new(&loss).with_zero_embeddings(ZeroEmbedding::Skip);
    let batch = Batch::new(&x, &w, &[0, 1, 2]).with_ignored_label(2);
    let mut gradients = Gradients::zeros_for(&batch);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    assert_eq!(forward.counted(), 1);
    assert!(gradients.weights.iter().all(|g: &f64| g.is_finite()));
    let one = w.slice(s![..1, ..]);
    let forward = head.forward(&Batch::new(&x, &one, &[0, 0, 0])).unwrap();
    assert_eq!(forward.losses, array![0.0, 0.0, 0.0]);
    let bits_of = |head: &Head<_>| {
        let mut gradients = Gradients::zeros_for(&batch);
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
        step_bits(&forward, &gradients)
    };
    assert_eq!(bits_of(&head), bits_of(&head));
}

#[test]
fn what_cannot_be_is_refused() {
    let arc = ArcFace::default();
    for (k, margin, name) in [(0, 0.1, "k"), (1, -0.1, "margin m'"), (1, f64::NAN, "margin m'")] {
        let refused = TopNegatives::new(&arc, k, margin).unwrap_err();
        assert!(matches!(refused, Error::Parameter { .. }) && refused.to_string().contains(name));
    }
    let (x, w) = (array![[1.0, 2.0]], array![[1.0, 0.5], [0.2, -1.0]]);
    let loss = TopNegatives::new(Softmax, 1, 0.1).unwrap();
    let refused = Head::new(&loss).forward(&Batch::new(&x, &w, &[0])).unwrap_err();
    assert!(matches!(refused, Error::Unsupported(message) if message.contains("angular")));
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert_eq!(loss.forward(&logits, &[0]).unwrap_err(), refused);
}

/// The nearest negative of each sample, by a plain search.
fn searched(problem: &Problem, bias: bool) -> Vec<(usize, f64)> {
    let nearest = |(x, &label): (ndarray::ArrayView1<f64>, &usize)| {
        let mut nearest = (f64::NEG_INFINITY, 0, 0.0);
        for (j, w) in problem.w.rows().into_iter().enumerate().filter(|(j, _)| *j != label) {
            let cosine = x.dot(&w) / norm(x) / norm(w);
            let logit = match &problem.b {
                Some(b) if bias => x.dot(&w) + b[j],
                _ => cosine,
            };
            if logit > nearest.0 {
                nearest = (logit, j, cosine);
            }
        }
        (nearest.1, nearest.2)
    };
    problem.x.rows().into_iter().zip(&problem.labels).map(nearest).collect()
}

fn assert_searched(what: &str, forward: &Forward<f64>, expected: &[(usize, f64)]) {
    let (classes, cosines) = forward.nearest_negatives();
    for (i, (class, cosine)) in expected.iter().enumerate() {
        assert_eq!(classes[i], *class, "{what}");
        assert!((cosines[i] - cosine).abs() < 1e-14, "{what}");
    }
}

#[test]
fn every_loss_tells_the_nearest_negatives_at_both_levels_and_over_ranks() {
    let mut all = losses();
    all.push(Box::new(ArcFace::default()));
    all.push(Box::new(CurricularFace::default()));
    all.push(Box::new(Softmax));
    for loss in all {
        let is_softmax = loss.scale() == Scale::Unnormalized;
        let problem = problem(12, (7, 5, 300), is_softmax);
        let (x, w, labels) = (&problem.x, &problem.w, &problem.labels);
        let expected = searched(&problem, is_softmax);
        let what = format!("{loss:?}");
        let batch = Batch::new(x, w, labels);
        let batch = problem.b.as_ref().map_or(batch, |b| batch.with_bias(b));
        assert_searched(&what, &Head::new(&loss).forward(&batch).unwrap(), &expected);
        let mut logits = NormalizedLogits::new(x, w).unwrap();
        if let Some(b) = &problem.b {
            logits = logits.with_bias(b).unwrap();
        }
        assert_searched(&what, &loss.forward(&logits, labels).unwrap(), &expected);
        for ranks in [even(300, 2), even(300, 3)] {
            let forwards = on_ranks(&ranks, |collective, range| {
                let rows = w.slice(s![range.clone(), ..]);
                let b = problem.b.as_ref().map(|b| b.slice(s![range.clone()]));
                let batch = Batch::new(x, &rows, labels);
                let batch = b.as_ref().map_or(batch, |b| batch.with_bias(b));
                Head::on_ranks(&loss, collective, range).forward(&batch).unwrap()
            });
            forwards.iter().for_each(|forward| assert_searched(&what, forward, &expected));
        }
    }
}

#[test]
fn a_sample_without_negatives_has_no_nearest() {
    let (x, w) = (array![[1.0, 2.0], [2.0, 1.0]], array![[1.0, 0.0]]);
    let batch = Batch::new(&x, &w, &[0, 7]).with_ignored_label(7);
    let forward = Head::new(ArcFace::default()).forward(&batch).unwrap();
    assert_eq!(forward.nearest_negatives(), (&[IGNORED; 2][..], &array![-1.0, -1.0]));
}

#[test]
fn an_offloaded_step_is_that_of_the_head() {
    let mut all = losses();
    all.push(Box::new(CurricularFace::default()));
    all.push(Box::new(Softmax));
    for (k, loss) in [1, 3].into_iter().flat_map(|k| all.iter().map(move |loss| (k, loss))) {
        let is_softmax = loss.scale() == Scale::Unnormalized;
        let mut problem = problem(7, (9, 5, 30 * k), is_softmax && k == 1);
        problem.labels.iter_mut().for_each(|label| *label %= 30);
        problem.labels[4] = IGNORED;
        let Problem { x, w, labels, b, .. } = &problem;
        let mut sampler = ClassSampler::new(30, 0.5, 1).unwrap().with_correction(true);
        let sample = sampler.sample(labels).unwrap();
        let p = Array1::from_shape_fn(30, |class| (class as f64).sin());
        for (sample, prior) in [(None, None), (None, Some(&p)), (Some(&sample), Some(&p))] {
            let what = format!("{loss:?} {k} {} {}", sample.is_some(), prior.is_some());
            let batch = Batch::new(x, w, labels).with_sub_centers(k).with_ignored_label(IGNORED);
            let batch = b.as_ref().map_or(batch, |b| batch.with_bias(b));
            let batch = sample.map_or(batch, |sample| batch.with_sample(sample));
            let batch = prior.map_or(batch, |prior| batch.with_log_prior(prior));
            let (head, mut expected) = (Head::new(loss), Gradients::zeros_for(&batch));
            let forward = head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
            let over = Over { labels, ignored: Some(IGNORED), k, sample };
            let (found, dx, dw, _) =
                offloaded(&head, (x, w, b.as_ref()), over, prior, Reduction::Mean).unwrap();
            // A few roundings of logits of at most 64.
            approx::assert_abs_diff_eq!(found.losses, forward.losses, epsilon = 1e-12);
            let [plain, expected_plain] = [&found, &forward].map(Forward::margin_free_losses);
            approx::assert_abs_diff_eq!(plain, expected_plain, epsilon = 1e-12);
            approx::assert_abs_diff_eq!(dx, expected.embeddings, epsilon = 1e-12);
            approx::assert_abs_diff_eq!(dw, expected.weights, epsilon = 1e-12);
            let (classes, cosines) = found.nearest_negatives();
            assert_eq!(classes, forward.nearest_negatives().0, "{what}");
            approx::assert_abs_diff_eq!(cosines, forward.nearest_negatives().1, epsilon = 1e-14);
        }
    }
}
