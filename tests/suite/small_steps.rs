//! Every way through a step, at sizes that an interpreter manages: what Miri runs.

use crate::common::layout::{LAYOUTS, Layout};
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::spec::Spec;
use margin_softmax::Gradients;
use margin_softmax::energy::{Riesz, Space, hyperspherical_energy, hyperspherical_energy_of_batch};
use margin_softmax::losses::Continuation;
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Head, Real, Reduction};

/// One loss a scale.
const LOSSES: [Spec; 3] = [
    Spec::Softmax,
    Spec::Sphere { m: 2, lambda: 0.0 },
    Spec::Arc { s: 16.0, m: 0.5, continuation: Continuation::Monotone },
];

/// Logits that fit into the rows of the weight gradient, that do not, and a second tile.
const SHAPES: [(usize, usize, usize); 3] = [(3, 5, 4), (5, 3, 6), (3, 2, 257)];

fn problem((n, d, c): (usize, usize, usize), spec: Spec) -> Problem {
    let mut rng = Rng::new(7);
    let (x, w, labels) = (rng.matrix(n, d), rng.matrix(c, d), rng.labels(n, c));
    let b = (spec == Spec::Softmax).then(|| rng.vector(c));
    Problem { x, w, b, labels, upstream: rng.vector(n) }
}

fn every_problem(check: impl Fn(&Problem, Spec)) {
    for shape in SHAPES {
        for spec in LOSSES {
            check(&problem(shape, spec), spec);
        }
    }
}

fn by_heads<F: Real>(problem: &Problem, spec: Spec) {
    let plain = problem.inputs::<F>([Layout::Standard; 2]);
    let expected = plain.by_head(&Head::new(spec.build()));
    for layout in LAYOUTS {
        let inputs = problem.inputs::<F>([layout; 2]);
        let head = Head::new(spec.build()).with_memory_budget(0);
        assert_eq!(inputs.by_head(&head), expected, "{layout:?}");
        let nearest = head.predict(&inputs.batch()).unwrap();
        assert_eq!(nearest, expected.0.predictions());
    }
}

#[test]
fn a_step_is_the_same_in_every_layout_and_without_a_budget() {
    every_problem(by_heads::<f32>);
    every_problem(by_heads::<f64>);
}

fn over_all_classes<F: Real>(problem: &Problem, spec: Spec) {
    let inputs = problem.inputs::<F>([Layout::Standard; 2]);
    let head = Head::new(spec.build());
    let (forward, whole) = inputs.by_head(&head);
    let sample = ClassSampler::new(problem.w.nrows(), 1.0, 1).unwrap().sample(&problem.labels);
    let reduction = Reduction::Weighted(&inputs.upstream);
    let (batch, sample) = (inputs.batch(), sample.unwrap());
    let batch = batch.with_sample(&sample);
    let mut sampled = Gradients::zeros_for(&batch);
    let answer = head.forward_backward(&batch, reduction, &mut sampled);
    assert_eq!(answer.unwrap(), forward);
    assert_eq!((sampled.embeddings, sampled.weights), (whole.embeddings, whole.weights));
}

#[test]
fn a_sample_of_all_classes_is_the_whole_step() {
    every_problem(over_all_classes::<f32>);
    every_problem(over_all_classes::<f64>);
}

fn by_logits<F: Real>(problem: &Problem, spec: Spec) {
    let inputs = problem.inputs::<F>([Layout::Standard; 2]);
    let (forward, _, gradients) = inputs.by_logits(&spec.build());
    let (expected, _) = inputs.by_head(&Head::new(spec.build()));
    assert_eq!(forward.predictions(), expected.predictions());
    assert!(gradients.embeddings.iter().chain(&gradients.weights).all(|g| g.is_finite()));
}

#[test]
fn logits_find_the_same_classes() {
    every_problem(by_logits::<f32>);
    every_problem(by_logits::<f64>);
}

fn energies<F: Real>() {
    let inputs = problem((3, 4, 6), LOSSES[1]).inputs::<F>([Layout::Standard; 2]);
    let every: Vec<usize> = (0..6).collect();
    for riesz in [Riesz::Log, Riesz::One, Riesz::Two] {
        let full = hyperspherical_energy(&inputs.w, riesz, Space::Full).unwrap();
        let batch = hyperspherical_energy_of_batch(&inputs.w, &every, riesz).unwrap();
        assert_eq!(full, batch);
        let (half, _) = hyperspherical_energy(&inputs.w, riesz, Space::Half).unwrap();
        assert!(half.is_finite());
    }
}

#[test]
fn a_batch_of_every_class_has_the_energy_of_all() {
    energies::<f32>();
    energies::<f64>();
}
