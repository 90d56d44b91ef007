//! Invariants of `docs/math.md`, section 1.6, and bounds of section 3, on random and adversarial
//! cases: target angles down to 1e-12 and exactly 0 and π, norms 1e-6 … 1e3, scales 1 … 1000,
//! margins across their ranges, one class and more, labels that repeat, views in any layout.
//!
//! 10,000 cases in each type, each at both levels. The seed is fixed, so that every run sees
//! the same cases, and nothing is written to disk.

use std::f64::consts::PI;

use crate::common::compare::{assert_rows, assert_vector, epsilon, norm, tiny, wide};
use crate::common::golden::narrow1;
use crate::common::layout::{LAYOUTS, Layout};
use crate::common::oracle::{Answer, Problem};
use crate::common::random::Rng;
use crate::common::spec::Spec;
use margin_softmax::losses::Continuation;
use margin_softmax::{Forward, Gradients, Head, LogitGradients, Real, Scale};
use ndarray::{Array1, Array2, ArrayView1};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_240_817),
        ..Config::default()
    }
}

fn continuations() -> impl Strategy<Value = Continuation> {
    use Continuation::{EasyMargin, Linear, Monotone, Raw};
    prop_oneof![4 => Just(Monotone), 1 => Just(Raw), 1 => Just(Linear), 1 => Just(EasyMargin)]
}

/// Scales 1 … 1000, each decade as likely; the ends too.
fn scales() -> impl Strategy<Value = f64> {
    let any = (0.0..3.0).prop_map(|e: f64| 10.0_f64.powf(e));
    prop_oneof![8 => any, 1 => Just(1.0), 1 => Just(1000.0)]
}

fn lambdas() -> impl Strategy<Value = f64> {
    prop_oneof![2 => Just(0.0), 1 => 0.0..10.0, 1 => Just(1000.0)]
}

fn specs() -> impl Strategy<Value = Spec> {
    let general =
        (scales(), any::<bool>(), 0.1..5.0, 0.0..3.0, -1.0..1.0, lambdas(), continuations())
            .prop_map(|(s, fixed, m0, m1, m2, lambda, continuation)| {
                let any_factor = matches!(continuation, Continuation::Monotone | Continuation::Raw);
                let scale = if fixed { Scale::Fixed(s) } else { Scale::FeatureNorm };
                let m = [if any_factor { m0 } else { 1.0 }, m1, m2];
                Spec::General { scale, m, lambda, continuation }
            });
    prop_oneof![
        Just(Spec::Softmax),
        Just(Spec::Modified),
        (1..=6_u32, lambdas()).prop_map(|(m, lambda)| Spec::Sphere { m, lambda }),
        (scales(), 1..=6_u32, lambdas()).prop_map(|(s, m, lambda)| Spec::FNorm { s, m, lambda }),
        (scales(), -0.5..1.0).prop_map(|(s, m)| Spec::Cos { s, m }),
        (scales(), 0.0..1.5, continuations()).prop_map(|(s, m, continuation)| Spec::Arc {
            s,
            m,
            continuation
        }),
        general
    ]
}

/// Target angles: anywhere, tiny or tiny short of π, and exactly 0 and π.
fn angles() -> impl Strategy<Value = f64> {
    let tiny = || (-12.0..-1.0).prop_map(|e: f64| 10.0_f64.powf(e));
    prop_oneof![
        3 => 0.0..PI, 2 => tiny(), 2 => tiny().prop_map(|t| PI - t), 1 => Just(0.0), 1 => Just(PI)
    ]
}

fn layouts() -> impl Strategy<Value = [Layout; 2]> {
    (0..4_usize, 0..4_usize).prop_map(|(x, w)| [LAYOUTS[x], LAYOUTS[w]])
}

/// A loss, a batch and its layouts.
#[derive(Debug, Clone)]
struct Scenario {
    spec: Spec,
    angles: Vec<f64>,
    dims: usize,
    classes: usize,
    layouts: [Layout; 2],
    seed: u64,
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    (
        specs(),
        prop::collection::vec(angles(), 1..6),
        1..9_usize,
        1..9_usize,
        layouts(),
        any::<u64>(),
    )
        .prop_map(|(spec, angles, dims, classes, layouts, seed)| Scenario {
            spec,
            angles,
            dims,
            classes,
            layouts,
            seed,
        })
}

impl Scenario {
    /// The numbers. Half of the time a class weight lies along an axis, so that an angle of 1e-12
    /// to it survives rounding to f32; labels repeat as often as samples outnumber classes.
    fn problem(&self) -> Problem {
        let mut rng = Rng::new(self.seed);
        let mut w = Array2::zeros((self.classes, self.dims));
        for mut row in w.rows_mut() {
            let direction = if rng.below(2) == 0 {
                let mut axis = Array1::zeros(self.dims);
                axis[rng.below(self.dims)] = rng.pick(&[-1.0, 1.0]);
                axis
            } else {
                rng.unit(self.dims)
            };
            row.assign(&(direction * rng.decades(1e-6, 1e3)));
        }
        let labels = rng.labels(self.angles.len(), self.classes);
        let mut x = Array2::zeros((self.angles.len(), self.dims));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&self.embedding(&mut rng, w.row(labels[i]), self.angles[i]));
        }
        let b = (self.spec == Spec::Softmax).then(|| rng.vector(self.classes) * 5.0);
        let upstream = Array1::ones(self.angles.len());
        Problem { x, w, b, labels, upstream }
    }

    fn embedding(&self, rng: &mut Rng, w: ArrayView1<f64>, theta: f64) -> Array1<f64> {
        let length = rng.decades(1e-6, 1e3);
        // A power of two keeps the direction exactly.
        let along = length.log2().round().exp2() / norm(w).log2().round().exp2();
        if theta == 0.0 {
            &w * along
        } else if theta == PI {
            &w * -along
        } else if self.dims == 1 {
            &w * (length / norm(w) * theta.cos().signum())
        } else {
            rng.at_angle(&w.to_owned(), theta, length)
        }
    }
}

/// What both levels say of a scenario in one type.
struct StepResult<F> {
    problem: Problem,
    answer: Answer,
    head: (Forward<F>, Gradients<F>),
    logits: (Forward<F>, LogitGradients<F>, Gradients<F>),
}

fn run<F: Real>(scenario: &Scenario) -> StepResult<F> {
    let problem = scenario.problem().rounded::<F>();
    let inputs = problem.inputs::<F>(scenario.layouts);
    let loss = scenario.spec.build();
    let (head, logits) = (inputs.by_head(&Head::new(&loss)), inputs.by_logits(&loss));
    StepResult { answer: problem.solve(&scenario.spec), problem, head, logits }
}

impl<F: Real> StepResult<F> {
    fn levels(&self) -> [(&Forward<F>, &Gradients<F>); 2] {
        [(&self.head.0, &self.head.1), (&self.logits.0, &self.logits.2)]
    }

    /// |x|, |w| of the rounded numbers.
    fn norms(&self) -> (Array1<f64>, Array1<f64>) {
        let norms = |m: &Array2<f64>| m.rows().into_iter().map(norm).collect();
        (norms(&self.problem.x), norms(&self.problem.w))
    }
}

fn widen<F: Real>(matrix: &Array2<F>) -> Array2<f64> {
    matrix.mapv(wide)
}

/// Every number that comes out.
fn assert_finite<F: Real>(found: &StepResult<F>) {
    for (forward, gradients) in found.levels() {
        let numbers = forward.losses.iter().chain(forward.target_angles());
        let numbers = numbers.chain(&gradients.embeddings).chain(&gradients.weights);
        assert!(numbers.chain(gradients.bias.iter().flatten()).all(|v| v.is_finite()));
        assert!(forward.mean().is_finite() && forward.sum().is_finite());
    }
    let by_logit = &found.logits.1;
    let numbers = by_logit.cosines.iter().chain(&by_logit.target_angles);
    let numbers = numbers.chain(&by_logit.feature_norms).chain(&by_logit.weight_norms);
    assert!(numbers.chain(by_logit.bias.iter().flatten()).all(|v| v.is_finite()));
}

/// The bounds, per sample and per class, as functions of σ = 1 − p = −expm1(−L).
fn assert_bounds<F: Real>(spec: &Spec, found: &StepResult<F>) {
    let (r, q) = found.norms();
    let Problem { w, labels, .. } = &found.problem;
    let steep = spec.steepest();
    let (low, high) = spec.range();
    let slack = 1.0 + 64.0 * epsilon::<F>();
    let below = |what: &str, value: f64, bound: f64| {
        assert!(value <= bound * slack + tiny::<F>(), "{what}: {value:e} exceeds {bound:e}");
    };
    for (forward, gradients) in found.levels() {
        let sigma = forward.losses.mapv(|loss| -(-wide(loss)).exp_m1());
        let (dx, dw) = (widen(&gradients.embeddings), widen(&gradients.weights));
        let (mut own, mut other) = (Array1::zeros(q.len()), 0.0);
        for (i, &label) in labels.iter().enumerate() {
            let (scale, bound) = match spec.scale() {
                Scale::Fixed(s) => (s, s / r[i] * (1.0 + steep)),
                Scale::FeatureNorm => (r[i], 1.0 + steep.hypot(low.abs().max(high.abs()))),
                Scale::Unnormalized => {
                    let gaps = w.rows().into_iter().map(|row| norm((&row - &w.row(label)).view()));
                    (r[i], gaps.fold(0.0, f64::max))
                }
                other => unreachable!("{other:?}"),
            };
            below("dx", norm(dx.row(i)), sigma[i] * bound);
            own[label] += sigma[i] * scale * if *spec == Spec::Softmax { 1.0 } else { steep };
            other += sigma[i] * scale;
            if *spec != Spec::Softmax {
                assert_loss_within::<F>(wide(forward.losses[i]), q.len(), scale, (low, high));
            }
        }
        // The gradient of a class: its own samples' tangents, and its share of all the others.
        let lever = |j: usize| if *spec == Spec::Softmax { 1.0 } else { q[j] };
        for (j, row) in dw.rows().into_iter().enumerate() {
            let others = labels.iter().zip(&sigma).zip(&r).filter(|((label, _), _)| **label != j);
            let others = others.map(|((_, sigma), r)| match spec.scale() {
                Scale::Fixed(s) => sigma * s,
                _ => sigma * r,
            });
            below("dw", lever(j) * norm(row), own[j] + others.sum::<f64>());
        }
        if let [label] = labels[..] {
            let rest = dw.rows().into_iter().enumerate().filter(|(j, _)| *j != label);
            let rest = rest.map(|(j, row)| lever(j) * norm(row)).sum();
            below("dw of the target", lever(label) * norm(dw.row(label)), own[label]);
            below("dw of all others", rest, other);
        }
        for (j, db) in gradients.bias.iter().flatten().enumerate() {
            below(&format!("db[{j}]"), wide(*db).abs(), sigma.sum());
        }
    }
}

/// log(1 + (C−1) e^{−a(1 + sup f)}) ≤ L ≤ log(1 + (C−1) e^{a(1 − inf f)}), both in the form that
/// neither overflows nor cancels. A logit is right to a few ε of its size, so the exponents are.
fn assert_loss_within<F: Real>(loss: f64, classes: usize, a: f64, (low, high): (f64, f64)) {
    let softplus = |d: f64| d.max(0.0) + (-d.abs()).exp().ln_1p();
    let count = (classes as f64 - 1.0).ln();
    let slack = 16.0 * epsilon::<F>() * (1.0 + a * (1.0 + low.abs().max(high.abs())));
    let most = softplus(count + a * (1.0 - low) + slack);
    let least = softplus(count - a * (1.0 + high) - slack);
    let slack = 16.0 * epsilon::<F>();
    assert!(loss <= most * (1.0 + slack) + tiny::<F>(), "loss {loss:e} exceeds {most:e}");
    assert!(loss >= least * (1.0 - slack) - tiny::<F>(), "loss {loss:e} is below {least:e}");
}

/// Gradients are at right angles to what was normalized away, follow Euler's relation along what
/// was not, and sum to zero over the classes of Softmax. Rounding is relative to the terms that
/// cancel: at most 16 samples and classes, 8 dimensions.
fn assert_invariants<F: Real>(spec: &Spec, found: &StepResult<F>) {
    let (r, q) = found.norms();
    let tolerance = 32.0 * epsilon::<F>();
    let answer = &found.answer;
    let along =
        |g: &Array2<F>, m: &Array2<f64>| narrow1::<F>((widen(g) * m).sum_axis(ndarray::Axis(1)));
    let by_logit = &found.logits.1;
    for (_, gradients) in found.levels() {
        let radial = along(&gradients.embeddings, &found.problem.x);
        let expected = match spec.scale() {
            Scale::Fixed(_) => Array1::zeros(r.len()),
            _ => by_logit.feature_norms.mapv(wide) * &r,
        };
        // The norm's gradient and the embedding's come from logits that each are right to ε a.
        let reach = 1.0 + answer.reach.iter().fold(0.0_f64, |m, &v| m.max(v));
        let room = if matches!(spec.scale(), Scale::Fixed(_)) { 1.0 } else { reach };
        let sizes = &answer.size_x * &r;
        assert_vector("x·dx", &radial, &expected, &sizes, tolerance * room);
        if *spec == Spec::Softmax {
            let sum = narrow1::<F>(widen(&gradients.weights).sum_axis(ndarray::Axis(0)));
            let size = Array1::from_elem(sum.len(), answer.size_w.sum());
            assert_vector("Σ dw", &sum, &Array1::zeros(sum.len()), &size, tolerance);
            let sum: f64 = gradients.bias.iter().flatten().map(|&v| wide(v)).sum();
            assert!(sum.abs() <= tolerance * answer.size_b.sum() + tiny::<F>(), "Σ db is {sum:e}");
        } else {
            let radial = along(&gradients.weights, &found.problem.w);
            let sizes = &answer.size_w * &q;
            assert_vector("w·dw", &radial, &Array1::zeros(q.len()), &sizes, tolerance);
        }
    }
}

/// Powers of two scale exactly: where a norm is normalized away, losses stay as they are and
/// gradients scale by the inverse. Only the sums' rounding may differ.
fn assert_scale_invariance<F: Real>(spec: &Spec, found: &StepResult<F>, layouts: [Layout; 2]) {
    if *spec == Spec::Softmax {
        return;
    }
    let mut scaled = found.problem.clone();
    let powers = |i: usize| [8.0, 0.25, 1.0, 2.0][i % 4];
    for (j, mut row) in scaled.w.rows_mut().into_iter().enumerate() {
        row *= powers(j);
    }
    let fixed = matches!(spec.scale(), Scale::Fixed(_));
    for (i, mut row) in scaled.x.rows_mut().into_iter().enumerate() {
        row *= if fixed { powers(i + 1) } else { 1.0 };
    }
    let (forward, gradients) = scaled.inputs::<F>(layouts).by_head(&Head::new(spec.build()));
    let answer = &found.answer;
    let tolerance =
        8.0 * epsilon::<F>() * (1.0 + answer.reach.iter().fold(0.0, |m: f64, v| m.max(*v)));
    let losses = found.head.0.losses.mapv(wide);
    assert_vector("losses, scaled", &forward.losses, &losses, &losses, tolerance);
    let mut dx = widen(&found.head.1.embeddings);
    let mut dw = widen(&found.head.1.weights);
    let (mut size_x, mut size_w) = (answer.size_x.clone(), answer.size_w.clone());
    for i in 0..dx.nrows() {
        let power = if fixed { powers(i + 1) } else { 1.0 };
        dx.row_mut(i).mapv_inplace(|v| v / power);
        size_x[i] /= power;
    }
    for j in 0..dw.nrows() {
        dw.row_mut(j).mapv_inplace(|v| v / powers(j));
        size_w[j] /= powers(j);
    }
    assert_rows("dx, scaled", &gradients.embeddings, &dx, &size_x, tolerance);
    assert_rows("dw, scaled", &gradients.weights, &dw, &size_w, tolerance);
}

/// Both levels return the same, but for rounding.
fn assert_levels_agree<F: Real>(found: &StepResult<F>) {
    let answer = &found.answer;
    let tolerance = answer.tolerance(epsilon::<F>());
    let [(forward, gradients), (by_logits, through)] = found.levels();
    let losses = forward.losses.mapv(wide);
    assert_vector("losses", &by_logits.losses, &losses, &losses, tolerance);
    assert_eq!(forward.target_angles(), by_logits.target_angles());
    let (dx, dw) = (widen(&gradients.embeddings), widen(&gradients.weights));
    assert_rows("dx", &through.embeddings, &dx, &answer.size_x, tolerance);
    assert_rows("dw", &through.weights, &dw, &answer.size_w, tolerance);
}

fn check<F: Real>(scenario: &Scenario) {
    let found = run::<F>(scenario);
    assert_finite(&found);
    assert_bounds(&scenario.spec, &found);
    assert_invariants(&scenario.spec, &found);
    assert_scale_invariance(&scenario.spec, &found, scenario.layouts);
    assert_levels_agree(&found);
}

proptest! {
    #![proptest_config(config(10_000))]

    #[test]
    fn invariants_and_bounds_hold_in_f64(scenario in scenarios()) {
        check::<f64>(&scenario);
    }

    #[test]
    fn invariants_and_bounds_hold_in_f32(scenario in scenarios()) {
        check::<f32>(&scenario);
    }
}
