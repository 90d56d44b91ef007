//! Classes split over the ranks of a job give the result of a single process, on every rank.

#[path = "../../../tests/suite/common/mod.rs"]
mod common;
mod support;

use std::ops::Range;
use std::process::ExitCode;

use common::compare::{bits, wide};
use common::layout::Layout;
use common::oracle::Problem;
use common::ranks::{by_ranks, even, problem, ranges, with_shard};
use common::run::Inputs;
use common::spec::{Spec, menu};
use margin_softmax::ranks::{Collective, class_range};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Batch, Error, Forward, Gradients, Head, IGNORED, Real, Reduction};
use margin_softmax_mpi::MpiCollective;
use margin_softmax_mpi::mpi::topology::{Color, SimpleCommunicator};
use margin_softmax_mpi::mpi::traits::{Communicator, Equivalence};
use ndarray::{Array2, ArrayView1, Axis, s};
use support::{assert_close, on_ranks};

/// Every rank holds the same bits.
fn assert_shared<F: Real + Equivalence>(
    what: &str,
    collective: &MpiCollective,
    values: ArrayView1<'_, F>,
) -> Result<(), Error> {
    let all = collective.all_gather(&values.to_vec())?;
    let rank_0 = bits(&all[..values.len()]);
    assert!(bits(values) == rank_0, "{what}: ranks differ");
    Ok(())
}

fn assert_forward<F: Real>(what: &str, found: &Forward<F>, one: &Forward<F>, tolerance: f64) {
    for (&a, &b) in found.losses.iter().zip(&one.losses) {
        let (a, b) = (wide(a), wide(b));
        assert!((a - b).abs() <= tolerance * b, "{what}: loss {a:e} for {b:e}");
    }
    assert_eq!(found.predictions(), one.predictions(), "{what}");
    assert_eq!(found.target_angles(), one.target_angles(), "{what}");
}

/// Compares the step of this rank with that of a single process.
fn assert_equals_one_machine<F: Real + Equivalence>(
    spec: &Spec,
    problem: &Problem,
    collective: &MpiCollective,
    range: Range<usize>,
    tolerance: f64,
) -> Result<(), Error> {
    let inputs = problem.inputs::<F>([Layout::Standard; 2]);
    for reduction in [Reduction::Mean, Reduction::Weighted(&inputs.upstream)] {
        let what = format!("{spec:?} {range:?} {reduction:?}");
        let mut expected = Gradients::zeros_for(&inputs.batch());
        let head = Head::new(spec.build());
        let one = head.forward_backward(&inputs.batch(), reduction, &mut expected)?;
        let (forward, found) = by_ranks(spec, &inputs, reduction, (collective, range.clone()))?;
        assert_forward(&what, &forward, &one, tolerance);
        assert_close(&what, found.embeddings.view(), expected.embeddings.view(), tolerance);
        let rows = expected.weights.slice(s![range.clone(), ..]);
        assert_close(&what, found.weights.view(), rows, tolerance);
        if let (Some(found), Some(expected)) = (&found.bias, &expected.bias) {
            assert_close(&what, found.view(), expected.slice(s![range.clone()]), tolerance);
        }
        assert_shared(&what, collective, forward.losses.view())?;
        assert_shared(&what, collective, found.embeddings.flatten().view())?;
    }
    Ok(())
}

fn assert_equal_in_both_types(
    spec: &Spec,
    problem: &Problem,
    collective: &MpiCollective,
    ranges: &[Range<usize>],
) -> Result<(), Error> {
    let range = &ranges[collective.rank()];
    assert_equals_one_machine::<f64>(spec, problem, collective, range.clone(), 1e-12)?;
    assert_equals_one_machine::<f32>(spec, problem, collective, range.clone(), 1e-5)
}

#[test]
fn every_loss_on_any_number_of_ranks_is_one_machines() -> ExitCode {
    on_ranks(&[1, 2, 3, 4], |collective| {
        menu().iter().try_for_each(|spec| {
            let problem = problem(1, (9, 6, 40), *spec == Spec::Softmax);
            assert_equal_in_both_types(spec, &problem, collective, &even(40, collective.size()))
        })
    })
}

#[test]
fn shards_may_be_uneven_and_empty() -> ExitCode {
    on_ranks(&[4], |collective| {
        let sphere = Spec::Sphere { m: 4, lambda: 0.0 };
        for spec in [Spec::Softmax, sphere, Spec::Cos { s: 64.0, m: 0.35 }] {
            let problem = problem(2, (12, 5, 600), spec == Spec::Softmax);
            for edges in [[0, 1, 600, 600, 600], [0, 0, 513, 513, 600], [0, 299, 300, 301, 600]] {
                assert_equal_in_both_types(&spec, &problem, collective, &ranges(&edges))?;
            }
        }
        // One class: no other class on any rank.
        let alone = problem(3, (3, 4, 1), false);
        assert_equal_in_both_types(&Spec::Modified, &alone, collective, &ranges(&[0, 0, 1, 1, 1]))
    })
}

/// The same head is used for a last, smaller batch.
#[test]
fn one_head_takes_batches_of_varying_size() -> ExitCode {
    on_ranks(&[3], |collective| {
        let spec = Spec::Cos { s: 64.0, m: 0.35 };
        let range = class_range(1500, collective.rank(), collective.size());
        let split = Head::on_ranks(spec.build(), collective, range.clone());
        let head = Head::new(spec.build());
        for samples in [40, 40, 3, 17] {
            let problem = problem(samples as u64, (samples, 20, 1500), false);
            let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
            let mut expected = Gradients::zeros_for(&inputs.batch());
            let one = head.forward_backward(&inputs.batch(), Reduction::Mean, &mut expected)?;
            let (forward, found) = with_shard(&inputs, &range, |shard| {
                let mut found = Gradients::zeros_for(shard);
                let forward = split.forward_backward(shard, Reduction::Mean, &mut found)?;
                Ok((forward, found))
            })?;
            assert_forward("losses", &forward, &one, 1e-12);
            assert_close("dx", found.embeddings.view(), expected.embeddings.view(), 1e-12);
            let rows = expected.weights.slice(s![range.clone(), ..]);
            assert_close("dw", found.weights.view(), rows, 1e-12);
        }
        Ok::<_, Error>(())
    })
}

/// Each rank samples its own classes; the step equals that of a single process over all of them.
#[test]
fn sampling_on_each_rank_is_sampling_on_one_machine() -> ExitCode {
    on_ranks(&[1, 2, 4], |collective| {
        let range = class_range(90, collective.rank(), collective.size());
        for spec in menu() {
            let problem = problem(9, (10, 7, 90), spec == Spec::Softmax);
            assert_samples(&spec, &problem.inputs([Layout::Standard; 2]), collective, &range)?;
        }
        Ok::<_, Error>(())
    })
}

fn assert_samples(
    spec: &Spec,
    inputs: &Inputs<f64>,
    collective: &MpiCollective,
    range: &Range<usize>,
) -> Result<(), Error> {
    let sample = ClassSampler::for_range(range.clone(), 0.4, 11)?.sample(&inputs.labels)?;
    let (forward, found) = with_shard(inputs, range, |shard| {
        let shard = &shard.with_sample(&sample);
        let mut found = Gradients::zeros_for(shard);
        let head = Head::on_ranks(spec.build(), collective, range.clone());
        let forward = head.forward_backward(shard, Reduction::Mean, &mut found)?;
        Ok::<_, Error>((forward, found))
    })?;

    let own: Vec<_> = sample.classes.iter().map(|row| (range.start + row) as f64).collect();
    let classes = collective.all_gather(&own)?;
    let first = classes.iter().position(|&class| class >= range.start as f64).unwrap_or_default();
    let classes: Vec<_> = classes.into_iter().map(|class| class as usize).collect();
    let place = |label: &usize| classes.binary_search(label).unwrap();
    let labels: Vec<_> = inputs.labels.iter().map(place).collect();
    let w = inputs.w.select(Axis(0), &classes);
    let b = inputs.b.as_ref().map(|b| b.select(Axis(0), &classes));
    let batch = Batch::new(&inputs.x, &w, &labels);
    let batch = b.as_ref().map_or(batch, |b| batch.with_bias(b));
    let mut expected = Gradients::zeros_for(&batch);
    let one = Head::new(spec.build()).forward_backward(&batch, Reduction::Mean, &mut expected)?;

    let what = format!("{spec:?} {range:?}");
    assert_close(&what, forward.losses.view(), one.losses.view(), 1e-12);
    let predictions: Vec<_> = one.predictions().iter().map(|&place| classes[place]).collect();
    assert_eq!(forward.predictions(), predictions, "{what}");
    assert_close(&what, found.embeddings.view(), expected.embeddings.view(), 1e-12);
    let rows = expected.weights.slice(s![first..first + own.len(), ..]);
    assert_close(&what, found.weights.view(), rows, 1e-12);
    Ok(())
}

/// A sample is ignored, and only the class weights get a gradient.
#[test]
fn ignored_samples_and_frozen_embeddings_are_those_of_one_machine() -> ExitCode {
    on_ranks(&[1, 3], |collective| {
        let spec = Spec::Cos { s: 16.0, m: 0.2 };
        let mut inputs = problem(5, (8, 6, 30), false).inputs::<f64>([Layout::Standard; 2]);
        inputs.labels[2] = IGNORED;
        let batch = Batch::new(&inputs.x, &inputs.w, &inputs.labels).with_ignored_label(IGNORED);
        let mut expected = Gradients::zeros_for(&batch);
        let head = Head::new(spec.build());
        let one = head.forward_backward(&batch, Reduction::Mean, &mut expected)?;

        let range = class_range(30, collective.rank(), collective.size());
        let rows = inputs.w.slice(s![range.clone(), ..]);
        let batch = Batch::new(&inputs.x, &rows, &inputs.labels).with_ignored_label(IGNORED);
        let mut found = Gradients::weights_only(&batch);
        let head = Head::on_ranks(spec.build(), collective, range.clone());
        let forward = head.forward_backward(&batch, Reduction::Mean, &mut found)?;
        assert_forward("losses", &forward, &one, 1e-12);
        assert_eq!((forward.counted(), found.embeddings.len()), (7, 0));
        assert_close("dw", found.weights.view(), expected.weights.slice(s![range, ..]), 1e-12);
        Ok::<_, Error>(())
    })
}

const RESHARDED: usize = 23;
const STEPS: usize = 5;

/// All rows of the weights after some steps on the first `size` ranks; each rank saves its own
/// rows.
fn train(
    collective: &MpiCollective,
    inputs: &Inputs<f64>,
    w: &Array2<f64>,
    size: usize,
) -> Result<Array2<f64>, Error> {
    let world = SimpleCommunicator::world();
    let color = Color::with_value(i32::from(collective.rank() >= size));
    let part = world.split_by_color(color).map(|part| MpiCollective::new(&part));
    let mut saved = vec![];
    if let Some(part) = part.filter(|_| collective.rank() < size) {
        let range = class_range(RESHARDED, part.rank(), part.size());
        let mut w = w.slice(s![range.clone(), ..]).to_owned();
        let head = Head::on_ranks(Spec::Cos { s: 16.0, m: 0.2 }.build(), part, range);
        for _ in 0..STEPS {
            let batch = Batch::new(&inputs.x, &w, &inputs.labels);
            let mut gradients = Gradients::zeros_for(&batch);
            head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
            w.scaled_add(-0.1, &gradients.weights);
        }
        saved = w.into_iter().collect();
    }
    let saved = collective.all_gather(&saved)?;
    Ok(Array2::from_shape_vec(w.dim(), saved).unwrap())
}

/// Weights trained on 3 ranks and loaded on 2 continue as in a single process.
#[test]
fn weights_of_some_ranks_load_on_others() -> ExitCode {
    on_ranks(&[4], |collective| {
        let mut inputs = problem(8, (6, 4, RESHARDED), false).inputs([Layout::Standard; 2]);
        let saved = train(collective, &inputs, &inputs.w, 3)?;
        let resharded = train(collective, &inputs, &saved, 2)?;
        let head = Head::new(Spec::Cos { s: 16.0, m: 0.2 }.build());
        for _ in 0..2 * STEPS {
            let mut gradients = Gradients::zeros_for(&inputs.batch());
            head.forward_backward(&inputs.batch(), Reduction::Mean, &mut gradients)?;
            inputs.w.scaled_add(-0.1, &gradients.weights);
        }
        assert_close("w", resharded.view(), inputs.w.view(), 1e-12);
        Ok::<_, Error>(())
    })
}
