//! Classes over ranks give what one machine gives, on every rank.

use std::cell::RefCell;
use std::ops::Range;

use crate::common::compare::{step_bits, wide};
use crate::common::layout::Layout;
use crate::common::oracle::Problem;
use crate::common::ranks::{by_ranks, even, on_ranks, problem, ranges, with_shard};
use crate::common::run::Inputs;
use crate::common::spec::{Spec, menu};
use margin_softmax::ranks::{Collective, ThreadCollective, class_range};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, Error, Gradients, Head, Real, Reduction, ZeroEmbedding};
use ndarray::{Array2, Axis, concatenate, s};

/// Within `tolerance` of the largest entry.
fn assert_close<F: Real>(what: &str, found: &[F], expected: &[F], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0_f64, |size, &v| size.max(wide(v).abs()));
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        let error = (wide(a) - wide(b)).abs();
        assert!(error <= tolerance * size, "{what}[{i}]: {a:e} for {b:e}, of {size:e}");
    }
}

fn slice<F: Real>(array: &Array2<F>) -> Vec<F> {
    array.iter().copied().collect()
}

/// The whole step of every rank against one machine's.
fn assert_equals_one_machine<F: Real>(
    spec: &Spec,
    problem: &Problem,
    ranges: &[Range<usize>],
    tolerance: f64,
) {
    let inputs = problem.inputs::<F>([Layout::Standard; 2]);
    for reduction in [Reduction::Mean, Reduction::Sum, Reduction::Weighted(&inputs.upstream)] {
        let what = format!("{spec:?} {ranges:?} {reduction:?}");
        let mut expected = Gradients::zeros_for(&inputs.batch());
        let head = Head::new(spec.build());
        let one = head.forward_backward(&inputs.batch(), reduction, &mut expected).unwrap();
        let all = on_ranks(ranges, |collective, range| {
            by_ranks(spec, &inputs, reduction, (collective, range)).unwrap()
        });
        for (forward, gradients) in &all {
            for (&a, &b) in forward.losses.iter().zip(&one.losses) {
                let (a, b) = (wide(a), wide(b));
                assert!((a - b).abs() <= tolerance * b, "{what}: loss {a:e} for {b:e}");
            }
            assert_eq!(forward.predictions(), one.predictions(), "{what}");
            assert_eq!(forward.accuracy(), one.accuracy(), "{what}");
            assert_eq!(forward.target_angles(), one.target_angles(), "{what}");
            let (found, expected) = (slice(&gradients.embeddings), slice(&expected.embeddings));
            assert_close(&format!("{what}: dx"), &found, &expected, tolerance);
            assert_eq!(gradients.embeddings, all[0].1.embeddings, "{what}");
            assert!(*forward == all[0].0, "{what}: ranks differ");
        }
        let rows: Vec<_> = all.iter().map(|(_, gradients)| gradients.weights.view()).collect();
        let weights = concatenate(Axis(0), &rows).unwrap();
        assert_close(
            &format!("{what}: dw"),
            &slice(&weights),
            &slice(&expected.weights),
            tolerance,
        );
        if let Some(bias) = &expected.bias {
            let found: Vec<F> =
                all.iter().flat_map(|(_, gradients)| gradients.bias.clone().unwrap()).collect();
            assert_close(&format!("{what}: db"), &found, &bias.to_vec(), tolerance);
        }
    }
}

fn assert_equal_in_both_types(spec: &Spec, problem: &Problem, ranges: &[Range<usize>]) {
    assert_equals_one_machine::<f64>(spec, problem, ranges, 1e-12);
    assert_equals_one_machine::<f32>(spec, problem, ranges, 1e-5);
}

#[test]
fn every_loss_on_any_number_of_ranks_is_one_machines() {
    for spec in menu() {
        let problem = problem(1, (9, 6, 40), spec == Spec::Softmax);
        for size in [1, 2, 3, 4, 7] {
            assert_equal_in_both_types(&spec, &problem, &even(40, size));
        }
    }
}

#[test]
fn shards_may_be_uneven_and_empty() {
    let specs = [Spec::Softmax, Spec::Sphere { m: 4, lambda: 0.0 }, Spec::Cos { s: 64.0, m: 0.35 }];
    for spec in specs {
        let problem = problem(2, (12, 5, 600), spec == Spec::Softmax);
        for edges in
            [&[0, 1, 600][..], &[0, 0, 600, 600], &[0, 0, 0, 300, 300, 599, 600], &[0, 513, 600]]
        {
            assert_equal_in_both_types(&spec, &problem, &ranges(edges));
        }
    }
    // One class: no negatives anywhere.
    let alone = problem(3, (3, 4, 1), false);
    assert_equal_in_both_types(&Spec::Modified, &alone, &ranges(&[0, 0, 1, 1]));
}

/// A rank's classes need not lie in the order of the ranks.
#[test]
fn ranges_may_come_in_any_order() {
    let problem = problem(4, (5, 3, 20), false);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let spec = Spec::Cos { s: 16.0, m: 0.2 };
    let (one, expected) = inputs.by_head(&Head::new(spec.build()));
    for (forward, gradients) in on_ranks(&[12..20, 0..5, 5..12], |collective, range| {
        let reduction = Reduction::Weighted(&inputs.upstream);
        by_ranks(&spec, &inputs, reduction, (collective, range)).unwrap()
    }) {
        assert_close("losses", &forward.losses.to_vec(), &one.losses.to_vec(), 1e-12);
        let (found, expected) = (slice(&gradients.embeddings), slice(&expected.embeddings));
        assert_close("dx", &found, &expected, 1e-12);
        assert_eq!(forward.predictions(), one.predictions());
    }
}

/// N above and below D, several tiles, several chunks; the last batch is smaller, and the heads
/// go on being used.
#[test]
fn one_head_takes_batches_of_varying_size() {
    let spec =
        Spec::Arc { s: 64.0, m: 0.5, continuation: margin_softmax::losses::Continuation::Monotone };
    let problems: Vec<_> =
        [40, 40, 3, 17].iter().map(|&n| problem(n as u64, (n, 20, 1500), false)).collect();
    let inputs: Vec<_> =
        problems.iter().map(|problem| problem.inputs::<f64>([Layout::Standard; 2])).collect();
    let all = on_ranks(&even(1500, 3), |collective, range| {
        let head = Head::on_ranks(spec.build(), collective, range.clone());
        let steps = inputs.iter().map(|inputs| {
            with_shard(inputs, &range, |shard| {
                let mut gradients = Gradients::zeros_for(shard);
                let reduction = Reduction::Mean;
                (head.forward_backward(shard, reduction, &mut gradients).unwrap(), gradients)
            })
        });
        steps.collect::<Vec<_>>()
    });
    let head = Head::new(spec.build());
    for (step, inputs) in inputs.iter().enumerate() {
        let mut expected = Gradients::zeros_for(&inputs.batch());
        let one = head.forward_backward(&inputs.batch(), Reduction::Mean, &mut expected).unwrap();
        for rank in &all {
            let (forward, gradients) = &rank[step];
            assert_close("losses", &forward.losses.to_vec(), &one.losses.to_vec(), 1e-12);
            let (found, expected) = (slice(&gradients.embeddings), slice(&expected.embeddings));
            assert_close("dx", &found, &expected, 1e-12);
        }
    }
}

/// Equal rows on several ranks: the nearest class is the lowest of them, as on one machine.
#[test]
fn of_equally_near_classes_on_several_ranks_the_lowest_is_predicted() {
    let mut problem = problem(6, (8, 4, 12), false);
    // Along the axes, so that products are exact in whichever order they are summed.
    problem.w = Array2::from_shape_fn((12, 4), |(j, k)| f64::from(u8::from(j % 4 == k)));
    for size in [1, 2, 3, 4, 7, 12] {
        assert_equal_in_both_types(&Spec::Cos { s: 8.0, m: 0.0 }, &problem, &even(12, size));
    }
}

/// Numbers of classes beyond the 24 bits of an f32's mantissa come through.
#[test]
fn predictions_are_exact_for_classes_beyond_the_mantissa_of_f32() {
    let first = (1 << 24) + 1;
    let (x, labels) = (Array2::from_elem((1, 2), 1.0_f32), [0]);
    let far = Array2::from_shape_fn((1, 2), |(_, k)| if k == 0 { -1.0_f32 } else { 0.2 });
    let broad = far.broadcast((first, 2)).unwrap();
    let near = Array2::from_elem((2, 2), 2.0_f32);
    for forward in on_ranks(&[0..first, first..first + 2], |collective, range| {
        let w = if range.start == 0 { broad.view() } else { near.view() };
        let head = Head::on_ranks(Spec::Modified.build(), collective, range);
        head.forward(&Batch::new(&x, &w, &labels)).unwrap()
    }) {
        assert_eq!(forward.predictions(), [first]);
    }
}

#[test]
fn two_runs_give_the_same_bits() {
    let problem = problem(7, (30, 20, 900), false);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    let run = || {
        on_ranks(&even(900, 4), |collective, range| {
            let spec = Spec::Cos { s: 64.0, m: 0.35 };
            let (f, g) = by_ranks(&spec, &inputs, Reduction::Mean, (collective, range)).unwrap();
            step_bits(&f, &g)
        })
    };
    assert!(run() == run());
}

/// Weights trained on 3 ranks and loaded on 2 go on as on one machine.
#[test]
fn weights_of_some_ranks_load_on_others() {
    let problem = problem(8, (6, 4, 23), false);
    let spec = Spec::Cos { s: 16.0, m: 0.2 };
    let train = |w: &Array2<f64>, size: usize| {
        let inputs = Inputs { w: w.clone(), ..problem.inputs::<f64>([Layout::Standard; 2]) };
        let saved = on_ranks(&even(23, size), |collective, range| {
            let mut w = w.slice(s![range.clone(), ..]).to_owned();
            let head = Head::on_ranks(spec.build(), collective, range);
            for _ in 0..5 {
                let shard = Batch::new(&inputs.x, &w, &inputs.labels);
                let mut gradients = Gradients::zeros_for(&shard);
                head.forward_backward(&shard, Reduction::Mean, &mut gradients).unwrap();
                w.scaled_add(-0.1, &gradients.weights);
            }
            w
        });
        let rows: Vec<_> = saved.iter().map(|w| w.view()).collect();
        concatenate(Axis(0), &rows).unwrap()
    };
    let resharded = train(&train(&problem.w, 3), 2);
    let alone = train(&train(&problem.w, 1), 1);
    assert_close("w", &slice(&resharded), &slice(&alone), 1e-12);
}

#[test]
fn class_ranges_cover_all_classes_evenly() {
    for classes in 0..40 {
        for size in 1..12 {
            let ranges = even(classes, size);
            assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>().len(), classes);
            assert!(ranges.iter().flat_map(Clone::clone).eq(0..classes));
            let (least, most) = (classes / size, classes.div_ceil(size));
            assert!(ranges.iter().all(|range| (least..=most).contains(&range.len())));
        }
    }
    assert_eq!(class_range(usize::MAX, 6, 7).end, usize::MAX);
    assert_eq!(class_range(5, 9, 3), 5..5);
}

/// Each rank samples its own classes; the step is one machine's over all of them together.
#[test]
fn sampling_on_each_rank_is_sampling_on_one_machine() {
    for spec in menu() {
        let problem = problem(9, (10, 7, 90), spec == Spec::Softmax);
        let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
        let all = on_ranks(&ranges(&[0, 40, 40, 55, 90]), |collective, range| {
            let mut sampler = ClassSampler::for_range(range.clone(), 0.4, 11).unwrap();
            let sample = sampler.sample(&inputs.labels).unwrap();
            with_shard(&inputs, &range, |shard| {
                let shard = &shard.with_sample(&sample);
                let head = Head::on_ranks(spec.build(), collective, range.clone());
                let reduction = Reduction::Mean;
                let mut gradients = Gradients::zeros_for(shard);
                let forward = head.forward_backward(shard, reduction, &mut gradients);
                let classes: Vec<_> = sample.classes.iter().map(|row| range.start + row).collect();
                (forward.unwrap(), gradients, classes)
            })
        });
        let classes: Vec<usize> = all.iter().flat_map(|rank| rank.2.clone()).collect();
        let place = |label: &usize| classes.binary_search(label).unwrap();
        let labels: Vec<_> = inputs.labels.iter().map(place).collect();
        let w = inputs.w.select(Axis(0), &classes);
        let b = inputs.b.as_ref().map(|b| b.select(Axis(0), &classes));
        let batch = Batch::new(&inputs.x, &w, &labels);
        let batch = b.as_ref().map_or(batch, |b| batch.with_bias(b));
        let mut expected = Gradients::zeros_for(&batch);
        let one = Head::new(spec.build())
            .forward_backward(&batch, Reduction::Mean, &mut expected)
            .unwrap();
        let rows: Vec<_> = all.iter().map(|rank| rank.1.weights.view()).collect();
        let weights = concatenate(Axis(0), &rows).unwrap();
        assert_close("dw", &slice(&weights), &slice(&expected.weights), 1e-12);
        for (forward, gradients, _) in &all {
            assert_close("losses", &forward.losses.to_vec(), &one.losses.to_vec(), 1e-12);
            assert_eq!(forward.target_angles(), one.target_angles());
            let predictions = one.predictions().iter().map(|&place| classes[place]);
            assert_eq!(forward.predictions(), predictions.collect::<Vec<_>>());
            let (found, expected) = (slice(&gradients.embeddings), slice(&expected.embeddings));
            assert_close("dx", &found, &expected, 1e-12);
        }
    }
}

#[test]
fn zero_embeddings_are_left_out_on_every_rank() {
    let mut problem = problem(10, (5, 3, 10), false);
    problem.x.row_mut(1).fill(0.0);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let loss = Spec::Cos { s: 8.0, m: 0.1 }.build();
    let head = Head::new(&loss).with_zero_embeddings(ZeroEmbedding::Skip);
    let one = head.forward(&inputs.batch()).unwrap();
    for forward in on_ranks(&even(10, 3), |collective, range| {
        let head = Head::on_ranks(&loss, collective, range.clone());
        let head = head.with_zero_embeddings(ZeroEmbedding::Skip);
        with_shard(&inputs, &range, |shard| head.forward(shard).unwrap())
    }) {
        assert_close("losses", &forward.losses.to_vec(), &one.losses.to_vec(), 1e-12);
        assert_eq!(forward.accuracy(), one.accuracy());
        approx::assert_relative_eq!(forward.mean(), one.mean(), epsilon = 1e-14);
    }
}

/// What crosses the ranks: a summary beforehand, 15 numbers of each sample, whatever the loss, and
/// the gradient of the embeddings.
#[test]
fn nothing_else_crosses_the_ranks() {
    struct Counting<'a>(&'a ThreadCollective, RefCell<Vec<(&'static str, usize)>>);
    impl Collective<f32> for Counting<'_> {
        fn rank(&self) -> usize {
            self.0.rank()
        }
        fn size(&self) -> usize {
            self.0.size()
        }
        fn all_reduce_max(&self, values: &mut [f32]) -> Result<(), Error> {
            self.1.borrow_mut().push(("max", values.len()));
            self.0.all_reduce_max(values)
        }
        fn all_reduce_sum(&self, values: &mut [f32]) -> Result<(), Error> {
            self.1.borrow_mut().push(("sum", values.len()));
            self.0.all_reduce_sum(values)
        }
        fn all_gather(&self, values: &[f32]) -> Result<Vec<f32>, Error> {
            self.1.borrow_mut().push(("gather", values.len()));
            self.0.all_gather(values)
        }
    }
    let (n, d) = (11, 6);
    let problem = problem(15, (n, d, 50), false);
    let inputs = problem.inputs::<f32>([Layout::Standard; 2]);
    for calls in on_ranks(&even(50, 2), |collective, range| {
        let counting = Counting(&collective, RefCell::default());
        with_shard(&inputs, &range, |shard| {
            let mut gradients = Gradients::zeros_for(shard);
            let loss = Spec::Cos { s: 64.0, m: 0.35 }.build();
            let head = Head::on_ranks(loss, &counting, range.clone());
            head.forward_backward(shard, Reduction::Mean, &mut gradients).unwrap();
        });
        counting.1.into_inner()
    }) {
        let expected =
            [("gather", 15), ("max", 4 * n), ("sum", 6 * n), ("max", 5 * n), ("sum", n * d)];
        assert_eq!(calls, expected);
    }
}
