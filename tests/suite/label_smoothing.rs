//! Label smoothing: against the oracle, torch and finite differences, at both levels, sampled and over
//! ranks; without smoothing nothing changes (docs/math.md, section 11).

use std::sync::Arc;

use margin_softmax::custom::check_loss;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, Batch, CosFace, Error, Gradients, Head, LabelSmoothing, MarginLoss, NormalizedLogits,
    Real, Reduction, Softmax,
};
use ndarray::{Array1, Array2, Axis, array, concatenate, s};
use serde_json::Value;

use crate::common::compare::{assert_forward, assert_gradients, epsilon, norm, step_bits, wide};
use crate::common::golden::{narrow1, narrow2};
use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::ranks::{even, on_ranks, problem, with_shard};
use crate::common::spec::{Spec, menu};

fn smoothed(spec: &Spec, epsilon: f64) -> LabelSmoothing<Box<dyn MarginLoss>> {
    LabelSmoothing::new(spec.build(), epsilon).unwrap()
}

/// One class, two, N above D with several tiles and chunks, N below D.
const SHAPES: [(usize, usize, usize); 5] =
    [(3, 4, 1), (4, 7, 2), (9, 6, 40), (40, 5, 700), (12, 16, 1300)];

fn check_both_levels<F: Real>() {
    for (seed, shape) in (0..).zip(SHAPES) {
        for spec in menu() {
            for smoothing in [0.1, 1.0] {
                let what = format!("{spec:?} {shape:?} {smoothing}");
                let problem = problem(seed, shape, spec == Spec::Softmax).rounded::<F>();
                let answer = problem.solve_smoothed(&spec, smoothing);
                let inputs = problem.inputs::<F>([Layout::Standard; 2]);
                let loss = smoothed(&spec, smoothing);
                for budget in [0, 256 << 20] {
                    let head = Head::new(&loss).with_memory_budget(budget);
                    let (forward, gradients) = inputs.by_head(&head);
                    assert_forward(&what, &forward, &problem.labels, &answer);
                    assert_gradients(&what, &gradients, &answer);
                }
                let (forward, _, gradients) = inputs.by_logits(&loss);
                assert_forward(&what, &forward, &problem.labels, &answer);
                assert_gradients(&what, &gradients, &answer);
            }
        }
    }
}

#[test]
fn smoothing_agrees_with_the_oracle_in_f64() {
    check_both_levels::<f64>();
}

#[test]
fn smoothing_agrees_with_the_oracle_in_f32() {
    check_both_levels::<f32>();
}

#[test]
fn smoothing_of_zero_is_the_plain_loss_bit_for_bit() {
    for spec in menu() {
        let inputs =
            problem(3, (9, 6, 300), spec == Spec::Softmax).inputs::<f32>([Layout::Standard; 2]);
        let (plain, zero) = (spec.build(), smoothed(&spec, 0.0));
        let (f, g) = inputs.by_head(&Head::new(&plain));
        let (f0, g0) = inputs.by_head(&Head::new(&zero));
        assert!(step_bits(&f, &g) == step_bits(&f0, &g0), "{spec:?}");
        let (f, _, g) = inputs.by_logits(&plain);
        let (f0, _, g0) = inputs.by_logits(&zero);
        assert!(step_bits(&f, &g) == step_bits(&f0, &g0), "{spec:?}");
    }
}

/// The margin-free loss shows progress on the data, not on the smoothed targets.
#[test]
fn smoothing_leaves_margin_free_losses_as_they_are() {
    let inputs = problem(4, (9, 6, 30), false).inputs::<f64>([Layout::Standard; 2]);
    let spec = Spec::Cos { s: 16.0, m: 0.2 };
    let (plain, _) = inputs.by_head(&Head::new(spec.build()));
    let (other, _) = inputs.by_head(&Head::new(smoothed(&spec, 0.3)));
    assert_eq!(plain.margin_free_losses(), other.margin_free_losses());
    assert_ne!(plain.losses, other.losses);
}

#[test]
fn smoothing_gives_the_same_bits_for_any_number_of_threads() {
    let inputs = problem(5, (20, 30, 5000), false).inputs::<f32>([Layout::Standard; 2]);
    let loss = smoothed(&Spec::Cos { s: 64.0, m: 0.35 }, 0.1);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (f, g) = inputs.by_head(&Head::new(&loss));
            step_bits(&f, &g)
        })
    };
    assert!(with(1) == with(2) && with(1) == with(3));
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * largest, "{what}: {found} for {expected}");
    }
}

fn flat<F: Real>(array: &Array2<F>) -> Vec<f64> {
    array.iter().map(|&v| wide(v)).collect()
}

fn check_ranks<F: Real>(tolerance: f64) {
    for spec in menu() {
        let problem = problem(6, (9, 6, 300), spec == Spec::Softmax);
        let inputs = problem.inputs::<F>([Layout::Standard; 2]);
        let loss = smoothed(&spec, 0.2);
        let (one, expected) = inputs.by_head(&Head::new(&loss));
        for size in 1..=3 {
            let all = on_ranks(&even(300, size), |collective, range| {
                with_shard(&inputs, &range, |shard| {
                    let mut gradients = Gradients::zeros_for(shard);
                    let head = Head::on_ranks(&loss, collective, range.clone());
                    let reduction = Reduction::Weighted(&inputs.upstream);
                    (head.forward_backward(shard, reduction, &mut gradients).unwrap(), gradients)
                })
            });
            let what = format!("{spec:?} on {size} ranks");
            for (forward, gradients) in &all {
                let (found, losses) = (forward.losses.mapv(wide), one.losses.mapv(wide));
                assert_close(&what, &found.to_vec(), &losses.to_vec(), tolerance);
                let (found, dx) = (flat(&gradients.embeddings), flat(&expected.embeddings));
                assert_close(&what, &found, &dx, tolerance);
            }
            let rows: Vec<_> = all.iter().map(|(_, gradients)| gradients.weights.view()).collect();
            let rows = concatenate(Axis(0), &rows).unwrap();
            assert_close(&what, &flat(&rows), &flat(&expected.weights), tolerance);
        }
    }
}

#[test]
fn smoothing_over_ranks_is_one_machines() {
    check_ranks::<f64>(1e-12);
    check_ranks::<f32>(2e-5);
}

/// Each rank draws its own classes, and C is the number that all ranks drew together.
#[test]
fn smoothing_of_sampled_classes_is_that_of_these_classes_alone() {
    let inputs = problem(7, (10, 7, 90), false).inputs::<f64>([Layout::Standard; 2]);
    let loss = smoothed(&Spec::Cos { s: 16.0, m: 0.2 }, 0.2);
    for size in 1..=3 {
        let all = on_ranks(&even(90, size), |collective, range| {
            let mut sampler = ClassSampler::for_range(range.clone(), 0.4, 11).unwrap();
            let sample = sampler.sample(&inputs.labels).unwrap();
            with_shard(&inputs, &range, |shard| {
                let shard = &shard.with_sample(&sample);
                let head = Head::on_ranks(&loss, collective, range.clone());
                let mut gradients = Gradients::zeros_for(shard);
                let forward = head.forward_backward(shard, Reduction::Mean, &mut gradients);
                let classes: Vec<_> = sample.classes.iter().map(|row| range.start + row).collect();
                (forward.unwrap(), gradients, classes)
            })
        });
        let classes: Vec<usize> = all.iter().flat_map(|rank| rank.2.clone()).collect();
        assert!(classes.len() < 90);
        let place = |label: &usize| classes.binary_search(label).unwrap();
        let labels: Vec<_> = inputs.labels.iter().map(place).collect();
        let w = inputs.w.select(Axis(0), &classes);
        let batch = Batch::new(&inputs.x, &w, &labels);
        let mut expected = Gradients::zeros_for(&batch);
        let one =
            Head::new(&loss).forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
        for (forward, gradients, _) in &all {
            assert_close("losses", &forward.losses.to_vec(), &one.losses.to_vec(), 1e-12);
            assert_close("dx", &flat(&gradients.embeddings), &flat(&expected.embeddings), 1e-12);
        }
    }
}

#[test]
fn ranks_that_smooth_differently_are_refused() {
    let inputs = problem(8, (4, 3, 10), false).inputs::<f64>([Layout::Standard; 2]);
    for refused in on_ranks(&even(10, 2), |collective, range| {
        let epsilon = if range.start == 0 { 0.1 } else { 0.2 };
        let loss = LabelSmoothing::new(CosFace::default(), epsilon).unwrap();
        with_shard(&inputs, &range, |shard| {
            Head::on_ranks(loss, collective, range.clone()).forward(shard).unwrap_err()
        })
    }) {
        assert!(matches!(refused, Error::Collective { rank: 1, .. }), "{refused}");
    }
}

#[test]
fn smoothed_losses_pass_the_check_by_finite_differences() {
    for spec in menu() {
        for epsilon in [0.1, 1.0] {
            let check = check_loss(&smoothed(&spec, epsilon)).unwrap();
            let plain = check_loss(&spec.build()).unwrap();
            assert!(check.error < 1e-7_f64.max(2.0 * plain.error), "{spec:?} {epsilon}: {check}");
        }
    }
}

/// Margin logits are given, so that the values are torch's own `cross_entropy`.
#[test]
fn smoothing_is_that_of_torch() {
    let json: Value = serde_json::from_str(include_str!("../torch/label_smoothing.json")).unwrap();
    let vector = |v: &Value| -> Array1<f64> {
        v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let matrix = |v: &Value| {
        let rows: Vec<_> = v.as_array().unwrap().iter().map(vector).collect();
        let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
        ndarray::stack(Axis(0), &views).unwrap()
    };
    for case in json["cases"].as_array().unwrap() {
        let number = |field: &str| case[field].as_f64().unwrap();
        let labels: Vec<usize> = case["labels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as usize)
            .collect();
        let loss: Box<dyn MarginLoss> = match case["loss"].as_str().unwrap() {
            "ArcFace" => Box::new(ArcFace::new(number("s"), number("m")).unwrap()),
            "CosFace" => Box::new(CosFace::new(number("s"), number("m")).unwrap()),
            _ => Box::new(Softmax::new()),
        };
        let loss = LabelSmoothing::new(loss, number("epsilon")).unwrap();
        let problem = Problem {
            x: matrix(&case["x"]),
            w: matrix(&case["w"]),
            b: None,
            upstream: Array1::ones(labels.len()),
            labels,
        };
        let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
        let (by_head, head) = inputs.by_head(&Head::new(&loss));
        let (by_logits, _, logits) = inputs.by_logits(&loss);
        for (forward, gradients) in [(by_head, head), (by_logits, logits)] {
            let what = format!("{loss:?}");
            let losses = vector(&case["losses"]).to_vec();
            assert_close(&what, &forward.losses.to_vec(), &losses, 1e-13);
            assert_close(&what, &flat(&gradients.embeddings), &flat(&matrix(&case["dx"])), 1e-12);
            assert_close(&what, &flat(&gradients.weights), &flat(&matrix(&case["dw"])), 1e-12);
        }
    }
}

#[test]
fn smoothing_outside_its_range_is_refused() {
    for epsilon in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let refused = LabelSmoothing::new(CosFace::default(), epsilon).unwrap_err();
        let message = refused.to_string();
        assert!(
            message.starts_with("label smoothing epsilon must be in [0, 1], got "),
            "{message}"
        );
    }
    #[derive(Debug)]
    struct Wrong;
    impl MarginLoss for Wrong {
        fn scale(&self) -> margin_softmax::Scale {
            CosFace::default().scale()
        }
        fn target(&self, angle: &margin_softmax::custom::Angle) -> margin_softmax::custom::Target {
            CosFace::default().target(angle)
        }
        fn label_smoothing(&self) -> f64 {
            1.5
        }
    }
    let (x, w) = (array![[1.0, 0.5]], array![[1.0, 0.0], [0.0, 1.0]]);
    let refused = |error| matches!(error, Error::Parameter { value: 1.5, .. });
    assert!(refused(Head::new(Wrong).forward(&Batch::new(&x, &w, &[0])).unwrap_err()));
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    assert!(refused(Wrong.forward(&logits, &[0]).unwrap_err()));
}

#[test]
fn a_forward_with_another_smoothing_is_refused() {
    let (x, w) = (array![[1.0, 0.5]], array![[1.0, 0.0], [0.0, 1.0]]);
    let logits = NormalizedLogits::new(&x, &w).unwrap();
    let loss = |epsilon| LabelSmoothing::new(CosFace::default(), epsilon).unwrap();
    let forward = loss(0.1).forward(&logits, &[0]).unwrap();
    let refused = loss(0.2).backward(&logits, &[0], &forward, Reduction::Mean).unwrap_err();
    assert_eq!(refused, Error::Forward { row: 0 });
}

#[test]
fn every_pointer_to_a_loss_has_its_smoothing() {
    let loss = LabelSmoothing::new(CosFace::default(), 0.25).unwrap();
    fn of<L: MarginLoss>(loss: L) -> f64 {
        loss.label_smoothing()
    }
    let boxed: Box<dyn MarginLoss> = Box::new(loss.clone());
    let shared: Arc<dyn MarginLoss> = Arc::new(loss.clone());
    assert_eq!([of(&loss), of(boxed), of(shared), of(Box::new(loss.clone()))], [0.25; 4]);
    assert_eq!((loss.epsilon(), loss.loss()), (0.25, &CosFace::default()));
}

/// Softmax: the gradients of the bias are the sums of the logits' gradients, and those of a sample
/// add up to 0. Zero rows are valid, and the loss of equal logits is log C whatever ε.
#[test]
fn smoothed_softmax_takes_zero_rows() {
    for epsilon in [0.0, 0.3, 1.0] {
        let x = array![[0.0, 0.0, 0.0], [0.25, 3.0, 1.0]];
        let w = array![[0.0, 0.0, 0.0], [1.0, 0.5, 0.25], [0.0, 0.0, 0.0], [-1.0, 2.0, 0.5]];
        let b = Array1::zeros(4);
        let problem = Problem { x, w, b: Some(b), labels: vec![1, 2], upstream: array![1.0, 0.5] };
        let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
        let loss = LabelSmoothing::new(Softmax::new(), epsilon).unwrap();
        let (by_head, head) = inputs.by_head(&Head::new(&loss));
        let (by_logits, _, logits) = inputs.by_logits(&loss);
        approx::assert_abs_diff_eq!(by_head.losses[0], 4.0_f64.ln(), epsilon = 1e-15);
        approx::assert_abs_diff_eq!(by_head.losses, by_logits.losses, epsilon = 1e-14);
        approx::assert_abs_diff_eq!(head.embeddings, logits.embeddings, epsilon = 1e-14);
        approx::assert_abs_diff_eq!(head.weights, logits.weights, epsilon = 1e-14);
        assert!(head.bias.unwrap().sum().abs() < 1e-15);
        assert!(logits.bias.unwrap().sum().abs() < 1e-15);
    }
}

/// ‖dX‖ ≤ τ·(s/r)·(1 + M) with τ = Σ_{j≠y} |p_j − ε/C| ≤ σ + ε·(1 − 1/C).
#[test]
fn smoothed_gradients_keep_their_bounds() {
    for epsilon in [0.1, 0.5, 1.0] {
        let inputs = problem(9, (30, 5, 60), false).inputs::<f64>([Layout::Standard; 2]);
        let batch = inputs.batch();
        let plain = Head::new(ArcFace::new(16.0, 0.5).unwrap()).forward(&batch).unwrap();
        let loss = LabelSmoothing::new(ArcFace::new(16.0, 0.5).unwrap(), epsilon).unwrap();
        let mut gradients = Gradients::zeros_for(&batch);
        Head::new(loss).forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
        for (i, row) in gradients.embeddings.rows().into_iter().enumerate() {
            let sigma = -(-plain.losses[i]).exp_m1();
            let tau = sigma + epsilon * (1.0 - 1.0 / 60.0);
            assert!(norm(row) <= tau * 2.0 * 16.0 / norm(inputs.x.row(i)) * (1.0 + 1e-12));
        }
    }
}

/// Logits whose sum leaves the range are refused, where the loss without smoothing takes them.
#[test]
fn sums_of_logits_beyond_the_range_are_refused() {
    let (x, w) = (narrow2::<f32>(array![[1e36]]), narrow2(Array2::ones((100, 1))));
    let batch = Batch::new(&x, &w, &[0]);
    assert!(Head::new(Softmax::new()).forward(&batch).is_ok());
    let loss = LabelSmoothing::new(Softmax::new(), 0.1).unwrap();
    let refused = Head::new(&loss).forward(&batch).unwrap_err();
    assert!(matches!(
        refused,
        Error::Overflow { quantity: "the sum of the logits", row: Some(0), .. }
    ));
    assert_eq!(Head::new(&loss).predict(&Batch::unlabeled(&x, &w)).unwrap(), [0]);
    let few = w.slice(s![..8, ..]);
    let forward = Head::new(&loss).forward(&Batch::new(&x, &few, &[0])).unwrap();
    let expected = narrow1::<f32>(array![8.0_f64.ln()]);
    assert!((forward.losses[0] - expected[0]).abs() <= 1e36 * epsilon::<f32>() as f32);
}
