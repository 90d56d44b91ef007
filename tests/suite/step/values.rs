//! A step is the separate gradient and update, bit for bit, whatever its layout, sample or threads.

use super::*;

/// Three steps, fused and separate.
fn assert_fused_is_separate<F: Real, U: WeightUpdate<F> + Clone + PartialEq>(
    spec: &Spec,
    inputs: &Inputs<F>,
    budget: usize,
    update: U,
) {
    let fused_head = Head::new(spec.build()).with_memory_budget(budget);
    let head = Head::new(spec.build());
    let mut fused = Moved::new(inputs, update);
    let mut separate = fused.clone();
    let reductions = [Reduction::Weighted(&inputs.upstream), Reduction::Mean, Reduction::Sum];
    for reduction in reductions {
        let forward = fused.fused(&fused_head, inputs, reduction).unwrap();
        let expected = separate.separate(&head, inputs, reduction);
        assert_eq!(forward, expected, "{spec:?}");
        assert!(fused == separate, "{spec:?} {:?}, budget {budget}", fused.update);
    }
    // Of one class the gradient is 0.
    assert!(fused.w != inputs.w || fused.w.nrows() == 1);
}

/// N below and above D, with no logits kept, with some, and with all of them.
#[test]
fn a_step_is_gradient_and_update_bit_for_bit() {
    fn check<F: Real>() {
        for (seed, shape) in [(7, 12, 700), (40, 6, 600), (5, 3, 1)].into_iter().enumerate() {
            for spec in menu() {
                let problem = with_ignored(problem(seed as u64, shape, spec == Spec::Softmax));
                let inputs = problem.inputs::<F>([Layout::Standard; 2]);
                for budget in [0, 300 * shape.0 * size_of::<F>(), 1 << 28] {
                    assert_fused_is_separate(&spec, &inputs, budget, momentum());
                }
                assert_fused_is_separate(&spec, &inputs, 0, nesterov());
                assert_fused_is_separate(&spec, &inputs, 1 << 28, adamw());
                assert_fused_is_separate(&spec, &inputs, 1 << 28, Sgd::new(0.1).unwrap());
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn weights_in_any_layout_move_alike() {
    for spec in [Spec::Softmax, Spec::Cos { s: 16.0, m: 0.2 }] {
        let problem = problem(3, (9, 5, 600), spec == Spec::Softmax);
        for layout in LAYOUTS {
            let inputs = problem.inputs::<f64>([Layout::Standard, layout]);
            assert_fused_is_separate(&spec, &inputs, 1 << 20, momentum());
        }
    }
}

/// Weight decay and momentum move the rows all the same.
#[test]
fn a_batch_of_ignored_samples_is_a_step_by_zeros() {
    let problem = Problem { labels: vec![IGNORED; 4], ..problem(4, (4, 3, 600), true) };
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    assert_fused_is_separate(&Spec::Softmax, &inputs, 1 << 20, momentum());
}

#[test]
fn sampled_rows_move_and_the_others_keep_every_bit() {
    fn check<F: Real, U: WeightUpdate<F> + Clone + PartialEq>(update: U, layout: Layout) {
        for spec in menu() {
            let problem = problem(5, (8, 6, 2000), spec == Spec::Softmax);
            let inputs = problem.inputs::<F>([Layout::Standard, layout]);
            let sampler = ClassSampler::new(2000, 0.4, 3).unwrap();
            let mut sampler = sampler.with_correction(spec == Spec::Softmax);
            let head = Head::new(spec.build());
            let (mut fused, mut separate) =
                (Moved::new(&inputs, update.clone()), Moved::new(&inputs, update.clone()));
            for _ in 0..2 {
                let sample = sampler.sample(&inputs.labels).unwrap();
                let Moved { w, b, update, dx } = &mut fused;
                let batch = Moved::<F, U>::batch(&inputs, w, b);
                let forward = head
                    .step(&mut batch.with_sample(&sample), Reduction::Mean, update, dx)
                    .unwrap();
                let Moved { w, b, update, dx } = &mut separate;
                let batch = Moved::<F, U>::batch(&inputs, w, b);
                let mut gradients = Gradients::zeros_for(&batch.view().with_sample(&sample));
                let expected = head
                    .forward_backward(
                        &batch.view().with_sample(&sample),
                        Reduction::Mean,
                        &mut gradients,
                    )
                    .unwrap();
                update.apply_rows(w, &sample.classes, &gradients.weights).unwrap();
                if let (Some(b), Some(gradient)) = (b, &gradients.bias) {
                    update.apply_bias_rows(b, &sample.classes, gradient).unwrap();
                }
                *dx = gradients.embeddings;
                assert_eq!(forward, expected);
                assert!(fused == separate, "{spec:?}");
            }
        }
    }
    check::<f32, _>(momentum(), Layout::Standard);
    check::<f64, _>(adamw(), Layout::Reversed);
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let problem = problem(6, (40, 30, 9000), false);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let spec = Spec::Cos { s: 32.0, m: 0.3 };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut moved = Moved::new(&inputs, adamw());
        let head = Head::new(spec.build()).with_memory_budget(1 << 20);
        pool.install(|| moved.fused(&head, &inputs, Reduction::Mean)).unwrap();
        moved
    };
    let one = run(1);
    assert!([2, 3, 5].into_iter().all(|threads| run(threads) == one));
}

#[test]
fn an_update_chosen_at_run_time_takes_the_same_step() {
    let inputs = problem(7, (4, 3, 20), false).inputs::<f64>([Layout::Standard; 2]);
    let head = Head::new(Spec::Modified.build());
    let mut expected = Moved::new(&inputs, momentum());
    expected.fused(&head, &inputs, Reduction::Mean).unwrap();
    let mut boxed: Box<dyn WeightUpdate<f64>> = Box::new(momentum());
    let (mut w, mut dx) = (inputs.w.clone(), Array2::zeros((4, 3)));
    for by_box in [true, false] {
        w.assign(&inputs.w);
        boxed = Box::new(momentum());
        let mut batch = BatchMut::new(&inputs.x, &mut w, &inputs.labels);
        if by_box {
            head.step(&mut batch, Reduction::Mean, &mut boxed, &mut dx).unwrap();
        } else {
            head.step(&mut batch, Reduction::Mean, &mut *boxed, &mut dx).unwrap();
        }
        assert_eq!((&w, &dx), (&expected.w, &expected.dx));
    }
    drop(boxed);
}

#[test]
fn an_empty_gradient_of_the_embeddings_is_not_asked_for() {
    let inputs = problem(8, (4, 3, 20), false).inputs::<f64>([Layout::Standard; 2]);
    let head = Head::new(Spec::Modified.build());
    let (mut with, mut without) =
        (Moved::new(&inputs, momentum()), Moved::new(&inputs, momentum()));
    without.dx = Array2::zeros((0, 3));
    with.fused(&head, &inputs, Reduction::Mean).unwrap();
    without.fused(&head, &inputs, Reduction::Mean).unwrap();
    assert_eq!(with.w, without.w);
}

#[test]
fn slices_are_a_batch() {
    let x = [3.0_f32, 0.0, 0.5, 2.0];
    let (mut w, mut dx) = ([1.0_f32, 0.1, 0.2, 1.0, -1.0, 0.0], Array2::zeros((2, 2)));
    let labels = [0, 1];
    assert!(BatchMut::from_slices(&x[..3], &mut w, &labels, 2).is_err());
    let mut batch = BatchMut::from_slices(&x, &mut w, &labels, 2).unwrap();
    let head = Head::new(Spec::Modified.build());
    let mut update = Sgd::new(0.1).unwrap();
    head.step(&mut batch, Reduction::Mean, &mut update, &mut dx).unwrap();
    assert!(Batch::from_slices(&x, &w, &labels, 2).is_ok() && w[0] != 1.0);
    assert_eq!(lay_out(&dx, Layout::Standard), dx);
}
