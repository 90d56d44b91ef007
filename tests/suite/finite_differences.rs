//! Every gradient against central differences of the losses, in f64, within 1e-7.
//!
//! The stencil is of order 8: f'(0) ≈ Σ_k c_k (f(kh) − f(−kh))/h with c below, off by
//! h⁸f⁽⁹⁾/630. A loss is a smooth function of the angles times the scale, so its derivatives grow
//! as those of a logistic function of a·m0·h/r: like 8!·2/π⁹ (a·m0/r)⁹ ≈ 3 (a·m0/r)⁹, and as those
//! of arccos, whose poles lie at sin θ. With h/r = 0.01/max(1, a·m0/8) the first part is below
//! 3·0.08⁸/630 < 1e-11, the second below (0.01/sin θ)⁸ < 1e-11 for sin θ > 0.35. Rounding adds
//! ε(1 + a)·L/h, below 1e-10 of a gradient of the size L·a/r. A wrong term would be off by far more
//! than the 1e-7 that is asserted.

use crate::common::compare::{norm, wide};
use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::spec::{Spec, menu};
use margin_softmax::{Batch, Head, MarginLoss, NormalizedLogits, Reduction, Scale};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

const STENCIL: [f64; 4] = [4.0 / 5.0, -1.0 / 5.0, 4.0 / 105.0, -1.0 / 280.0];
const TOLERANCE: f64 = 1e-7;

/// f'(0), all components of `f` at once.
fn derivative(h: f64, mut f: impl FnMut(f64) -> Array1<f64>) -> Array1<f64> {
    let steps = (1..).zip(STENCIL);
    let terms = steps.map(|(k, c)| (f(f64::from(k) * h) - f(f64::from(-k) * h)) * (c / h));
    terms.reduce(|sum, term| sum + term).unwrap()
}

/// Five samples, two of one class, with target angles from 0.4 to 2.6 that keep away from the
/// knots of the margin function: at a knot the loss is not smooth, and the stencil spans 0.04.
fn problem(rng: &mut Rng, spec: &Spec) -> Problem {
    let w = Array2::from_shape_simple_fn((6, 4), || rng.uniform(-1.5, 1.5));
    let labels = vec![2, 0, 5, 2, 3];
    let mut x = Array2::zeros((5, 4));
    for (i, mut row) in x.rows_mut().into_iter().enumerate() {
        let mut theta = 0.4 + 0.55 * i as f64;
        while spec.knots().iter().any(|knot| (knot - theta).abs() < 0.07) {
            theta += 0.03;
        }
        let r = rng.uniform(0.5, 4.0);
        row.assign(&rng.at_angle(&w.row(labels[i]).to_owned(), theta, r));
    }
    let b = (spec.scale() == Scale::Unnormalized).then(|| rng.vector(6));
    let upstream = weights_of_either_sign(rng, 5);
    Problem { x, w, b, labels, upstream }
}

/// Weights of either sign, none near 0.
fn weights_of_either_sign(rng: &mut Rng, n: usize) -> Array1<f64> {
    Array1::from_shape_simple_fn(n, || rng.pick(&[-1.0, 1.0]) * rng.uniform(0.5, 2.0))
}

/// Losses at one of the levels, as a function of x, w and b.
type Losses<'a> = dyn FnMut(&Array2<f64>, &Array2<f64>, Option<&Array1<f64>>) -> Array1<f64> + 'a;

/// The step for the entries of a row of norm `length`, in a problem whose logits reach `steep`.
fn step(length: f64, steep: f64) -> f64 {
    0.01 * length / (steep / 8.0).max(1.0)
}

fn steepness(spec: &Spec, problem: &Problem) -> f64 {
    let longest = |m: &ArrayView2<f64>| m.rows().into_iter().map(norm).fold(0.0, f64::max);
    let a = match spec.scale() {
        Scale::Fixed(s) => s,
        Scale::FeatureNorm => longest(&problem.x.view()),
        Scale::Unnormalized => longest(&problem.x.view()) * longest(&problem.w.view()),
        other => unreachable!("{other:?}"),
    };
    a * spec.steepest().max(1.0)
}

fn assert_gradients(
    what: &str,
    spec: &Spec,
    problem: &Problem,
    losses: &mut Losses,
    found: StepResult,
) {
    let steep = steepness(spec, problem);
    // A loss depends on its own embedding only: each row is held to its own largest entry.
    for i in 0..problem.x.nrows() {
        let h = step(norm(problem.x.row(i)), steep);
        let row: Array1<f64> = (0..problem.x.ncols())
            .map(|k| {
                let by = derivative(h, |t| {
                    let mut x = problem.x.clone();
                    x[[i, k]] += t;
                    losses(&x, &problem.w, problem.b.as_ref())
                });
                by[i] * problem.upstream[i]
            })
            .collect();
        assert_close(&format!("{what}: dx[{i}]"), found.dx.row(i), row.view());
    }
    let mut dw = Array2::zeros(problem.w.dim());
    for ((j, k), out) in dw.indexed_iter_mut() {
        let h = step(norm(problem.w.row(j)), steep);
        let by = derivative(h, |t| {
            let mut w = problem.w.clone();
            w[[j, k]] += t;
            losses(&problem.x, &w, problem.b.as_ref())
        });
        *out = by.dot(&problem.upstream);
    }
    let flat = |m: &Array2<f64>| Array1::from_iter(m.iter().copied());
    assert_close(&format!("{what}: dw"), flat(&found.dw).view(), flat(&dw).view());
    if let (Some(b), Some(db)) = (&problem.b, found.db) {
        let by_bias = (0..b.len()).map(|j| {
            let by = derivative(0.01, |t| {
                let mut b = b.clone();
                b[j] += t;
                losses(&problem.x, &problem.w, Some(&b))
            });
            by.dot(&problem.upstream)
        });
        assert_close(&format!("{what}: db"), db.view(), by_bias.collect::<Array1<_>>().view());
    }
}

/// Gradients that are to be checked.
struct StepResult {
    dx: Array2<f64>,
    dw: Array2<f64>,
    db: Option<Array1<f64>>,
}

/// Within 1e-7 of the largest entry.
fn assert_close(what: &str, found: ArrayView1<f64>, expected: ArrayView1<f64>) {
    let largest = expected.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / largest;
        assert!(error <= TOLERANCE, "{what}[{k}]: {found} for {expected}, off by {error:e}");
    }
}

fn problems() -> impl Iterator<Item = (Spec, Problem)> {
    let mut rng = Rng::new(7);
    (0..3).flat_map(|_| menu()).map(move |spec| (spec, problem(&mut rng, &spec)))
}

#[test]
fn head_gradients_are_the_derivatives_of_its_losses() {
    for (spec, problem) in problems() {
        let head = Head::new(spec.build());
        let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
        let (_, gradients) = inputs.by_head(&head);
        let mut losses = |x: &Array2<f64>, w: &Array2<f64>, b: Option<&Array1<f64>>| {
            let mut batch = Batch::new(x, w, &problem.labels);
            if let Some(b) = b {
                batch = batch.with_bias(b);
            }
            head.forward(&batch).unwrap().losses
        };
        let found =
            StepResult { dx: gradients.embeddings, dw: gradients.weights, db: gradients.bias };
        assert_gradients(&format!("{spec:?}"), &spec, &problem, &mut losses, found);
    }
}

#[test]
fn logits_gradients_are_the_derivatives_of_their_losses() {
    for (spec, problem) in problems() {
        let loss = spec.build();
        let (_, _, gradients) = problem.inputs::<f64>([Layout::Standard; 2]).by_logits(&loss);
        let mut losses = |x: &Array2<f64>, w: &Array2<f64>, b: Option<&Array1<f64>>| {
            let mut logits = NormalizedLogits::new(x, w).unwrap();
            if let Some(b) = b {
                logits = logits.with_bias(b).unwrap();
            }
            loss.forward(&logits, &problem.labels).unwrap().losses
        };
        let found =
            StepResult { dx: gradients.embeddings, dw: gradients.weights, db: gradients.bias };
        assert_gradients(&format!("{spec:?}"), &spec, &problem, &mut losses, found);
    }
}

/// Where cosines and norms come from elsewhere, the gradients end there: with respect to every
/// cosine (the target's by its angle), and to the norms of the embeddings.
#[test]
fn gradients_of_cosines_and_norms_are_the_derivatives_of_the_losses() {
    for (spec, problem) in problems().filter(|(spec, _)| spec.scale() != Scale::Unnormalized) {
        let loss = spec.build();
        let made = NormalizedLogits::new(&problem.x, &problem.w).unwrap();
        let (cosines, norms) = (made.cosines().clone(), made.feature_norms().clone());
        let logits = |cosines: &Array2<f64>, norms: &Array1<f64>| {
            let logits = NormalizedLogits::from_cosines(cosines.clone()).unwrap();
            logits.with_feature_norms(norms.clone()).unwrap()
        };
        let losses = |cosines: &Array2<f64>, norms: &Array1<f64>| {
            loss.forward(&logits(cosines, norms), &problem.labels).unwrap().losses
        };
        let here = logits(&cosines, &norms);
        let forward = loss.forward(&here, &problem.labels).unwrap();
        let reduction = Reduction::Weighted(&problem.upstream);
        let found = loss.backward(&here, &problem.labels, &forward, reduction).unwrap();
        // The arccosine's pole is as near as 1 - cos 0.4 = 0.08, so the step is a fifth.
        let h = step(0.2, steepness(&spec, &problem));
        for i in 0..norms.len() {
            let row: Array1<f64> = (0..cosines.ncols())
                .map(|j| {
                    let by = derivative(h, |t| {
                        let mut cosines = cosines.clone();
                        cosines[[i, j]] += t;
                        losses(&cosines, &norms)
                    });
                    by[i] * problem.upstream[i]
                })
                .collect();
            let what = format!("{spec:?}: dcos[{i}]");
            assert_close(&what, found.cosines.row(i), row.view());
            let by = derivative(h * norms[i], |t| {
                let mut norms = norms.clone();
                norms[i] += t;
                losses(&cosines, &norms)
            });
            let (by_norm, found) = (by[i] * problem.upstream[i], wide(found.feature_norms[i]));
            let size = by_norm.abs().max(row.dot(&row).sqrt() / norms[i]);
            assert!((found - by_norm).abs() <= TOLERANCE * size, "{spec:?}: dr[{i}]: {found}");
        }
    }
}

/// df/dθ of every loss, over the whole range of angles but for the knots.
#[test]
fn slopes_are_the_derivatives_of_the_targets() {
    for spec in menu() {
        let loss = spec.build();
        let value = |theta: f64| {
            let target = loss.target(&margin_softmax::custom::Angle::from_theta(theta));
            Array1::from_elem(1, target.value)
        };
        let angles = (1..100).map(|i| 0.01 + i as f64 * 0.0312);
        let smooth = |theta: &f64| spec.knots().iter().all(|knot| (knot - theta).abs() > 0.01);
        for theta in angles.filter(smooth) {
            let expected = derivative(2e-3, |t| value(theta + t))[0];
            let found = loss.target(&margin_softmax::custom::Angle::from_theta(theta)).slope;
            // Values up to 7 in size, rounded to ε, over 2e-3: 1e-12.
            assert!((found - expected).abs() <= 1e-11, "{spec:?} at {theta}: {found} {expected}");
        }
    }
}
