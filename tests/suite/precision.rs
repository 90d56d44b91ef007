//! Products of factors rounded to bf16: within the bound of `docs/math.md`, section 12, of the f64
//! oracle, and everything else as in full precision.

use margin_softmax::Batch;
use margin_softmax::offload::OffloadedClasses;
use std::sync::Arc;

use crate::common::compare::{assert_rows, assert_vector, bits, norm, step_bits, wide};
use crate::common::layout::Layout;
use crate::common::oracle::{Answer, Problem};
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks, problem, with_shard};
use crate::common::run::Inputs;
use crate::common::spec::{Spec, menu};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{
    ArcFace, CosFace, Error, Forward, Gradients, Head, MarginLoss, Precision, Reduction, Softmax,
};
use ndarray::{Array1, Array2, Axis, array};

/// The largest relative error of a number rounded to bf16.
const U: f64 = 1.0 / 256.0;

fn rounding(spec: &Spec) -> Head<Arc<Box<dyn MarginLoss>>> {
    Head::new(Arc::new(spec.build())).with_precision(Precision::Bf16)
}

/// Errors allowed of losses and of gradients, relative to the terms behind them. A logit is right
/// to δ = (2u + u²)·|a|, hence an exponential relative to their sum to e^2δ, and two rounded
/// factors of a product to (1 + u)². Both on top of what f32 may err.
fn tolerances(answer: &Answer) -> (f64, f64) {
    let delta = (2.0 * U + U * U) * answer.reach.iter().fold(0.0_f64, |m, &v| m.max(v));
    let f32_part = 2.0 * answer.tolerance(f32::EPSILON.into());
    let gradients = (2.0 * delta).exp() * (1.0 + U) * (1.0 + U) - 1.0;
    (delta.exp_m1() + f32_part, gradients + f32_part)
}

fn check(what: &str, spec: &Spec, problem: &Problem) {
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let answer = problem.rounded::<f32>().solve(spec);
    let (loss, gradient) = tolerances(&answer);
    let what = |part| format!("{what}, {spec:?}: {part}");
    for head in rounding(spec).at_every_level() {
        let (forward, gradients) = inputs.by_head(&head);
        assert_vector(&what("losses"), &forward.losses, &answer.losses, &answer.losses, loss);
        assert_rows(&what("dx"), &gradients.embeddings, &answer.dx, &answer.size_x, gradient);
        assert_rows(&what("dw"), &gradients.weights, &answer.dw, &answer.size_w, gradient);
        if let Some(bias) = &gradients.bias {
            assert_vector(&what("db"), bias, &answer.db, &answer.size_b, gradient);
        }
    }
}

#[test]
fn losses_and_gradients_are_within_the_bound_of_rounding() {
    for spec in menu() {
        let bias = spec == Spec::Softmax;
        // N < D, N > D, odd numbers of everything, more than one tile, one class.
        for (seed, shape) in [(1, (7, 9, 11)), (2, (33, 5, 300)), (3, (4, 16, 1)), (4, (1, 1, 2))] {
            check(&format!("{shape:?}"), &spec, &problem(seed, shape, bias));
        }
    }
}

/// Unit vectors in 128 dimensions, targets at a cosine near 0.7, s = 64.
fn usual(samples: usize, classes: usize) -> Inputs<f32> {
    let mut rng = Rng::new(5);
    let w =
        Array2::from_shape_vec((classes, 128), (0..classes).flat_map(|_| rng.unit(128)).collect())
            .unwrap();
    let labels = rng.labels(samples, classes);
    let mut x = Array2::zeros((samples, 128));
    for (mut row, &label) in x.rows_mut().into_iter().zip(&labels) {
        row.assign(&(&w.row(label) * 0.7 + &rng.unit(128) * 0.714));
    }
    let upstream = Array1::ones(samples);
    Problem { x, w, b: None, labels, upstream }.inputs([Layout::Standard; 2])
}

fn relative_distance(found: &Array2<f32>, exact: &Array2<f32>) -> f64 {
    let rows = |m: &Array2<f32>| m.iter().map(|&v| wide(v)).collect::<Array1<f64>>();
    norm((rows(found) - rows(exact)).view()) / norm(rows(exact).view())
}

#[test]
fn at_the_usual_scale_gradients_are_right_to_two_percent() {
    let inputs = usual(100, 1000);
    let head = Head::new(CosFace::default());
    let (exact, exact_gradients) = inputs.by_head(&head);
    let (forward, gradients) = inputs.by_head(&head.with_precision(Precision::Bf16));
    for (found, exact) in forward.losses.iter().zip(&exact.losses) {
        assert!((found / exact - 1.0).abs() < 0.05, "{found} for {exact}");
    }
    assert!((forward.mean() / exact.mean() - 1.0).abs() < 0.005);
    for (found, exact) in [
        (&gradients.embeddings, &exact_gradients.embeddings),
        (&gradients.weights, &exact_gradients.weights),
    ] {
        let distance = relative_distance(found, exact);
        // Not zero: the factors are rounded.
        assert!((1e-4..0.02).contains(&distance), "{distance}");
    }
    // Target pairs are computed from the data as they are.
    assert_eq!(bits(forward.target_angles()), bits(exact.target_angles()));
}

#[test]
fn full_precision_is_the_default_and_changes_no_bit() {
    let inputs = usual(20, 300);
    let (forward, gradients) = inputs.by_head(&Head::new(ArcFace::default()));
    let full = Head::new(ArcFace::default()).with_precision(Precision::Full);
    let (same, same_gradients) = inputs.by_head(&full);
    assert_eq!(Precision::default(), Precision::Full);
    assert_eq!(step_bits(&forward, &gradients), step_bits(&same, &same_gradients));
}

#[test]
fn the_gradient_is_zero_where_the_target_is_the_only_class() {
    let (x, w) = (array![[0.3_f32, -1.1, 0.7]], array![[1.0_f32, 0.2, 0.1]]);
    let batch = margin_softmax::Batch::new(&x, &w, &[0]);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(ArcFace::default()).with_precision(Precision::Bf16);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    assert_eq!(forward.losses[0], 0.0);
    assert!(gradients.embeddings.iter().chain(&gradients.weights).all(|&g| g == 0.0));
}

#[test]
fn bits_depend_neither_on_threads_nor_on_the_memory_for_logits() {
    let inputs = usual(40, 3000);
    let run = |threads: usize, budget| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let head = Head::new(ArcFace::default()).with_memory_budget(budget);
        let head = head.with_precision(Precision::Bf16);
        let (forward, gradients) = pool.install(|| inputs.by_head(&head));
        step_bits(&forward, &gradients)
    };
    let first = run(1, 256 << 20);
    for (threads, budget) in [(2, 256 << 20), (3, 0), (1, 40 * 4 * 600)] {
        assert!(run(threads, budget) == first, "{threads} threads, {budget} bytes");
    }
}

#[test]
fn numbers_beyond_bf16_stay_finite() {
    let w = array![[f32::MAX / 32.0, 1e-38], [0.0, 0.0], [1.0, -1e-42]];
    let x = array![[1e-36_f32, 0.0], [-1e-37, 3e-39]];
    let batch = margin_softmax::Batch::new(&x, &w, &[0, 2]);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(Softmax::new()).with_precision(Precision::Bf16);
    let forward = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
    let numbers = forward.losses.iter().chain(&gradients.embeddings).chain(&gradients.weights);
    assert!(numbers.copied().all(f32::is_finite));
}

#[test]
fn f64_data_are_refused_and_nothing_is_written() {
    let problem = problem(1, (3, 4, 5), false);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let head = rounding(&Spec::Modified);
    let mut gradients = Gradients::zeros_for(&inputs.batch());
    gradients.embeddings.fill(7.0);
    let refused = head.forward_backward(&inputs.batch(), Reduction::Mean, &mut gradients);
    assert_eq!(refused.unwrap_err(), Error::Precision);
    assert!(gradients.embeddings.iter().all(|&g| g == 7.0));
    assert_eq!(head.forward(&inputs.batch()).unwrap_err(), Error::Precision);
    assert_eq!(
        head.predict(&Batch::unlabeled(&inputs.x, &inputs.w)).unwrap_err(),
        Error::Precision
    );
    assert_eq!(head.target_angles(&inputs.batch()).unwrap_err(), Error::Precision);
    let classes = OffloadedClasses::new(&inputs.labels, None, (5, 1)).unwrap();
    let own = inputs.w.select(Axis(0), classes.own_rows());
    let refused = head.offload(&classes, (&inputs.x, &own, None), Some(Reduction::Mean));
    assert_eq!(refused.unwrap_err(), Error::Precision);
}

#[test]
fn a_sampled_step_is_rounded_too() {
    let inputs = usual(30, 2000);
    let sample = ClassSampler::new(2000, 0.1, 1).unwrap().sample(&inputs.labels).unwrap();
    let run = |precision| {
        let head = Head::new(CosFace::default()).with_precision(precision);
        let batch = inputs.batch();
        let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
        head.forward_backward(&batch.with_sample(&sample), Reduction::Mean, &mut gradients)
            .unwrap();
        gradients
    };
    let (exact, found) = (run(Precision::Full), run(Precision::Bf16));
    let distance = relative_distance(&found.weights, &exact.weights);
    assert!((1e-4..0.02).contains(&distance), "{distance}");
}

#[test]
fn ranks_round_alike_or_refuse() {
    let inputs = usual(20, 600);
    let run = |precisions: [Precision; 2]| {
        on_ranks(&even(600, 2), |collective, range| {
            let precision = precisions[usize::from(range.start > 0)];
            with_shard(&inputs, &range, |shard| -> Result<(Forward<f32>, Array2<f32>), Error> {
                let mut gradients = Gradients::zeros_for(shard);
                let head = Head::on_ranks(CosFace::default(), collective, range.clone())
                    .with_precision(precision);
                let forward = head.forward_backward(shard, Reduction::Mean, &mut gradients)?;
                Ok((forward, gradients.embeddings))
            })
        })
    };
    let (_, exact) = inputs.by_head(&Head::new(CosFace::default()));
    for answer in run([Precision::Bf16; 2]) {
        let (_, embeddings) = answer.unwrap();
        // `by_head` sums the losses; here they are averaged.
        let distance = relative_distance(&(embeddings * 20.0), &exact.embeddings);
        assert!((1e-4..0.02).contains(&distance), "{distance}");
    }
    for answer in run([Precision::Full, Precision::Bf16]) {
        let reason = "the precision of the products is not that of rank 0".into();
        assert_eq!(answer.unwrap_err(), Error::Collective { rank: 1, reason });
    }
}
