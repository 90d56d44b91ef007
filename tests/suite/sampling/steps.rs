//! Steps over sampled classes are steps over their rows.

use super::*;

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
