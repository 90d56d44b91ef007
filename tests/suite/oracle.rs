//! The naive oracle against the golden cases, and both levels of the crate against the oracle.

use std::sync::Arc;

use crate::common::compare::{
    assert_forward, assert_gradients, assert_rows, assert_vector, epsilon,
};
use crate::common::golden::cases;
use crate::common::layout::{LAYOUTS, Layout};
use crate::common::oracle::{Answer, Problem};
use crate::common::random::Rng;
use crate::common::spec::{Spec, menu};
use margin_softmax::{Head, Real, Reduction, Scale};
use ndarray::{Array1, Array2};

/// The oracle is held to the golden cases as the crate is: each gradient array relative to its
/// own largest entry.
#[test]
fn oracle_agrees_with_golden_cases() {
    for case in cases() {
        let answer = case.problem().solve(&case.spec());
        let losses = case.vector("losses").unwrap();
        let tolerance = case.loss_tolerance(f64::EPSILON);
        assert_vector(&case.id, &answer.losses, &losses, &losses, tolerance);
        let tolerance = case.tolerance(f64::EPSILON);
        for (field, found) in [("dx", &answer.dx), ("dw", &answer.dw)] {
            let expected = case.matrix(field).unwrap();
            let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            let sizes = Array1::from_elem(expected.nrows(), largest);
            assert_rows(&format!("{} {field}", case.id), found, &expected, &sizes, tolerance);
        }
        if let Some(expected) = case.vector("db") {
            let sizes = Array1::ones(expected.len());
            assert_vector(&case.id, &answer.db, &expected, &sizes, tolerance);
        }
        if let Some(expected) = case.vector("theta_target") {
            let size = Array1::ones(expected.len());
            assert_vector(&case.id, &answer.angles, &expected, &size, 1e-15);
        }
    }
}

/// (samples, dimensions, classes): one of everything, N above and below D, one class, one
/// dimension, tiles that are full, begun and several to a chunk, chunks that are several.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 1, 1),
    (1, 3, 2),
    (3, 1, 5),
    (5, 8, 1),
    (4, 7, 3),
    (9, 2, 6),
    (2, 16, 300),
    (17, 17, 513),
    (33, 40, 700),
    (40, 5, 257),
    (64, 3, 700),
    (70, 12, 600),
    (5, 2, 9000),
    (3, 4, 9000),
];

/// Embeddings of norms 0.3 … 12, every third one near its class; labels from all over
/// the classes, many of them twice.
fn problem(rng: &mut Rng, (n, d, c): (usize, usize, usize), spec: &Spec) -> Problem {
    let w = Array2::from_shape_simple_fn((c, d), || rng.uniform(-1.5, 1.5));
    let pool = rng.labels(1 + n / 2, c);
    let labels: Vec<usize> = (0..n).map(|_| rng.pick(&pool)).collect();
    let mut x = rng.matrix(n, d);
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        if i % 3 == 0 {
            row.scaled_add(2.0, &w.row(labels[i]));
        }
        let norm = row.dot(&row).sqrt();
        row *= rng.decades(0.3, 12.0) / norm;
    }
    let b = (spec.scale() == Scale::Unnormalized).then(|| rng.vector(c));
    Problem { x, w, b, labels, upstream: rng.vector(n) }
}

/// Budgets under which no logits are stored, those of some classes are, and all are. At 9000
/// classes the second ends within a chunk.
fn budgets<F>(n: usize, classes: usize) -> [usize; 3] {
    [0, n * (classes * 7 / 30).max(300) * size_of::<F>(), 256 << 20]
}

/// Runs `check` on every shape with every loss; also counts how often, so that a layout or a
/// reduction can take turns.
fn sweep<F: Real>(mut check: impl FnMut(usize, &str, &Spec, &Problem)) {
    let mut rng = Rng::new(2024);
    let mut turn = 0;
    for shape in SHAPES {
        for spec in menu() {
            let problem = problem(&mut rng, shape, &spec).rounded::<F>();
            check(turn, &format!("{shape:?} {spec:?}"), &spec, &problem);
            turn += 1;
        }
    }
}

/// Layouts of X, W and their gradients; all 256 combinations come by within 256 turns.
fn layouts(turn: usize) -> [Layout; 4] {
    [1, 4, 16, 64].map(|step| LAYOUTS[turn / step % 4])
}

fn check_head<F: Real>() {
    sweep::<F>(|turn, what, spec, problem| {
        let [lx, lw, lgx, lgw] = layouts(turn);
        let inputs = problem.inputs::<F>([lx, lw]);
        let (n, mut weighted) = (problem.labels.len(), problem.clone());
        let (reduction, upstream) = match turn % 3 {
            0 => (Reduction::Weighted(&inputs.upstream), None),
            1 => (Reduction::Sum, Some(1.0)),
            _ => (Reduction::Mean, Some(1.0 / n as f64)),
        };
        upstream.into_iter().for_each(|g| weighted.upstream.fill(g));
        let answer = weighted.solve(spec);
        for budget in budgets::<F>(n, problem.w.nrows()) {
            let what = format!("{what} {budget} bytes {:?} {reduction:?}", layouts(turn));
            let head = Head::new(Arc::new(spec.build())).with_memory_budget(budget);
            for head in head.at_every_level() {
                let mut gradients = inputs.gradients([lgx, lgw]);
                let forward =
                    head.forward_backward(&inputs.batch(), reduction, &mut gradients).unwrap();
                assert_forward(&what, &forward, &problem.labels, &answer);
                assert_gradients(&what, &gradients, &answer);
                let alone = head.forward(&inputs.batch()).unwrap();
                assert_eq!(alone, forward, "{what}: forward alone says something else");
            }
        }
    });
}

fn check_logits<F: Real>() {
    sweep::<F>(|turn, what, spec, problem| {
        let [lx, lw, ..] = layouts(turn);
        let answer = problem.solve(spec);
        let inputs = problem.inputs::<F>([lx, lw]);
        let (forward, by_logit, gradients) = inputs.by_logits(&spec.build());
        assert_forward(what, &forward, &problem.labels, &answer);
        assert_gradients(what, &gradients, &answer);
        assert_logit_gradients(what, &by_logit, &problem.labels, &answer);
    });
}

/// What the materialized level says of cosines, target angles and norms.
fn assert_logit_gradients<F: Real>(
    what: &str,
    found: &margin_softmax::LogitGradients<F>,
    labels: &[usize],
    answer: &Answer,
) {
    let tolerance = answer.tolerance(epsilon::<F>());
    let mut others = found.cosines.clone();
    for (i, &label) in labels.iter().enumerate() {
        others[[i, label]] = F::zero();
    }
    let sizes = answer.dcos.map_axis(ndarray::Axis(1), |row| row.dot(&row).sqrt());
    assert_rows(&format!("{what}: dcos"), &others, &answer.dcos, &sizes, tolerance);
    let angles = &found.target_angles;
    let sizes = &answer.size_theta;
    assert_vector(&format!("{what}: dtheta"), angles, &answer.dtheta, sizes, tolerance);
    let norms = &found.feature_norms;
    assert_vector(&format!("{what}: dr"), norms, &answer.dr, &answer.size_x, tolerance);
    let norms = &found.weight_norms;
    assert_vector(&format!("{what}: dq"), norms, &answer.dq, &answer.size_w, tolerance);
}

#[test]
fn head_agrees_with_the_oracle_in_f64() {
    check_head::<f64>();
}

#[test]
fn head_agrees_with_the_oracle_in_f32() {
    check_head::<f32>();
}

#[test]
fn logits_agree_with_the_oracle_in_f64() {
    check_logits::<f64>();
}

#[test]
fn logits_agree_with_the_oracle_in_f32() {
    check_logits::<f32>();
}
