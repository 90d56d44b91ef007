//! Steps that move the class parameters as their gradient is made: they are the separate gradient and
//! update, bit for bit, and a refused one leaves everything as it was.

use std::fmt::Debug;

use margin_softmax::ranks::{Collective, ThreadCollective};
use margin_softmax::sampling::{ClassSample, ClassSampler};
use margin_softmax::update::WeightUpdate;
use margin_softmax::{
    AdamW, Batch, BatchMut, Error, Forward, Gradients, Head, IGNORED, Real, Reduction, Sgd,
};
use ndarray::{Array1, Array2, Axis, concatenate, s};

use crate::common::layout::{LAYOUTS, Layout, lay_out};
use crate::common::oracle::Problem;
use crate::common::ranks::{even, on_ranks, problem};
use crate::common::run::Inputs;
use crate::common::spec::{Spec, menu};

fn momentum<F: Real>() -> Sgd<F> {
    Sgd::new(0.05).unwrap().with_momentum(0.9).unwrap().with_weight_decay(0.01).unwrap()
}

fn nesterov<F: Real>() -> Sgd<F> {
    momentum().with_nesterov(true)
}

fn adamw<F: Real>() -> AdamW<F> {
    AdamW::new(0.01).unwrap()
}

/// What a step changes.
#[derive(Debug, Clone, PartialEq)]
struct Moved<F, U> {
    w: Array2<F>,
    b: Option<Array1<F>>,
    update: U,
    dx: Array2<F>,
}

impl<F: Real, U: WeightUpdate<F> + Clone> Moved<F, U> {
    fn new(inputs: &Inputs<F>, update: U) -> Self {
        let dx = Array2::from_elem(inputs.x.dim(), F::from_f64(7.0).unwrap());
        Moved { w: inputs.w.clone(), b: inputs.b.clone(), update, dx }
    }

    fn batch<'a>(
        inputs: &'a Inputs<F>,
        w: &'a mut Array2<F>,
        b: &'a mut Option<Array1<F>>,
    ) -> BatchMut<'a, F> {
        let batch = BatchMut::new(&inputs.x, w, &inputs.labels);
        let batch = match b {
            Some(b) => batch.with_bias(b),
            None => batch,
        };
        batch.with_ignored_label(IGNORED)
    }

    fn fused(
        &mut self,
        head: &Head<impl margin_softmax::MarginLoss>,
        inputs: &Inputs<F>,
        reduction: Reduction<'_, F>,
    ) -> Result<Forward<F>, Error> {
        let mut batch = Self::batch(inputs, &mut self.w, &mut self.b);
        head.step(&mut batch, reduction, &mut self.update, &mut self.dx)
    }

    fn separate(
        &mut self,
        head: &Head<impl margin_softmax::MarginLoss>,
        inputs: &Inputs<F>,
        reduction: Reduction<'_, F>,
    ) -> Forward<F> {
        let batch = Self::batch(inputs, &mut self.w, &mut self.b);
        let mut gradients = Gradients::zeros_for(&batch.view());
        let forward = head.forward_backward(&batch.view(), reduction, &mut gradients).unwrap();
        self.update.apply(&mut self.w, &gradients.weights).unwrap();
        if let (Some(b), Some(gradient)) = (&mut self.b, &gradients.bias) {
            self.update.apply_bias(b, gradient).unwrap();
        }
        self.dx = gradients.embeddings;
        forward
    }
}

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

fn with_ignored(mut problem: Problem) -> Problem {
    problem.labels[1] = IGNORED;
    problem
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
fn a_refused_step_leaves_everything_as_it_was() {
    type Spoil = fn(&mut Inputs<f32>, &mut Moved<f32, Sgd<f32>>);
    let spoils: [(&str, Spoil); 7] = [
        ("embeddings[1, 0] is NaN", |inputs, _| inputs.x[[1, 0]] = f32::NAN),
        ("class weights[19, 2] is inf", |_, moved| moved.w[[19, 2]] = f32::INFINITY),
        ("class weights[3] has norm 0", |_, moved| moved.w.row_mut(3).fill(0.0)),
        ("gradients of embeddings has shape [3, 3]", |_, moved| moved.dx = Array2::ones((3, 3))),
        ("the new value of a class weight", |_, moved| moved.update.set_rate(1e38).unwrap()),
        ("class weights has shape [20, 3]", |_, moved| {
            moved.update.apply(&mut Array2::ones((5, 3)), &Array2::zeros((5, 3))).unwrap();
        }),
        ("reduction weights", |inputs, _| inputs.upstream = Array1::zeros(3)),
    ];
    for (said, spoil) in spoils {
        let mut inputs = problem(9, (4, 3, 20), false).inputs::<f32>([Layout::Standard; 2]);
        let mut moved = Moved::new(&inputs, momentum());
        spoil(&mut inputs, &mut moved);
        let before = format!("{moved:?} {:?}", moved.update.momentum_buffer());
        let head = Head::new(Spec::Modified.build());
        let upstream = inputs.upstream.clone();
        let error = moved.fused(&head, &inputs, Reduction::Weighted(&upstream)).unwrap_err();
        if !said.starts_with("the new value") {
            assert!(error.to_string().contains(said), "{error}");
        } else {
            assert!(matches!(error, Error::UpdateOverflow { .. }), "{error}");
        }
        assert_eq!(format!("{moved:?} {:?}", moved.update.momentum_buffer()), before);
    }
}

/// The momentum of an earlier step is there to be lost.
#[test]
fn a_refused_sampled_step_leaves_everything_as_it_was() {
    type Spoil = fn(&mut ClassSample, &mut Moved<f32, Sgd<f32>>);
    type Expected = fn(&Error) -> bool;
    let spoils: [(Spoil, Expected); 6] = [
        (
            |sample, _| sample.classes.swap(0, 1),
            |error| matches!(error, Error::Sample { field: "classes", position: 1 }),
        ),
        (
            |sample, _| sample.labels[2] = ClassSample::ABSENT,
            |error| matches!(error, Error::Sample { field: "labels", position: 2 }),
        ),
        (
            |sample, _| *sample = ClassSampler::new(50, 0.5, 1).unwrap().sample(&[0; 4]).unwrap(),
            |error| matches!(error, Error::Sample { field: "classes", position: 9 }),
        ),
        (
            |sample, moved| moved.w[[sample.classes[3], 1]] = f32::NAN,
            |error| matches!(error, Error::NonFinite { column: 1, .. }),
        ),
        (
            |_, moved| moved.update.set_rate(1e38).unwrap(),
            |error| matches!(error, Error::UpdateOverflow { .. }),
        ),
        (
            |_, moved| moved.dx = Array2::ones((3, 3)),
            |error| matches!(error, Error::Shape { argument: "gradients of embeddings", .. }),
        ),
    ];
    for (case, (spoil, expected)) in spoils.into_iter().enumerate() {
        let inputs = problem(13, (4, 3, 20), false).inputs::<f32>([Layout::Standard; 2]);
        let mut sample = ClassSampler::new(20, 0.5, 2).unwrap().sample(&inputs.labels).unwrap();
        let mut moved = Moved::new(&inputs, momentum());
        let head = Head::new(Spec::Modified.build());
        moved.fused(&head, &inputs, Reduction::Mean).unwrap();
        spoil(&mut sample, &mut moved);
        let before = format!("{moved:?} {:?}", moved.update.momentum_buffer());
        let Moved { w, b, update, dx } = &mut moved;
        let batch = Moved::<f32, Sgd<f32>>::batch(&inputs, w, b);
        let error =
            head.step(&mut batch.with_sample(&sample), Reduction::Mean, update, dx).unwrap_err();
        assert!(expected(&error), "case {case}: {error}");
        assert_eq!(format!("{moved:?} {:?}", moved.update.momentum_buffer()), before);
    }
}

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
