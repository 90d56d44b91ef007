//! What is the same to the last bit: a special case and its general form, any number of threads,
//! any run, any pointer to a loss, a head that is used again.

use std::sync::Arc;

use crate::common::compare::{bits, step_bits};
use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::spec::Spec;
use margin_softmax::losses::Continuation;
use margin_softmax::{Head, MarginLoss, Real, Scale};

/// A random batch; embeddings of norms around 3, so that the feature norm is a fair scale.
fn problem(seed: u64, (n, d, c): (usize, usize, usize)) -> Problem {
    let mut rng = Rng::new(seed);
    let x = rng.matrix(n, d) * (6.0 / (d as f64).sqrt());
    let (w, labels) = (rng.matrix(c, d), rng.labels(n, c));
    Problem { x, w, b: None, labels, upstream: rng.vector(n) }
}

fn head_bits<F: Real>(loss: impl MarginLoss, problem: &Problem, budget: usize) -> Vec<u64> {
    let head = Head::new(loss).with_memory_budget(budget);
    let (forward, gradients) = problem.inputs::<F>([Layout::Standard; 2]).by_head(&head);
    step_bits(&forward, &gradients)
}

fn logit_bits<F: Real>(loss: impl MarginLoss, problem: &Problem) -> Vec<u64> {
    let (forward, by_logit, gradients) =
        problem.inputs::<F>([Layout::Standard; 2]).by_logits(&loss);
    let mut all = step_bits(&forward, &gradients);
    all.extend(bits(&by_logit.cosines));
    all.extend(bits(&by_logit.target_angles));
    all.extend(bits(&by_logit.feature_norms));
    all
}

/// Everything in both types and at both levels.
fn all_bits(loss: impl MarginLoss, problem: &Problem) -> [Vec<u64>; 4] {
    [
        head_bits::<f64>(&loss, problem, 256 << 20),
        head_bits::<f32>(&loss, problem, 256 << 20),
        logit_bits::<f64>(&loss, problem),
        logit_bits::<f32>(&loss, problem),
    ]
}

#[test]
fn named_losses_are_generalized_with_their_parameters() {
    use Continuation::{EasyMargin, Linear, Monotone, Raw};
    let general = |scale, m, lambda, continuation| Spec::General { scale, m, lambda, continuation };
    let fixed = |m, lambda, c| general(Scale::Fixed(64.0), m, lambda, c);
    let norm = |m, lambda| general(Scale::FeatureNorm, m, lambda, Monotone);
    let s = 64.0;
    let mut pairs = vec![
        (Spec::Modified, norm([1.0, 0.0, 0.0], 0.0)),
        (Spec::Cos { s, m: 0.35 }, fixed([1.0, 0.0, 0.35], 0.0, Monotone)),
    ];
    for continuation in [Monotone, Raw, Linear, EasyMargin] {
        let arc = Spec::Arc { s, m: 0.5, continuation };
        pairs.push((arc, fixed([1.0, 0.5, 0.0], 0.0, continuation)));
    }
    for (m, lambda) in [(1, 0.0), (2, 0.0), (3, 5.0), (4, 0.7)] {
        let factor = [f64::from(m), 0.0, 0.0];
        pairs.push((Spec::Sphere { m, lambda }, norm(factor, lambda)));
        pairs.push((Spec::FNorm { s, m, lambda }, fixed(factor, lambda, Monotone)));
    }
    for shape in [(9, 4, 300), (6, 16, 20)] {
        let problem = problem(11, shape);
        for (named, generalized) in &pairs {
            let (found, expected) =
                (all_bits(named.build(), &problem), all_bits(generalized.build(), &problem));
            assert!(found == expected, "{named:?} is not {generalized:?} at {shape:?}");
        }
    }
}

/// Shapes large enough that threads are used, with N below and above D, and logits that are
/// kept, partly kept and computed again.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (shape, budget) in [
        ((24, 48, 1500), 0),
        ((64, 20, 1500), 0),
        ((64, 20, 1500), 64 * 700 * 8),
        ((64, 20, 1500), 256 << 20),
        ((130, 33, 300), 256 << 20),
    ] {
        let problem = problem(12, shape);
        for spec in
            [Spec::Softmax, Spec::Sphere { m: 4, lambda: 1.0 }, Spec::Cos { s: 64.0, m: 0.35 }]
        {
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let loss = spec.build();
                    [
                        head_bits::<f64>(&loss, &problem, budget),
                        head_bits::<f32>(&loss, &problem, budget),
                        logit_bits::<f64>(&loss, &problem),
                        logit_bits::<f32>(&loss, &problem),
                    ]
                })
            };
            let one = with(1);
            for threads in [1, 2, 3, 4, 7] {
                assert!(with(threads) == one, "{spec:?} {shape:?} on {threads} threads");
            }
        }
    }
}

#[test]
fn every_pointer_to_a_loss_is_that_loss() {
    let problem = problem(13, (7, 5, 9));
    let loss = margin_softmax::SphereFace::new(3).unwrap().with_annealing(2.0).unwrap();
    let expected = all_bits(loss.clone(), &problem);
    let boxed: Box<dyn MarginLoss> = Box::new(loss.clone());
    let shared: Arc<dyn MarginLoss> = Arc::new(loss.clone());
    assert!(all_bits(&loss, &problem) == expected, "&L");
    assert!(all_bits(Box::new(loss.clone()), &problem) == expected, "Box<L>");
    assert!(all_bits(Arc::new(loss), &problem) == expected, "Arc<L>");
    assert!(all_bits(&boxed, &problem) == expected, "&Box<dyn MarginLoss>");
    assert!(all_bits(boxed, &problem) == expected, "Box<dyn MarginLoss>");
    assert!(all_bits(shared, &problem) == expected, "Arc<dyn MarginLoss>");
}

/// One head through types and shapes that grow and shrink, through N below and above D, and past
/// refusals, returns what a fresh one does.
#[test]
fn a_used_head_returns_what_a_fresh_one_does() {
    let shapes = [
        (3, 5, 4),
        (40, 5, 700),
        (2, 64, 300),
        (1, 1, 1),
        (65, 9, 513),
        (8, 8, 8),
        (40, 5, 90),
        (33, 40, 1100),
        (1, 2, 600),
    ];
    let loss = Spec::Arc { s: 64.0, m: 0.5, continuation: Continuation::Monotone }.build();
    for budget in [0, 40 * 300 * 8, 256 << 20] {
        let head = Head::new(&loss).with_memory_budget(budget);
        for (turn, shape) in shapes.iter().cycle().take(3 * shapes.len()).enumerate() {
            let problem = problem(turn as u64, *shape);
            let single = problem.inputs::<f32>([Layout::Standard; 2]);
            let double = problem.inputs::<f64>([Layout::Transposed; 2]);
            let (f, g) = single.by_head(&head);
            let (fresh, gradients) = single.by_head(&Head::new(&loss).with_memory_budget(budget));
            assert!(step_bits(&f, &g) == step_bits(&fresh, &gradients), "{shape:?} in f32");
            if turn % 2 == 0 {
                let (f, g) = double.by_head(&head);
                let expected = head_bits::<f64>(&loss, &problem, budget);
                assert!(step_bits(&f, &g) == expected, "{shape:?} in f64");
            }
            let mut bad = problem.clone();
            bad.x[[0, 0]] = f64::NAN;
            let bad = bad.inputs::<f32>([Layout::Standard; 2]);
            head.forward(&bad.batch()).unwrap_err();
        }
    }
}

/// A layout is where numbers lie, not what they are.
#[test]
fn every_layout_of_the_inputs_gives_the_same_bits() {
    let problem = problem(14, (20, 7, 300));
    let loss = Spec::FNorm { s: 30.0, m: 3, lambda: 0.0 }.build();
    let with = |layouts: [Layout; 2]| {
        let inputs = problem.inputs::<f32>(layouts);
        let (forward, gradients) = inputs.by_head(&Head::new(&loss));
        step_bits(&forward, &gradients)
    };
    let standard = with([Layout::Standard; 2]);
    for layout in crate::common::layout::LAYOUTS {
        assert!(with([layout, Layout::Standard]) == standard, "X {layout:?}");
        assert!(with([Layout::Standard, layout]) == standard, "W {layout:?}");
    }
    // One row broadcast to many samples: a stride of 0.
    let row = problem.x.slice(ndarray::s![..1, ..]);
    let stretched = row.broadcast((20, 7)).unwrap();
    let copied = stretched.to_owned();
    let head = Head::new(&loss);
    let by = |x: &ndarray::ArrayRef2<f64>, head: &Head<_>| {
        head.forward(&margin_softmax::Batch::new(x, &problem.w, &problem.labels)).unwrap()
    };
    assert_eq!(by(&stretched, &head), by(&copied, &head));
}
