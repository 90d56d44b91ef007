//! A step of several ranks is that of one, and what one of them refuses moves nothing on any.

use super::*;

/// What a rank's step returns, and its parameters before and after.
type OnRank = (Result<Forward<f64>, Error>, [Moved<f64, Sgd<f64>>; 2]);

/// A step of one rank with its rows of W and its own state, over all of its classes or those of a
/// sample.
fn on_rank<C: Collective<f64>>(
    inputs: &Inputs<f64>,
    spec: &Spec,
    (collective, range): (C, std::ops::Range<usize>),
    sample: Option<&ClassSample>,
    prepare: impl Fn(&mut Moved<f64, Sgd<f64>>),
) -> OnRank {
    let mut moved = Moved::new(inputs, momentum());
    moved.w = inputs.w.slice(s![range.clone(), ..]).to_owned();
    moved.b = inputs.b.as_ref().map(|b| b.slice(s![range.clone()]).to_owned());
    prepare(&mut moved);
    let before = moved.clone();
    let Moved { w, b, update, dx } = &mut moved;
    let mut shard = BatchMut::new(&inputs.x, w, &inputs.labels);
    if let Some(b) = b {
        shard = shard.with_bias(b);
    }
    let head = Head::on_ranks(spec.build(), collective, range);
    let forward = match sample {
        Some(sample) => head.step(&mut shard.with_sample(sample), Reduction::Mean, update, dx),
        None => head.step(&mut shard, Reduction::Mean, update, dx),
    };
    (forward, [before, moved])
}

#[test]
fn a_step_of_ranks_is_that_of_one() {
    for spec in menu() {
        let inputs =
            problem(10, (6, 5, 90), spec == Spec::Softmax).inputs::<f64>([Layout::Standard; 2]);
        let mut one = Moved::new(&inputs, momentum());
        let expected = one.fused(&Head::new(spec.build()), &inputs, Reduction::Mean).unwrap();
        let ranks = on_ranks(&even(90, 4), |rank, range| {
            on_rank(&inputs, &spec, (rank, range), None, |_| ())
        });
        let weights: Vec<_> = ranks.iter().map(|(_, [_, moved])| moved.w.view()).collect();
        let w = concatenate(Axis(0), &weights).unwrap();
        approx::assert_abs_diff_eq!(w, one.w, epsilon = 1e-11);
        for (forward, [_, moved]) in &ranks {
            let forward = forward.as_ref().unwrap();
            approx::assert_abs_diff_eq!(forward.losses, expected.losses, epsilon = 1e-11);
            approx::assert_abs_diff_eq!(moved.dx, one.dx, epsilon = 1e-11);
            assert_eq!(moved.dx, ranks[0].1[1].dx);
        }
    }
}

/// Gives every row a momentum, the same on one rank and on its part of several.
fn earlier_step(moved: &mut Moved<f64, Sgd<f64>>) {
    let Moved { w, b, update, .. } = moved;
    let gradient = w.mapv(|w| 0.3 - 0.2 * w);
    update.apply(w, &gradient).unwrap();
    if let Some(b) = b {
        let gradient = Array1::from_elem(b.len(), 0.1);
        update.apply_bias(b, &gradient).unwrap();
    }
}

/// One rank's step over the classes that all ranks drew: gradients of their rows, and the update.
fn one_step_among(
    classes: &[usize],
    inputs: &Inputs<f64>,
    spec: &Spec,
    Moved { w, b, update, dx }: &mut Moved<f64, Sgd<f64>>,
) -> Forward<f64> {
    let place = |label: &usize| classes.binary_search(label).unwrap();
    let labels: Vec<_> = inputs.labels.iter().map(place).collect();
    let drawn = w.select(Axis(0), classes);
    let drawn_bias = b.as_ref().map(|b| b.select(Axis(0), classes));
    let batch = Batch::new(&inputs.x, &drawn, &labels);
    let batch = drawn_bias.as_ref().map_or(batch, |b| batch.with_bias(b));
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(spec.build());
    let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients).unwrap();
    update.apply_rows(w, classes, &gradients.weights).unwrap();
    if let (Some(b), Some(gradient)) = (b, &gradients.bias) {
        update.apply_bias_rows(b, classes, gradient).unwrap();
    }
    *dx = gradients.embeddings;
    forward
}

#[test]
fn a_sampled_step_of_two_ranks_is_that_of_one() {
    const CLASSES: usize = 90;
    for spec in menu() {
        let inputs = problem(14, (6, 5, CLASSES), spec == Spec::Softmax)
            .inputs::<f64>([Layout::Standard; 2]);
        let ranks = on_ranks(&even(CLASSES, 2), |rank, range| {
            let mut sampler = ClassSampler::for_range(range.clone(), 0.3, 5).unwrap();
            let sample = sampler.sample(&inputs.labels).unwrap();
            let drawn: Vec<_> = sample.classes.iter().map(|row| range.start + row).collect();
            let answer = on_rank(&inputs, &spec, (rank, range), Some(&sample), earlier_step);
            (answer, drawn)
        });
        let drawn: Vec<usize> = ranks.iter().flat_map(|(_, drawn)| drawn.clone()).collect();
        assert!(drawn.len() < CLASSES / 2);
        let mut one = Moved::new(&inputs, momentum());
        earlier_step(&mut one);
        let before = one.clone();
        let expected = one_step_among(&drawn, &inputs, &spec, &mut one);

        for ((forward, [_, moved]), _) in &ranks {
            let forward = forward.as_ref().unwrap();
            approx::assert_abs_diff_eq!(forward.losses, expected.losses, epsilon = 1e-11);
            approx::assert_abs_diff_eq!(moved.dx, one.dx, epsilon = 1e-11);
        }
        let parts = ranks.iter().map(|((_, [_, moved]), _)| moved);
        let weights: Vec<_> = parts.clone().map(|moved| moved.w.view()).collect();
        let w = concatenate(Axis(0), &weights).unwrap();
        let updates: Vec<_> = parts.clone().map(|moved| moved.update.clone()).collect();
        let update = Sgd::concatenate(&updates).unwrap();
        let buffers = [&update, &one.update].map(|update| update.momentum_buffer().unwrap());
        approx::assert_abs_diff_eq!(w, one.w, epsilon = 1e-11);
        approx::assert_abs_diff_eq!(buffers[0], buffers[1], epsilon = 1e-11);
        if let Some(expected) = &one.b {
            let bias: Vec<_> = parts.map(|moved| moved.b.as_ref().unwrap().view()).collect();
            let b = concatenate(Axis(0), &bias).unwrap();
            approx::assert_abs_diff_eq!(b, *expected, epsilon = 1e-11);
        }
        for row in 0..CLASSES {
            let kept = !drawn.contains(&row);
            assert_eq!(w.row(row) == before.w.row(row), kept, "{spec:?}, row {row}");
            let of_row = |update: &Sgd<f64>| update.rows(row..row + 1).unwrap();
            assert_eq!(of_row(&update) == of_row(&before.update), kept, "{spec:?}, row {row}");
        }
    }
}

/// The samples of the others are valid.
#[test]
fn a_sample_that_one_rank_refuses_moves_nothing_on_any() {
    let inputs = problem(15, (6, 5, 30), false).inputs::<f64>([Layout::Standard; 2]);
    let ranks = on_ranks(&even(30, 2), |rank, range| {
        let mut sampler = ClassSampler::for_range(range.clone(), 0.6, 5).unwrap();
        let mut sample = sampler.sample(&inputs.labels).unwrap();
        if rank.rank() == 1 {
            sample.classes.swap(0, 1);
        }
        on_rank(&inputs, &Spec::Modified, (rank, range), Some(&sample), earlier_step)
    });
    let refused = Error::Sample { field: "classes", position: 1 };
    for (answer, [before, after]) in ranks {
        let reason = refused.to_string();
        assert_eq!(answer.unwrap_err(), Error::Collective { rank: 1, reason });
        assert!(before == after);
    }
}

/// The update of one rank refuses; that of the others has not begun.
#[test]
fn what_the_update_of_one_rank_refuses_moves_nothing_on_any() {
    let inputs = problem(11, (6, 5, 30), false).inputs::<f64>([Layout::Standard; 2]);
    let spec = Spec::Modified;
    let ranks = on_ranks(&even(30, 3), |collective, range| {
        let spoiled = collective.rank() == 1;
        on_rank(&inputs, &spec, (collective, range), None, |moved| {
            if spoiled {
                moved.update.set_rate(1e308).unwrap();
            }
        })
    });
    for (answer, [before, after]) in ranks {
        assert!(matches!(answer, Err(Error::Collective { rank: 1, .. })), "{answer:?}");
        assert!(before == after);
    }
}

/// A rank that is lost before the weights move leaves everything as it was; one that is lost in the
/// sum of the embeddings' gradients comes too late: the others' weights have moved.
#[test]
fn a_lost_rank_is_an_error_before_and_after_the_weights_move() {
    struct Lost {
        rank: ThreadCollective,
        entries: usize,
    }
    impl Collective<f64> for Lost {
        fn rank(&self) -> usize {
            self.rank.rank()
        }
        fn size(&self) -> usize {
            self.rank.size()
        }
        fn all_reduce_max(&self, values: &mut [f64]) -> Result<(), Error> {
            self.rank.all_reduce_max(values)
        }
        fn all_reduce_sum(&self, values: &mut [f64]) -> Result<(), Error> {
            assert!(self.rank() != 0 || values.len() != self.entries, "this rank is lost");
            self.rank.all_reduce_sum(values)
        }
        fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
            self.rank.all_gather(values)
        }
    }
    let (n, d) = (4, 5);
    let inputs = problem(12, (n, d, 9), false).inputs::<f64>([Layout::Standard; 2]);
    for (entries, too_late) in [(6 * n, false), (n * d, true)] {
        let ranks = on_ranks(&even(9, 3), |rank, range| {
            let lost = Lost { rank, entries };
            let run = || on_rank(&inputs, &Spec::Modified, (lost, range), None, |_| ());
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
        });
        assert!(ranks[0].is_none());
        for (answer, [before, after]) in ranks.into_iter().flatten() {
            let gone = Error::Collective { rank: 0, reason: "is gone".into() };
            assert_eq!(answer.unwrap_err(), gone);
            assert_eq!(before.w != after.w, too_late);
            assert_eq!(before.update != after.update, too_late);
        }
    }
}
