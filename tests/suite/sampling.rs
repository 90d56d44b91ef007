//! Sampled classes: what is drawn, and that a step over them is a step over those rows.

use std::collections::HashMap;

use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::random::Rng;
use crate::common::ranks::{even, on_ranks};
use crate::common::spec::{Spec, menu};
use margin_softmax::sampling::{ClassSample, ClassSampler, SamplerState};
use margin_softmax::{ArcFace, Batch, Error, Forward, Gradients, Head, IGNORED, Real, Reduction};
use ndarray::{Array1, Array2, Axis, concatenate, s};

fn problem(seed: u64, (n, d, c): (usize, usize, usize), bias: bool) -> Problem {
    let mut rng = Rng::new(seed);
    let x = rng.matrix(n, d) * (6.0 / (d as f64).sqrt());
    let (w, labels) = (rng.matrix(c, d), rng.labels(n, c));
    let b = bias.then(|| rng.vector(c));
    Problem { x, w, b, labels, upstream: rng.vector(n) }
}

fn sorted(labels: &[usize]) -> Vec<usize> {
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    classes
}

#[test]
fn a_sample_holds_every_class_of_the_batch_and_the_quota() {
    let mut rng = Rng::new(1);
    for turn in 0..3000 {
        let classes = 1 + rng.below(300);
        let rate = rng.uniform(0.0, 1.0).max(1e-3);
        let n = 1 + rng.below(40);
        let labels = rng.labels(n, classes);
        let mut sampler = ClassSampler::new(classes, rate, turn).unwrap();
        let sample = sampler.sample(&labels).unwrap();
        let quota = (classes as f64 * rate * (1.0 + f64::EPSILON)) as usize;
        let positives = sorted(&labels);
        assert_eq!(sample.classes.len(), quota.max(positives.len()));
        assert!(sample.classes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(sample.classes.iter().all(|&class| class < classes));
        let back: Vec<_> = sample.labels.iter().map(|&place| sample.classes[place]).collect();
        assert_eq!(back, labels);
    }
}

#[test]
fn a_share_that_is_a_whole_number_of_classes_loses_none_to_rounding() {
    for percent in 1..=100 {
        let rate = f64::from(percent) / 100.0;
        let sample = ClassSampler::new(100, rate, 1).unwrap().sample(&[5]).unwrap();
        assert_eq!(sample.classes.len(), percent as usize, "{rate}");
    }
}

#[test]
fn rate_one_is_all_classes() {
    let sample = ClassSampler::new(50, 1.0, 9).unwrap().sample(&[3, 49]).unwrap();
    assert_eq!(sample.classes, (0..50).collect::<Vec<_>>());
    assert_eq!(sample.labels, [3, 49]);
}

/// A seed means the same draws in every version: runs are resumed across them.
#[test]
fn draws_of_a_seed_stay_what_they_are() {
    let mut sampler = ClassSampler::new(11, 0.5, 42).unwrap();
    let expected = [
        [0, 2, 3, 5, 7],
        [0, 2, 3, 4, 5],
        [0, 2, 3, 5, 9],
        [0, 1, 3, 5, 7],
        [0, 3, 5, 6, 9],
        [0, 2, 3, 4, 5],
    ];
    for expected in expected {
        assert_eq!(sampler.sample(&[3, 0]).unwrap().classes, expected);
    }
    let mut sampler = ClassSampler::new(9, 0.8, 42).unwrap();
    assert_eq!(sampler.sample(&[4]).unwrap().classes, [0, 2, 3, 4, 6, 7, 8]);
}

#[test]
fn a_small_share_of_very_many_classes_is_drawn_at_once() {
    let sample = ClassSampler::new(1 << 40, 1e-9, 7).unwrap().sample(&[1 << 39]).unwrap();
    assert_eq!(sample.classes.len(), 1099);
    assert_eq!(sample.classes[sample.labels[0]], 1 << 39);
}

#[test]
fn a_batch_of_all_classes_needs_no_correction() {
    let mut sampler = ClassSampler::new(3, 0.5, 1).unwrap().with_correction(true);
    assert_eq!(sampler.sample(&[2, 0, 1]).unwrap().correction(), 0.0);
}

/// Every set of k others out of 7 is equally likely, by the χ² of their counts.
#[test]
fn every_set_of_others_is_equally_likely() {
    for (rate, sets) in [(0.25, 7), (0.375, 21), (0.5, 35), (0.625, 35), (0.875, 7)] {
        let mut sampler = ClassSampler::new(8, rate, 3).unwrap();
        let mut counts = HashMap::<Vec<usize>, usize>::new();
        for _ in 0..1000 * sets {
            *counts.entry(sampler.sample(&[4]).unwrap().classes).or_default() += 1;
        }
        assert_eq!(counts.len(), sets, "rate {rate}");
        let chi: f64 = counts.values().map(|&n| (n as f64 - 1000.0).powi(2) / 1000.0).sum();
        let freedom = sets as f64 - 1.0;
        assert!((chi - freedom).abs() < 4.0 * (2.0 * freedom).sqrt(), "χ² {chi} of {freedom}");
    }
}

#[test]
fn a_resumed_sampler_draws_on_as_if_it_had_never_stopped() {
    let mut one = ClassSampler::new(1000, 0.1, 5).unwrap().with_correction(true);
    let mut rng = Rng::new(2);
    for _ in 0..20 {
        let mut resumed = ClassSampler::from_state(one.state()).unwrap();
        let labels = rng.labels(30, 1000);
        assert_eq!(resumed.sample(&labels), one.sample(&labels));
        assert_eq!(resumed.state(), one.state());
    }
    let labels = [1, 2, 3];
    let other = ClassSampler::new(1000, 0.1, 6).unwrap().sample(&labels);
    let first = ClassSampler::new(1000, 0.1, 5).unwrap().sample(&labels);
    assert_eq!(first, ClassSampler::new(1000, 0.1, 5).unwrap().sample(&labels));
    assert_ne!(first, other);
    assert_ne!(one.sample(&labels), one.sample(&labels));
}

#[test]
fn bad_samplers_and_labels_are_refused() {
    for rate in [0.0, -0.1, 1.0 + 1e-9, f64::NAN, f64::INFINITY] {
        let refused = ClassSampler::new(10, rate, 0).unwrap_err();
        assert!(matches!(refused, Error::Parameter { parameter: "sampling rate", .. }), "{rate}");
        let state = SamplerState { rate, ..ClassSampler::new(10, 0.5, 0).unwrap().state() };
        assert!(ClassSampler::from_state(state).is_err());
    }
    assert!(matches!(ClassSampler::new(0, 0.5, 0), Err(Error::Empty { .. })));
    let mut sampler = ClassSampler::new(10, 0.5, 0).unwrap();
    let before = sampler.state();
    let refused = sampler.sample(&[3, 10]).unwrap_err();
    assert_eq!(refused, Error::Label { row: 1, label: 10, classes: 10 });
    assert_eq!(sampler.state(), before);
}

#[test]
fn states_of_no_sampler_are_refused() {
    let state = ClassSampler::new(9, 0.5, 1).unwrap().state();
    let read = |range, whole| {
        ClassSampler::from_state(SamplerState { range, whole, ..state.clone() }).is_ok()
    };
    assert!(read(0..9, true) && read(5..9, false) && read(0..0, false) && read(5..5, false));
    let reversed = std::ops::Range { start: 9, end: 5 };
    assert!(!read(5..9, true) && !read(0..0, true) && !read(reversed, false));
}

/// A step over the sample.
fn sampled<F: Real>(
    spec: &Spec,
    problem: &Problem,
    sample: &ClassSample,
) -> (Forward<F>, Gradients<F>) {
    let inputs = problem.inputs::<F>([Layout::Standard; 2]);
    let reduction = Reduction::Weighted(&inputs.upstream);
    let mut gradients = Gradients::zeros_for(&inputs.batch().with_sample(sample));
    let forward = Head::new(spec.build())
        .forward_backward(&inputs.batch().with_sample(sample), reduction, &mut gradients)
        .unwrap();
    (forward, gradients)
}

/// A step over a batch that has only the sample's rows.
fn picked<F: Real>(
    spec: &Spec,
    problem: &Problem,
    sample: &ClassSample,
) -> (Forward<F>, Gradients<F>) {
    let picked = Problem {
        w: problem.w.select(Axis(0), &sample.classes),
        b: problem.b.as_ref().map(|b| b.select(Axis(0), &sample.classes)),
        labels: sample.labels.clone(),
        ..problem.clone()
    };
    picked.inputs::<F>([Layout::Standard; 2]).by_head(&Head::new(spec.build()))
}

fn assert_same_step<F: Real>(spec: &Spec, problem: &Problem, sample: &ClassSample) {
    let (forward, gradients) = sampled::<F>(spec, problem, sample);
    let (expected, picked) = picked::<F>(spec, problem, sample);
    assert_eq!(forward.losses, expected.losses, "{spec:?}");
    assert_eq!(forward.target_angles(), expected.target_angles());
    assert_eq!(forward.accuracy(), expected.accuracy());
    let predicted = expected.predictions().iter().map(|&place| sample.classes[place]);
    assert_eq!(forward.predictions(), predicted.collect::<Vec<_>>());
    assert_eq!(gradients.embeddings, picked.embeddings);
    assert_eq!(gradients.weights, picked.weights);
    assert_eq!(gradients.bias, picked.bias);
}

/// Bit for bit, for every loss, with N below and above D.
#[test]
fn a_sampled_step_is_the_step_over_the_sampled_rows() {
    for (seed, shape) in [(9, 4, 700), (6, 16, 40), (70, 20, 900)].into_iter().enumerate() {
        for spec in menu() {
            let problem = problem(seed as u64, shape, spec == Spec::Softmax);
            let sample =
                ClassSampler::new(shape.2, 0.3, 4).unwrap().sample(&problem.labels).unwrap();
            assert_same_step::<f64>(&spec, &problem, &sample);
            assert_same_step::<f32>(&spec, &problem, &sample);
        }
    }
}

/// Classes in any order, some of them twice, and the batch's own.
#[test]
fn a_step_over_classes_of_the_users_choice_is_the_step_over_their_rows() {
    let problem = problem(3, (6, 16, 40), false);
    let chosen = [31, 2, 39, 0, 2, problem.labels[1]];
    let sample = ClassSample::of(chosen, &problem.labels).unwrap();
    let mut expected = [&chosen[..], &problem.labels].concat();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!((&sample.classes, sample.correction()), (&expected, 0.0));
    for spec in menu().into_iter().filter(|spec| *spec != Spec::Softmax) {
        assert_same_step::<f64>(&spec, &problem, &sample);
        assert_same_step::<f32>(&spec, &problem, &sample);
    }
    // All classes: the whole step.
    let all = ClassSample::of(0..40, &problem.labels).unwrap();
    let spec = &menu()[1];
    let (forward, gradients) = sampled::<f64>(spec, &problem, &all);
    let whole = problem.inputs::<f64>([Layout::Standard; 2]);
    let (expected, of_whole) = whole.by_head(&Head::new(spec.build()));
    assert_eq!(forward.losses, expected.losses);
    assert_eq!(gradients.weights, of_whole.weights);
}

#[test]
fn chosen_classes_on_ranks_are_those_of_one_machine() {
    let problem = problem(5, (6, 16, 40), false);
    let chosen = vec![31_usize, 2, 39, 0, 17];
    let sample = ClassSample::of(&chosen, &problem.labels).unwrap();
    let (x, w, labels) = (&problem.x, &problem.w, &problem.labels);
    let head = Head::new(ArcFace::new(16.0, 0.3).unwrap());
    let batch = Batch::new(x, w, labels).with_sample(&sample);
    let mut expected = Gradients::zeros_for(&batch);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut expected).unwrap();
    for size in [1, 2, 3] {
        let found = on_ranks(&even(40, size), |collective, range| {
            let sample = ClassSample::of_range(range.clone(), &chosen, labels).unwrap();
            let w = w.slice(s![range.clone(), ..]);
            let batch = Batch::new(x, &w, labels).with_sample(&sample);
            let mut gradients = Gradients::zeros_for(&batch);
            let head = Head::on_ranks(head.loss().clone(), collective, range);
            let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
            (forward, gradients)
        });
        let rows: Vec<_> = found.iter().map(|(_, gradients)| gradients.weights.view()).collect();
        let rows = concatenate(Axis(0), &rows).unwrap();
        approx::assert_abs_diff_eq!(rows, expected.weights, epsilon = 1e-13);
        for (found, gradients) in &found {
            assert_eq!(found.predictions(), forward.predictions());
            approx::assert_abs_diff_eq!(found.losses, forward.losses, epsilon = 1e-12);
            approx::assert_abs_diff_eq!(gradients.embeddings, expected.embeddings, epsilon = 1e-13);
        }
    }
}

#[test]
fn chosen_classes_that_cannot_be_are_refused() {
    let refused = ClassSample::of([1, -1_isize as usize], &[0]).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "classes", position: 1 });
    let refused = ClassSample::of([1], &[0, -100_isize as usize]).unwrap_err();
    assert_eq!(refused, Error::LabelValue { row: 1, label: -100 });
    // IGNORED adds no class.
    let sample = ClassSample::of([1], &[IGNORED, 0]).unwrap();
    assert_eq!((sample.classes, sample.labels), (vec![0, 1], vec![ClassSample::ABSENT, 0]));
    // What only the step knows.
    let problem = problem(5, (2, 3, 4), false);
    let (x, w) = (&problem.x, &problem.w);
    let head = Head::new(ArcFace::default());
    let beyond = ClassSample::of([7], &[0, 1]).unwrap();
    let refused = head.forward(&Batch::new(x, w, &[0, 1]).with_sample(&beyond)).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "classes", position: 2 });
    assert_eq!(head.predict(&Batch::unlabeled(x, w).with_sample(&beyond)).unwrap_err(), refused);
    let other = ClassSample::of([3], &[0, 2]).unwrap();
    let refused = head.forward(&Batch::new(x, w, &[0, 1]).with_sample(&other)).unwrap_err();
    assert_eq!(refused, Error::Sample { field: "labels", position: 1 });
}

/// ln(n/k) on every class that is not in the batch: as a bias of plain softmax, where logits
/// have one.
#[test]
fn the_correction_is_a_bias_of_the_drawn_classes() {
    let problem = problem(3, (7, 5, 60), true);
    let mut sampler = ClassSampler::new(60, 0.4, 1).unwrap().with_correction(true);
    let sample = sampler.sample(&problem.labels).unwrap();
    let positives = sorted(&problem.labels);
    let (n, k) = (60 - positives.len(), 24 - positives.len());
    assert_eq!(sample.correction(), (n as f64 / k as f64).ln());
    let mut b = problem.b.clone().unwrap();
    for (class, b) in b.iter_mut().enumerate() {
        if positives.binary_search(&class).is_err() {
            *b += sample.correction();
        }
    }
    let mut plain = ClassSampler::new(60, 0.4, 1).unwrap();
    let plain = plain.sample(&problem.labels).unwrap();
    assert_eq!(plain.classes, sample.classes);
    let shifted = Problem { b: Some(b), ..problem.clone() };
    let corrected = sampled::<f64>(&Spec::Softmax, &problem, &sample);
    let expected = sampled::<f64>(&Spec::Softmax, &shifted, &plain);
    for (a, b) in corrected.0.losses.iter().zip(&expected.0.losses) {
        assert!((a - b).abs() <= 1e-14 * b);
    }
    approx::assert_abs_diff_eq!(
        corrected.1.embeddings.as_slice().unwrap(),
        expected.1.embeddings.as_slice().unwrap(),
        epsilon = 1e-14
    );
}

/// With the correction the mean of e^L − 1, which is Σ_j e^(z_j − z_y), over many draws is that
/// of all classes; without it, it falls short by the share that is left out.
#[test]
fn the_correction_makes_the_sum_of_exponentials_unbiased() {
    let problem = problem(8, (1, 4, 12), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let head = Head::new(Spec::Cos { s: 1.0, m: 0.1 }.build());
    let full = head.forward(&batch).unwrap().losses[0].exp_m1();
    let mean = |correction: bool| {
        let mut sampler = ClassSampler::new(12, 0.25, 2).unwrap().with_correction(correction);
        let draws = 20_000;
        let sum: f64 = (0..draws)
            .map(|_| {
                let sample = sampler.sample(&problem.labels).unwrap();
                let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
                let forward = head.forward(&batch.with_sample(&sample));
                forward.unwrap().losses[0].exp_m1()
            })
            .sum();
        sum / f64::from(draws)
    };
    assert!((mean(true) / full - 1.0).abs() < 0.01);
    assert!((mean(false) / full - 2.0 / 11.0).abs() < 0.01);
}

#[test]
fn a_sample_of_another_batch_is_refused_and_nothing_is_written() {
    let problem = problem(5, (6, 4, 40), false);
    let batch = Batch::new(&problem.x, &problem.w, &problem.labels);
    let mut sampler = ClassSampler::new(40, 0.5, 2).unwrap();
    let good = sampler.sample(&problem.labels).unwrap();
    let mut marked = Gradients::zeros_for(&batch);
    marked.embeddings = Array2::from_elem((6, 4), 7.0);
    marked.weights = Array2::from_elem((3, 3), 7.0);
    marked.bias = Some(Array1::zeros(1));
    let refuse = |sample: &ClassSample| {
        let mut gradients = marked.clone();
        let head = Head::new(Spec::Modified.build());
        let batch = Batch::new(&problem.x, &problem.w, &problem.labels).with_sample(sample);
        let answer = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
        assert_eq!(gradients, marked);
        answer.unwrap_err()
    };
    let changed = |change: &dyn Fn(&mut ClassSample)| {
        let mut sample = good.clone();
        change(&mut sample);
        sample
    };
    assert_eq!(
        refuse(&changed(&|s| s.classes.swap(3, 4))),
        Error::Sample { field: "classes", position: 4 }
    );
    assert_eq!(
        refuse(&changed(&|s| s.classes[4] = s.classes[3])),
        Error::Sample { field: "classes", position: 4 }
    );
    assert_eq!(
        refuse(&changed(&|s| s.classes[19] = 40)),
        Error::Sample { field: "classes", position: 19 }
    );
    let shifted = |s: &mut ClassSample| s.labels[2] = (s.labels[2] + 1) % 20;
    assert_eq!(refuse(&changed(&shifted)), Error::Sample { field: "labels", position: 2 });
    let lost = |s: &mut ClassSample| s.labels[1] = ClassSample::ABSENT;
    assert_eq!(refuse(&changed(&lost)), Error::Sample { field: "labels", position: 1 });
    let short = changed(&|s| {
        s.labels.pop();
    });
    assert!(matches!(refuse(&short), Error::Shape { .. }));
    let mut other = ClassSampler::new(80, 0.5, 2).unwrap();
    let others = other.sample(&problem.labels).unwrap();
    assert!(matches!(refuse(&others), Error::Sample { .. }));
}

/// One gradient buffer through samples and batches of different sizes, with a bias and without.
#[test]
fn gradients_of_another_sample_are_refused_and_keep_their_values() {
    let problem = problem(6, (8, 3, 50), true);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let samples = [0.5, 0.9]
        .map(|rate| ClassSampler::new(50, rate, 1).unwrap().sample(&problem.labels).unwrap());
    let head = Head::new(Spec::Softmax.build());
    let mut gradients = Gradients::zeros_for(&inputs.batch().with_sample(&samples[0]));
    gradients.weights.fill(7.0);
    let kept = gradients.clone();
    let batch = inputs.batch();
    let other = batch.with_sample(&samples[1]);
    let refused = head.forward_backward(&other, Reduction::Mean, &mut gradients).unwrap_err();
    let [expected, actual] = samples.each_ref().map(|sample| vec![sample.classes.len(), 3]);
    let (expected, actual) = (actual, expected);
    let argument = "gradients of class weights";
    assert_eq!(refused, Error::Shape { argument, expected, actual });
    assert_eq!(gradients, kept);
}

#[test]
fn a_sampled_step_has_losses_sides_and_predictions_of_their_own() {
    let problem = problem(6, (8, 5, 50), true);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let sample = ClassSampler::new(50, 0.4, 1).unwrap().sample(&problem.labels).unwrap();
    let batch = inputs.batch();
    let batch = batch.with_sample(&sample);
    let head = Head::new(Spec::Softmax.build());
    let mut both = Gradients::zeros_for(&batch);
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut both).unwrap();
    assert_eq!(head.forward(&batch).unwrap(), forward);
    assert_eq!(head.predict(&batch).unwrap(), forward.predictions());
    let mut of_x = Gradients::embeddings_only(&batch);
    head.forward_backward(&batch, Reduction::Mean, &mut of_x).unwrap();
    assert_eq!(of_x.embeddings, both.embeddings);
    let mut of_w = Gradients::weights_only(&batch);
    head.forward_backward(&batch, Reduction::Mean, &mut of_w).unwrap();
    assert_eq!((of_w.weights, of_w.bias), (both.weights, both.bias));
}

/// Ranks draw from their own classes; together their samples hold the whole batch.
#[test]
fn samplers_of_ranges_pass_over_labels_elsewhere() {
    let labels = [4, 19, 4, 11];
    let ranges = [0..7, 7..7, 7..12, 12..20];
    let mut seen = Array1::from_elem(4, 0);
    let mut drawn = vec![];
    for range in ranges {
        let start = range.start;
        let mut sampler = ClassSampler::for_range(range.clone(), 0.5, 3).unwrap();
        assert_eq!(sampler.range(), range);
        let sample = sampler.sample(&labels).unwrap();
        assert!(sample.classes.iter().all(|&row| row < range.len()));
        assert_eq!(sample.classes.len(), range.len() / 2);
        for (i, &place) in sample.labels.iter().enumerate() {
            if place != ClassSample::ABSENT {
                assert_eq!(start + sample.classes[place], labels[i]);
                seen[i] += 1;
            }
        }
        drawn.push(Array1::from(sample.classes));
    }
    assert_eq!(seen, Array1::from_elem(4, 1));
    let all = drawn.iter().map(|rows| rows.view()).collect::<Vec<_>>();
    assert_eq!(concatenate(Axis(0), &all).unwrap().len(), 9);
}

/// A state that a stranger wrote may have any range.
#[test]
fn a_sample_beyond_any_memory_is_refused() {
    for (rate, range) in [(1.0, 0..usize::MAX), (0.5, 0..1 << 60), (0.9, 1 << 50..1 << 60)] {
        let state = ClassSampler::new(10, 0.5, 1).unwrap().state();
        let whole = range.start == 0;
        let state = SamplerState { rate, range, whole, ..state };
        let mut sampler = ClassSampler::from_state(state.clone()).unwrap();
        let refused = sampler.sample(&[1 << 55]).unwrap_err();
        let parameter = "number of sampled classes";
        assert!(matches!(refused, Error::Parameter { parameter: p, .. } if p == parameter));
        assert_eq!(sampler.state(), state);
    }
}
