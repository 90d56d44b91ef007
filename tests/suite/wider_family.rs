//! Norms, penalties, hard negatives and sub-centers: every level, step and rank against textbook
//! loops.

use crate::common::compare::{epsilon, norm, tiny, wide};
use crate::common::naive::NaiveAnswer;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::wide::{Wide, WideProblem};
#[cfg(feature = "serde")]
use crate::every_loss::{published, varied};
use margin_softmax::custom::{Angle, HardNegatives, Sample};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    AdaFace, Batch, BatchMut, CosFace, CurricularFace, ElasticFace, Forward, Gradients, Head,
    InterclassFilter, MagFace, MarginLoss, MvSoftmax, NormalizedLogits, Real, Reduction, Scale,
    Sgd,
};
use ndarray::{Array, Array2, Axis, Dimension, s};

/// Losses with one more thing each, and with all of them together.
fn menu() -> Vec<Wide> {
    let fixed = Wide::new(Scale::Fixed(16.0));
    let by_norm = Wide::new(Scale::FeatureNorm);
    let curricular = Some(HardNegatives::above_target(0.0, 0.3, 1.0));
    let mv = Some(HardNegatives::above_target(0.2, 1.2, 0.0));
    let filter = Some(HardNegatives::above(0.3, 0.0, 0.0, 0.0));
    vec![
        fixed.clone(),
        Wide { kappa: 0.2, ..fixed.clone() },
        Wide { lambda: 0.05, by_label: 0.1, ..fixed.clone() },
        Wide { hard: curricular, ..fixed.clone() },
        Wide { hard: mv, epsilon: 0.1, ..fixed.clone() },
        Wide { hard: filter, ..fixed.clone() },
        Wide { hard: curricular, ..by_norm.clone() },
        Wide { hard: mv, epsilon: 0.2, ..by_norm.clone() },
        Wide { hard: filter, kappa: 0.1, ..by_norm.clone() },
        Wide { kappa: 0.15, by_label: 0.1, lambda: 0.02, hard: mv, epsilon: 0.05, ..by_norm },
        Wide { m: 0.0, ..Wide::new(Scale::Unnormalized) },
    ]
}

/// (samples, dimensions, classes, sub-centers): N above and below D, tiles that are full and begun,
/// and classes with more rows than a tile.
const SHAPES: [(usize, usize, usize, usize); 8] = [
    (1, 2, 2, 1),
    (7, 5, 4, 1),
    (5, 16, 300, 1),
    (33, 6, 700, 1),
    (6, 4, 3, 2),
    (9, 24, 150, 3),
    (30, 5, 200, 7),
    (4, 3, 2, 300),
];

fn assert_close<F: Real, D: Dimension>(
    what: &str,
    found: &Array<F, D>,
    expected: &Array<f64, D>,
    tolerance: f64,
) {
    assert_eq!(found.raw_dim(), expected.raw_dim(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |most, v| most.max(v.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (wide(*found) - expected).abs();
        let allowed = tolerance * largest + tiny::<F>();
        assert!(error <= allowed, "{what} at {at}: {found:e} for {expected:e}, {error:e} off");
    }
}

pub fn assert_answers<F: Real>(
    what: &str,
    forward: &Forward<F>,
    [dx, dw]: [&Array2<F>; 2],
    answer: &NaiveAnswer,
) {
    let tolerance = answer.tolerance(epsilon::<F>());
    assert_close(&format!("{what}: losses"), &forward.losses, &answer.losses, tolerance);
    let margin_free = &answer.margin_free_losses;
    let what_of = format!("{what}: margin-free losses");
    assert_close(&what_of, forward.margin_free_losses(), margin_free, tolerance);
    assert_close(&format!("{what}: dx"), dx, &answer.dx, tolerance);
    assert_close(&format!("{what}: dw"), dw, &answer.dw, tolerance);
    assert_eq!(forward.predictions(), answer.predictions(), "{what}");
    assert_eq!(forward.sub_centers(), answer.sub_centers, "{what}");
}

/// Every loss on every shape, and how many negatives counted harder in all.
pub fn for_each<F: Real>(mut check: impl FnMut(&str, &Wide, &WideProblem<F>, &NaiveAnswer)) {
    let mut hard = 0;
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        for loss in menu() {
            let (problem, answer) = WideProblem::<F>::new(seed as u64 + 1, shape, &loss);
            hard += answer.hard;
            check(&format!("{shape:?} {loss:?}"), &loss, &problem, &answer);
        }
    }
    assert!(hard > 1000, "{hard}");
}

fn batch<'a, F: Real>(problem: &'a WideProblem<F>) -> Batch<'a, F> {
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels).with_sub_centers(problem.k);
    match &problem.log_prior {
        Some(prior) => batch.with_log_prior(prior),
        None => batch,
    }
}

fn batch_mut<'a, F: Real>(problem: &'a WideProblem<F>, w: &'a mut Array2<F>) -> BatchMut<'a, F> {
    let batch = BatchMut::new(&problem.x, w, &problem.labels).with_sub_centers(problem.k);
    match &problem.log_prior {
        Some(prior) => batch.with_log_prior(prior),
        None => batch,
    }
}

/// As `for_each`, and every loss of the crate with it.
fn for_every_loss<F: Real>(
    mut check: impl FnMut(&str, &dyn MarginLoss, &WideProblem<F>, &NaiveAnswer),
) {
    for_each::<F>(|what, loss, problem, answer| check(what, loss, problem, answer));
    #[cfg(feature = "serde")] // the names of all losses are those of the configurations
    let mut rng = Rng::new(19);
    #[cfg(feature = "serde")]
    for (seed, shape) in (1..).zip(SHAPES) {
        for loss in published(shape.2).into_iter().chain(varied(&mut rng, shape.2)) {
            let (problem, answer) = WideProblem::<F>::new(seed, shape, &loss);
            check(&format!("{shape:?} {loss:?}"), &loss, &problem, &answer);
        }
    }
}

fn check_head<F: Real>() {
    for_every_loss::<F>(|what, loss, problem, answer| {
        let batch = batch(problem);
        for budget in [0, 256 << 20] {
            for head in Head::new(loss).with_memory_budget(budget).at_every_level() {
                let mut gradients = Gradients::zeros_for(&batch);
                let reduction = Reduction::Weighted(&problem.upstream);
                let forward = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
                let found = [&gradients.embeddings, &gradients.weights];
                assert_answers(what, &forward, found, answer);
                assert_eq!(head.forward(&batch).unwrap(), forward, "{what}");
            }
        }
    });
}

#[test]
fn head_agrees_with_the_formulas_in_f64() {
    check_head::<f64>();
}

#[test]
fn head_agrees_with_the_formulas_in_f32() {
    check_head::<f32>();
}

fn check_logits<F: Real>() {
    for_every_loss::<F>(|what, loss, problem, answer| {
        if problem.k > 1 && loss.scale() == Scale::Unnormalized {
            return;
        }
        let logits = NormalizedLogits::new(&problem.x, &problem.w).unwrap();
        let mut logits = logits.with_sub_centers(problem.k).unwrap();
        if let Some(prior) = &problem.log_prior {
            logits = logits.with_log_prior(prior).unwrap();
        }
        // A reference is a loss of known size.
        let loss = &loss;
        let forward = loss.forward(&logits, &problem.labels).unwrap();
        let reduction = Reduction::Weighted(&problem.upstream);
        let gradients = loss.backward(&logits, &problem.labels, &forward, reduction).unwrap();
        let gradients = logits.backward(&gradients).unwrap();
        let found = [&gradients.embeddings, &gradients.weights];
        assert_answers(what, &forward, found, answer);
    });
}

#[test]
fn logits_agree_with_the_formulas_in_f64() {
    check_logits::<f64>();
}

#[test]
fn logits_agree_with_the_formulas_in_f32() {
    check_logits::<f32>();
}

#[test]
fn a_step_moves_the_weights_by_the_same_gradients() {
    for_each::<f64>(|what, loss, problem, _| {
        let head = Head::new(loss.clone());
        let reduction = Reduction::Weighted(&problem.upstream);
        let batch = batch(problem);
        let mut gradients = Gradients::zeros_for(&batch);
        let separate = head.forward_backward(&batch, reduction, &mut gradients).unwrap();
        let (mut expected, mut moved) = (problem.w.clone(), problem.w.clone());
        let update = || Sgd::new(0.1).unwrap().with_momentum(0.9).unwrap();
        update().apply(&mut expected, &gradients.weights).unwrap();
        let mut dx = Array2::zeros(problem.x.dim());
        let mut batch = batch_mut(problem, &mut moved);
        let forward = head.step(&mut batch, reduction, &mut update(), &mut dx).unwrap();
        assert_eq!(forward, separate, "{what}");
        assert_eq!(dx, gradients.embeddings, "{what}");
        assert_eq!(moved, expected, "{what}");
    });
}

/// The sampled step is that of a problem which has the sampled classes alone.
#[test]
fn a_sampled_step_is_that_of_its_classes_with_all_their_rows() {
    for_each::<f64>(|what, loss, problem, _| {
        let classes = problem.w.nrows() / problem.k;
        let sample = ClassSampler::new(classes, 0.5, 3).unwrap().sample(&problem.labels).unwrap();
        let rows = sample.rows(problem.k);
        let reduction = Reduction::Weighted(&problem.upstream);
        let head = Head::new(loss.clone());
        let batch = batch(problem);
        let mut gradients = Gradients::zeros_for(&batch.with_sample(&sample));
        let forward =
            head.forward_backward(&batch.with_sample(&sample), reduction, &mut gradients).unwrap();
        // Alone the classes are numbered anew, which changes a margin by label.
        if loss.by_label == 0.0 {
            let w = problem.w.select(Axis(0), &rows);
            let alone = Batch::new(&problem.x, &w, &sample.labels);
            let prior = problem.log_prior.as_ref();
            let prior = prior.map(|prior| prior.select(Axis(0), &sample.classes));
            let alone = alone.with_sub_centers(problem.k);
            let alone = prior.as_ref().map_or(alone, |prior| alone.with_log_prior(prior));
            let mut expected = Gradients::zeros_for(&alone);
            let of_classes = head.forward_backward(&alone, reduction, &mut expected).unwrap();
            assert_eq!(forward.losses, of_classes.losses, "{what}");
            let [found, alone] = [&forward, &of_classes].map(Forward::margin_free_losses);
            assert_eq!(found, alone, "{what}");
            assert_eq!(gradients.embeddings, expected.embeddings, "{what}");
            assert_eq!(gradients.weights, expected.weights, "{what}");
        }
        // And a step over the same sample moves these rows alone.
        let (mut expected, mut moved) = (problem.w.clone(), problem.w.clone());
        let update = || Sgd::new(0.1).unwrap().with_momentum(0.9).unwrap();
        update().apply_rows(&mut expected, &rows, &gradients.weights).unwrap();
        let mut dx = Array2::zeros(problem.x.dim());
        let batch = batch_mut(problem, &mut moved);
        head.step(&mut batch.with_sample(&sample), reduction, &mut update(), &mut dx).unwrap();
        assert_eq!(moved, expected, "{what}");
        assert_eq!(dx, gradients.embeddings, "{what}");
    });
}

/// The correction of a sampled step is added to what a negative counts, not to what is compared.
#[test]
fn hard_negatives_are_found_below_the_correction() {
    for loss in menu().into_iter().filter(|loss| loss.hard.is_some() && loss.epsilon == 0.0) {
        let (problem, _) = WideProblem::<f64>::new(5, (6, 5, 40, 1), &loss);
        let sampler = ClassSampler::new(40, 0.5, 3).unwrap();
        let plain = sampler.clone().sample(&problem.labels).unwrap();
        let corrected = sampler.with_correction(true).sample(&problem.labels).unwrap();
        assert_eq!(plain.classes, corrected.classes);
        let head = Head::new(loss.clone());
        let run = |sample| {
            let batch = batch(&problem);
            let mut gradients = Gradients::zeros_for(&batch.with_sample(sample));
            head.forward_backward(&batch.with_sample(sample), Reduction::Sum, &mut gradients)
                .unwrap()
        };
        let (without, with) = (run(&plain), run(&corrected));
        // e^L − 1 is the sum of the negatives' exponentials over the target's; those of classes
        // outside the batch count e^correction times.
        let own: Vec<usize> = problem.labels.clone();
        for i in 0..6 {
            let u = problem.x.row(i).to_owned() / problem.x.row(i).dot(&problem.x.row(i)).sqrt();
            let cos = |j: usize| {
                let w = problem.w.row(j);
                u.dot(&w) / w.dot(&w).sqrt()
            };
            let norm = problem.x.row(i).dot(&problem.x.row(i)).sqrt();
            let scale = if loss.scale == Scale::FeatureNorm { norm } else { 16.0 };
            let theta = wide(with.target_angles()[i]);
            let sample = Sample::new(Angle::from_theta(theta), norm, own[i], i);
            let f = loss.target_of(&sample).value;
            let hard = loss.hard.unwrap();
            let sum = |factor: f64| -> f64 {
                let negatives = plain.classes.iter().filter(|&&j| j != own[i]);
                let terms = negatives.map(|&j| {
                    let factor = if own.contains(&j) { 1.0 } else { factor };
                    factor * (scale * (hard.value(cos(j), f) - f)).exp()
                });
                terms.sum()
            };
            approx::assert_relative_eq!(without.losses[i], sum(1.0).ln_1p(), max_relative = 1e-12);
            let factor = corrected.correction().exp();
            approx::assert_relative_eq!(with.losses[i], sum(factor).ln_1p(), max_relative = 1e-12);
        }
    }
}

#[test]
fn ranks_agree_with_one_machine() {
    for_each::<f64>(|what, loss, problem, answer| {
        let classes = problem.w.nrows() / problem.k;
        for size in [1, 2, 3] {
            let results = on_ranks(&even(classes, size), |collective, range| {
                let rows = range.start * problem.k..range.end * problem.k;
                let w = problem.w.slice(s![rows, ..]);
                let shard = Batch::new(&problem.x, &w, &problem.labels);
                let prior = problem.log_prior.as_ref().map(|prior| prior.slice(s![range.clone()]));
                let shard = shard.with_sub_centers(problem.k);
                let shard = prior.as_ref().map_or(shard, |prior| shard.with_log_prior(prior));
                let mut gradients = Gradients::zeros_for(&shard);
                let head = Head::on_ranks(loss.clone(), collective, range);
                let reduction = Reduction::Weighted(&problem.upstream);
                let forward = head.forward_backward(&shard, reduction, &mut gradients).unwrap();
                (forward, gradients)
            });
            let weights: Vec<_> =
                results.iter().map(|(_, gradients)| gradients.weights.view()).collect();
            let weights = ndarray::concatenate(Axis(0), &weights).unwrap();
            for (forward, gradients) in &results {
                let found = [&gradients.embeddings, &weights];
                assert_answers(&format!("{what}, {size} ranks"), forward, found, answer);
            }
        }
    });
}

#[test]
fn predictions_are_classes_not_rows() {
    for_each::<f64>(|what, loss, problem, answer| {
        let head = Head::new(loss.clone());
        let found = head
            .predict(&Batch::unlabeled(&problem.x, &problem.w).with_sub_centers(problem.k))
            .unwrap();
        assert_eq!(found, answer.predictions(), "{what}");
        assert_eq!(head.predict(&batch(problem)).unwrap(), found, "{what}: a class prior");
    });
}

/// docs/math.md, section 13.4, for one sample at a time: |dX| ≤ s/r·(N'max + 1) + s·|∂f/∂r| + |P'|,
/// and Σ q_j·|dw_j| ≤ s·(N'max + 1).
#[test]
fn gradients_of_every_loss_stay_within_their_bounds() {
    let losses: Vec<(Box<dyn MarginLoss>, f64)> = vec![
        (Box::new(AdaFace::default().with_statistics(20.0, 6.0).unwrap()), 1.0),
        (Box::new(MagFace::default()), 1.0),
        (Box::new(ElasticFace::default().at_step(3)), 1.0),
        (Box::new(CurricularFace::default().with_t(0.4).unwrap()), 2.4),
        (Box::new(MvSoftmax::default()), 1.2),
        (Box::new(InterclassFilter::new(CosFace::default(), 0.2).unwrap()), 1.0),
    ];
    let mut rng = Rng::new(11);
    for _ in 0..200 {
        let (w, mut x) = (rng.matrix(6, 4), rng.matrix(1, 4));
        let length = norm(x.row(0));
        x *= rng.decades(1e-3, 1e3) / length;
        let r = norm(x.row(0));
        let labels = [rng.below(6)];
        let batch = Batch::new(&x, &w, &labels);
        for (loss, steepest) in &losses {
            let Scale::Fixed(s) = loss.scale() else { panic!("{loss:?}") };
            let mut gradients = Gradients::zeros_for(&batch);
            let head = Head::new(loss);
            let forward = head.forward_backward(&batch, Reduction::Sum, &mut gradients).unwrap();
            assert!(forward.losses[0].is_finite());
            let angle = Angle::from_theta(forward.target_angles()[0]);
            let target = loss.target_of(&Sample::new(angle, r, labels[0], 0));
            let own = s * target.norm_slope.abs() + target.penalty_slope.abs();
            let bound = (s / r * (steepest + 1.0) + own) * (1.0 + 1e-12);
            let found = norm(gradients.embeddings.row(0));
            assert!(found <= bound, "{loss:?}: |dx| = {found:e}, bound {bound:e}");
            let rows = gradients.weights.rows().into_iter().zip(w.rows());
            let found: f64 = rows.map(|(dw, w)| norm(dw) * norm(w)).sum();
            let bound = s * (steepest + 1.0) * (1.0 + 1e-12);
            assert!(found <= bound, "{loss:?}: Σ q·|dw| = {found:e}, bound {bound:e}");
        }
    }
}
