//! The extremes, as facts: target angles of 0 and π and next to them, probabilities next to 1 and
//! 0, one class, norms at the ends of what is accepted, cosines that rounding put above 1, ties.
//!
//! Expected values and tolerances are those of `docs/math.md`: section 2 for angles of 0 and π,
//! section 4 for probabilities next to 0 and 1, section 9.2 for K = 16 and 2.2e-16/sin θ.

use std::f64::consts::{FRAC_PI_2, FRAC_PI_4, PI};

use crate::common::compare::{
    assert_forward, assert_gradients, assert_vector, epsilon, norm, wide,
};
use crate::common::golden::narrow2;
use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::run::Inputs;
use crate::common::spec::{Spec, menu};
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, Batch, CosFace, FNormSphereFace, Forward, Gradients, Head, MarginLoss,
    ModifiedSoftmax, NormalizedLogits, Real, Reduction, Scale, Softmax, SphereFace,
};
use ndarray::{Array1, Array2, array};

fn inputs<F: Real>(x: &Array2<f64>, w: &Array2<f64>, labels: &[usize]) -> Inputs<F> {
    let upstream = Array1::ones(labels.len());
    let problem =
        Problem { x: x.clone(), w: w.clone(), b: None, labels: labels.to_vec(), upstream };
    problem.inputs([Layout::Standard; 2])
}

/// Losses and gradients of both levels, for the sum of the losses.
fn both<F: Real>(
    loss: impl MarginLoss,
    x: &Array2<f64>,
    w: &Array2<f64>,
    labels: &[usize],
) -> [(Forward<F>, Gradients<F>); 2] {
    let inputs = inputs(x, w, labels);
    let (forward, _, gradients) = inputs.by_logits(&loss);
    [inputs.by_head(&Head::new(loss)), (forward, gradients)]
}

fn assert_near(what: &str, found: f64, expected: f64, tolerance: f64) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs(), "{what}: {found:e} for {expected:e}");
}

/// x = 2w and x = −2w under ArcFace: the target's cone has no direction, so only the other
/// class pulls, along the axis that it lies on. With C = 2 the share of the other class is σ.
fn check_on_its_class<F: Real>() {
    let (s, m): (f64, f64) = (16.0, 0.5);
    let w = array![[1.5, 0.0], [0.0, 4.0]];
    for (side, cos) in [(2.0_f64, m.cos()), (-2.0, m.cos() - 2.0)] {
        let x = array![[side * 1.5, 0.0]];
        for (forward, gradients) in both::<F>(ArcFace::new(s, m).unwrap(), &x, &w, &[0]) {
            // z = s cos(m) or s ψ(π + m), and 0 for the other class, at right angles.
            let d: f64 = -s * cos;
            let sigma = 1.0 / (1.0 + (-d).exp());
            // cos(m) is rounded to ε, so d is right to ε s.
            let tolerance = 16.0 * epsilon::<F>() * (1.0 + s);
            assert_near(
                "loss",
                wide(forward.losses[0]),
                d.max(0.0) + (-d.abs()).exp().ln_1p(),
                tolerance,
            );
            let expected = if side > 0.0 { 0.0 } else { wide(F::from(PI).unwrap()) };
            assert_eq!(wide(forward.target_angles()[0]), expected);
            assert_eq!(wide(gradients.embeddings[[0, 0]]), 0.0);
            assert_near("dx", wide(gradients.embeddings[[0, 1]]), s * sigma / 3.0, tolerance);
            assert_eq!(gradients.weights.row(0).to_vec(), vec![F::zero(); 2]);
            let toward = side.signum() * s * sigma / 4.0;
            assert_near("dw", wide(gradients.weights[[1, 0]]), toward, tolerance);
            assert_eq!(wide(gradients.weights[[1, 1]]), 0.0);
        }
    }
}

#[test]
fn gradient_is_finite_when_embedding_lies_on_its_class() {
    check_on_its_class::<f64>();
    check_on_its_class::<f32>();
}

/// θ = 1e-6 and π − 1e-6 in the plane, where everything can be written down: w = (1, 0), the
/// other class (0, 1), x = r(cos θ, sin θ), so that L = log(1 + exp(s sin θ − s f(θ))).
fn check_next_to_a_cone<F: Real>() {
    let (s, m): (f64, f64) = (64.0, 0.5);
    for side in [1.0, -1.0] {
        let x = array![[3.0 * side, 3e-6]].mapv(|v| wide(F::from(v).unwrap()));
        let w = array![[1.0, 0.0], [0.0, 1.0]];
        let (r, theta) = (x[[0, 0]].hypot(x[[0, 1]]), x[[0, 1]].atan2(x[[0, 0]]));
        let (sin, cos) = (x[[0, 1]] / r, x[[0, 0]] / r);
        let (f, slope) = if side > 0.0 {
            ((theta + m).cos(), -(theta + m).sin())
        } else {
            ((theta + m - PI).cos() - 2.0, -(theta + m - PI).sin())
        };
        let d: f64 = s * sin - s * f;
        let gradient = s / (1.0 + (-d).exp());
        let dx = array![-sin, cos] * (gradient * (cos - slope) / r);
        let dw = [array![0.0, gradient * slope], array![gradient * cos, 0.0]];
        let tolerance = 16.0 * (epsilon::<F>() * (1.0 + 3.0 * s) + 2.2e-16 / sin);
        for (forward, gradients) in both::<F>(ArcFace::new(s, m).unwrap(), &x, &w, &[0]) {
            let angle = wide(forward.target_angles()[0]);
            assert_near("angle", angle, theta, 2.0 * epsilon::<F>() + 1e-15 / theta);
            let loss = d.max(0.0) + (-d.abs()).exp().ln_1p();
            assert_near("loss", wide(forward.losses[0]), loss, tolerance);
            let expected = [dx.clone(), dw[0].clone(), dw[1].clone()];
            let found = gradients.embeddings.rows().into_iter().chain(gradients.weights.rows());
            for (found, expected) in found.zip(expected) {
                let error = norm((&found.mapv(wide) - &expected).view());
                assert!(error <= tolerance * norm(expected.view()), "{found:e} for {expected:e}");
            }
        }
    }
}

#[test]
fn an_angle_of_a_millionth_is_right() {
    check_next_to_a_cone::<f64>();
    check_next_to_a_cone::<f32>();
}

/// log(1 + e^−64) = 1.6e-28: the embedding on its class, the other class opposite, |x| = 32. Both
/// the loss and the gradient, −2σ along the embedding, keep their digits.
#[test]
fn losses_of_1e_28_are_right() {
    let (x, w) = (array![[32.0, 0.0]], array![[1.0, 0.0], [-3.0, 0.0]]);
    let expected = (-64.0_f64).exp().ln_1p();
    assert!(expected > 1e-28 && expected < 2e-28);
    for (forward, gradients) in both::<f64>(ModifiedSoftmax::new(), &x, &w, &[0]) {
        assert_near("loss", forward.losses[0], expected, 64.0 * f64::EPSILON);
        assert_near("dx", gradients.embeddings[[0, 0]], -2.0 * expected, 64.0 * f64::EPSILON);
    }
    for (forward, gradients) in both::<f32>(ModifiedSoftmax::new(), &x, &w, &[0]) {
        assert_near("loss", wide(forward.losses[0]), expected, 64.0 * epsilon::<f32>());
        let dx = wide(gradients.embeddings[[0, 0]]);
        assert_near("dx", dx, -2.0 * expected, 64.0 * epsilon::<f32>());
    }
}

/// Next to the other class and opposite its own: L = a(1 − f(π)) + log(1 + e^−…), to the digit.
fn check_opposite<F: Real>() {
    let (x, w) = (array![[-4.0, 0.0]], array![[1.0, 0.0], [-2.0, 0.0]]);
    let cases: [(Box<dyn MarginLoss>, f64); 5] = [
        (Box::new(CosFace::new(64.0, 0.35).unwrap()), 64.0 * 2.35),
        (Box::new(ArcFace::new(64.0, 0.5).unwrap()), 64.0 * (3.0 - 0.5_f64.cos())),
        (Box::new(FNormSphereFace::new(64.0, 4).unwrap()), 64.0 * 8.0),
        (Box::new(FNormSphereFace::new(1000.0, 6).unwrap()), 1000.0 * 12.0),
        (Box::new(SphereFace::new(4).unwrap()), 4.0 * 8.0),
    ];
    for (loss, d) in cases {
        for (forward, gradients) in both::<F>(&loss, &x, &w, &[0]) {
            let expected = d + (-d).exp().ln_1p();
            assert_near("loss", wide(forward.losses[0]), expected, 4.0 * epsilon::<F>());
            assert!(gradients.embeddings.iter().chain(&gradients.weights).all(|g| g.is_finite()));
            assert_eq!((forward.accuracy(), forward.predictions()), (0.0, &[1][..]));
        }
    }
}

#[test]
fn losses_are_not_capped() {
    check_opposite::<f64>();
    check_opposite::<f32>();
}

#[test]
fn one_class_costs_nothing_and_pulls_nowhere() {
    let mut rng = Rng::new(1);
    let (x, w) = (rng.matrix(5, 3), rng.matrix(1, 3));
    for spec in menu() {
        for (forward, gradients) in both::<f32>(spec.build(), &x, &w, &[0; 5]) {
            assert_eq!(forward.losses, Array1::<f32>::zeros(5), "{spec:?}");
            assert_eq!(gradients.embeddings, Array2::<f32>::zeros((5, 3)), "{spec:?}");
            assert_eq!(gradients.weights, Array2::<f32>::zeros((1, 3)), "{spec:?}");
            assert_eq!((forward.mean(), forward.accuracy()), (0.0, 1.0), "{spec:?}");
        }
    }
}

/// Six embeddings and eight classes of norms anywhere in these ranges.
fn with_norms<F: Real>(spec: &Spec, x: [f64; 2], w: [f64; 2]) -> Problem {
    let mut rng = Rng::new(31);
    let stretched = |rng: &mut Rng, rows: usize, [least, most]: [f64; 2]| {
        let mut out = rng.matrix(rows, 5);
        out.rows_mut().into_iter().for_each(|mut row| row *= rng.decades(least, most));
        out
    };
    let (x, w) = (stretched(&mut rng, 6, x), stretched(&mut rng, 8, w));
    let b = (spec.scale() == Scale::Unnormalized).then(|| rng.vector(8));
    let (labels, upstream) = (rng.labels(6, 8), rng.vector(6));
    Problem { x, w, b, labels, upstream }.rounded::<F>()
}

/// Norms over the range that is accepted, but for some room for the scale: products of two of
/// them leave the type's range, losses and gradients do not. Where the norm is in the scale it
/// goes up to 100 only, so that not every loss is that of one class alone.
fn check_norms<F: Real>(range: [f64; 2]) {
    for spec in menu() {
        let [least, most] = range;
        let (x, w) = match spec.scale() {
            Scale::Fixed(_) => (range, range),
            Scale::FeatureNorm => ([least, 100.0], range),
            Scale::Unnormalized => ([least, 100.0], [least, 1.0]),
            other => unreachable!("{other:?}"),
        };
        let problem = with_norms::<F>(&spec, x, w);
        let answer = problem.solve(&spec);
        let inputs = problem.inputs::<F>([Layout::Standard; 2]);
        let (forward, gradients) = inputs.by_head(&Head::new(spec.build()));
        assert_forward(&format!("head {spec:?}"), &forward, &problem.labels, &answer);
        assert_gradients(&format!("head {spec:?}"), &gradients, &answer);
        let (forward, _, gradients) = inputs.by_logits(&spec.build());
        assert_forward(&format!("logits {spec:?}"), &forward, &problem.labels, &answer);
        let mut numbers = gradients.embeddings.iter().chain(&gradients.weights);
        assert!(numbers.all(|g| g.is_finite()), "logits {spec:?}");

        // The gradient of a cosine holds |x|, for Softmax |x||w|; divided by |w| or carried on as
        // it is, it keeps its digits where that does not underflow.
        let (x, w) = match spec.scale() {
            Scale::Fixed(_) => (x, w),
            Scale::FeatureNorm => ([least.sqrt(), 100.0], [least.sqrt(), most.sqrt()]),
            Scale::Unnormalized => ([least.sqrt(), 1.0], [least.sqrt(), 1.0]),
            other => unreachable!("{other:?}"),
        };
        let problem = with_norms::<F>(&spec, x, w);
        let answer = problem.solve(&spec);
        let (forward, _, gradients) =
            problem.inputs::<F>([Layout::Standard; 2]).by_logits(&spec.build());
        assert_forward(&format!("logits {spec:?}"), &forward, &problem.labels, &answer);
        assert_gradients(&format!("logits {spec:?}"), &gradients, &answer);
    }
}

#[test]
fn every_accepted_norm_gives_right_gradients_in_f64() {
    check_norms::<f64>([1e-280, 1e280]);
}

#[test]
fn every_accepted_norm_gives_right_gradients_in_f32() {
    check_norms::<f32>([1e-25, 1e25]);
}

/// A target's cosine above 1 is an angle of 0; any other cosine is taken as it comes.
fn check_cosines_above_one<F: Real>(excess: f64) {
    let logits = |target: f64, other: f64| {
        NormalizedLogits::<F>::from_cosines(narrow2(array![[target, other]])).unwrap()
    };
    for loss in [ArcFace::new(16.0, 0.5).unwrap(), ArcFace::new(16.0, 0.0).unwrap()] {
        let loss_of = |logits| {
            let forward: Forward<F> = loss.forward(&logits, &[0]).unwrap();
            (wide(forward.losses[0]), wide(forward.target_angles()[0]))
        };
        assert_eq!(loss_of(logits(1.0 + excess, 0.2)), loss_of(logits(1.0, 0.2)));
        assert_eq!(loss_of(logits(-1.0 - excess, 0.2)), loss_of(logits(-1.0, 0.2)));
        assert_eq!(loss_of(logits(1.0 + excess, 0.2)).1, 0.0);
        let other = wide(F::from(1.0 + excess).unwrap());
        let d = 16.0 * (other + loss.m().sin());
        let loss = loss_of(logits(0.0, 1.0 + excess)).0;
        assert_near("loss", loss, d + (-d).exp().ln_1p(), 16.0 * epsilon::<F>());
    }
}

#[test]
fn cosines_slightly_above_one_are_rounding() {
    check_cosines_above_one::<f64>(f64::EPSILON);
    check_cosines_above_one::<f64>(9.9e-4);
    check_cosines_above_one::<f32>(f32::EPSILON.into());
    check_cosines_above_one::<f32>(9.9e-4);
}

/// Where the margin has no derivative by the cosine its entry is 0; where it has one, however
/// steep, the entry is that; where the slope vanishes with the sine, it is the limit: m² for
/// SphereFace at θ = 0.
#[test]
fn target_entries_of_cosine_gradients_are_finite_at_every_angle() {
    for spec in menu() {
        let loss = spec.build();
        for theta in [0.0, 1e-300, 1e-15, 1e-9, 1e-3, 1.0, FRAC_PI_2, PI - 1e-9, PI] {
            let (x, w) = (array![[theta.cos(), theta.sin()]], array![[2.0, 0.0], [0.0, 1.0]]);
            let inputs = inputs::<f64>(&x, &w, &[0]);
            let gradients = inputs.by_logits(&loss).1;
            assert!(gradients.cosines[[0, 0]].is_finite(), "{spec:?} at {theta}");
            let from_cosines = NormalizedLogits::from_cosines(inputs.logits().cosines().clone());
            let logits = from_cosines.unwrap();
            let forward = loss.forward(&logits, &[0]).unwrap();
            let gradients = loss.backward(&logits, &[0], &forward, Reduction::Sum).unwrap();
            assert!(gradients.cosines[[0, 0]].is_finite(), "{spec:?} at {theta}");
            assert!(gradients.target_angles[0].is_finite(), "{spec:?} at {theta}");
        }
    }
    let (x, w) = (array![[2.0, 0.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let target =
        |spec: Spec| inputs::<f64>(&x, &w, &[0]).by_logits(&spec.build()).1.cosines[[0, 0]];
    let sigma = 1.0 / (1.0 + 2.0_f64.exp());
    // The slope is taken next to 0, where it is m² (1 − O(m²·1e-12)).
    assert_near("dcos", target(Spec::Sphere { m: 3, lambda: 0.0 }), -2.0 * 9.0 * sigma, 1e-11);
    assert_near("dcos", target(Spec::Modified), -2.0 * sigma, 1e-11);
    assert_eq!(target(Spec::Arc { s: 64.0, m: 0.5, continuation: Continuation::Monotone }), 0.0);
}

/// The margin makes the loss large, but the nearest class is the sample's own.
#[test]
fn accuracy_and_angles_know_no_margin() {
    let (x, w) = (array![[1.0, 0.9], [0.9, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    for (forward, _) in both::<f32>(CosFace::new(64.0, 0.5).unwrap(), &x, &w, &[0, 0]) {
        assert!(forward.losses.iter().all(|&loss| loss > 20.0));
        assert_eq!((forward.accuracy(), forward.predictions()), (0.5, &[0, 1][..]));
        let expected = array![0.9_f64.atan(), 1.0_f64.atan2(0.9)];
        assert_vector("angles", forward.target_angles(), &expected, &expected, 1e-7);
    }
}

/// Of classes that are equally near the lowest is taken, whether a sample's own or not, in one
/// tile or many. Entries of ±1 make every product exact.
#[test]
fn ties_go_to_the_lowest_class() {
    let x = array![[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]];
    for classes in [8, 600, 1030] {
        // Classes 0, 4, 8 … look along (−1, −1), the next along (1, 1), (1, −1), (−1, 1).
        let directions = [[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]];
        let w = Array2::from_shape_fn((classes, 2), |(j, k)| directions[j % 4][k]);
        let labels = [1, 2, classes - 3, 0, classes - 4];
        for spec in [Spec::Softmax, Spec::Modified, Spec::Cos { s: 64.0, m: 0.35 }] {
            for (forward, _) in both::<f32>(spec.build(), &x, &w, &labels) {
                assert_eq!(forward.predictions(), [1, 2, 1, 3, 1], "{spec:?}, {classes} classes");
                assert_eq!(forward.accuracy(), 0.4, "{spec:?}, {classes} classes");
            }
        }
    }
}

/// The mean is that of the losses, whatever weights the reduction gives to their gradients.
#[test]
fn mean_and_sum_are_those_of_the_losses() {
    let (x, w) = (array![[1.0, 0.0], [1.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
    let batch = Batch::new(&x, &w, &[0, 1]);
    let (head, weights) = (Head::new(ModifiedSoftmax::new()), array![5.0, -3.0]);
    let mut gradients = Gradients::zeros_for(&batch);
    let reduction = Reduction::Weighted(&weights);
    let forward = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
    let expected = array![(-1.0_f64).exp().ln_1p(), 2.0_f64.ln()];
    assert_vector("losses", &forward.losses, &expected, &expected, 1e-15);
    assert_near("sum", forward.sum(), expected.sum(), 1e-15);
    assert_near("mean", forward.mean(), expected.sum() / 2.0, 1e-15);
    assert_near("angle", forward.target_angles()[1], FRAC_PI_4, 1e-15);
}

/// The logits are the same whatever the embeddings are multiplied by, if the class weights are
/// divided by it; the gradients go the other way. The ratio of the norms is out of range here.
#[test]
fn softmax_takes_embeddings_and_class_weights_of_opposite_magnitudes() {
    let matrix = |rows: usize, turn: f64| {
        Array2::from_shape_fn((rows, 5), |(i, k)| (turn * (5 * i + k + 1) as f64).sin())
    };
    let (x, w, labels) = (matrix(6, 0.7), matrix(4, 1.9), [0, 3, 2, 2, 1, 0]);
    let by_head = |x: &Array2<f64>, w: &Array2<f64>| {
        let batch = Batch::new(x, w, &labels);
        let mut gradients = Gradients::zeros_for(&batch);
        let head = Head::new(Softmax::new());
        head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
        gradients
    };
    let by_logits = |x: &Array2<f64>, w: &Array2<f64>| {
        let (loss, logits) = (Softmax::new(), NormalizedLogits::new(x, w).unwrap());
        let forward = loss.forward(&logits, &labels).unwrap();
        let gradients = loss.backward(&logits, &labels, &forward, Reduction::Sum).unwrap();
        logits.backward(&gradients).unwrap()
    };
    let expected = by_head(&x, &w);
    for factor in [2.0_f64.powi(700), 0.5_f64.powi(700)] {
        let (x, w) = (&x * factor, &w / factor);
        for found in [by_head(&x, &w), by_logits(&x, &w)] {
            let (embeddings, weights) = (&found.embeddings * factor, &found.weights / factor);
            approx::assert_abs_diff_eq!(embeddings, expected.embeddings, epsilon = 1e-13);
            approx::assert_abs_diff_eq!(weights, expected.weights, epsilon = 1e-13);
        }
    }
}
