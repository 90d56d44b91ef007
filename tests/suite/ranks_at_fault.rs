//! What is wrong on one rank is refused on all, with the same error; a rank that is lost hangs
//! nobody.

use margin_softmax::{Batch, Head};
use std::ops::Range;

use crate::common::layout::Layout;
use crate::common::ranks::{by_ranks, even, on_ranks, problem};
use crate::common::run::Inputs;
use crate::common::spec::Spec;
use margin_softmax::ranks::{Collective, ThreadCollective};
use margin_softmax::sampling::ClassSampler;
use margin_softmax::{Error, Gradients, Reduction};
use ndarray::{Array1, Array2, s};

/// What one rank finds wrong every rank refuses, with the same error, its gradients untouched.
fn refused(
    ranges: &[Range<usize>],
    spoil: impl Fn(usize, &mut Inputs<f32>, &mut Range<usize>, &mut Gradients<f32>) + Sync,
) -> Error {
    let problem = problem(11, (4, 3, 10), false);
    let errors = on_ranks(ranges, |collective, mut range| {
        let rank = collective.rank();
        let mut inputs = problem.inputs::<f32>([Layout::Standard; 2]);
        inputs.w = inputs.w.slice(s![range.clone(), ..]).to_owned();
        let shard = Batch::new(&inputs.x, &inputs.w, &inputs.labels);
        let mut gradients = Gradients::zeros_for(&shard);
        gradients.embeddings.fill(7.0);
        gradients.weights.fill(7.0);
        spoil(rank, &mut inputs, &mut range, &mut gradients);
        let before = gradients.clone();
        let shard = Batch::new(&inputs.x, &inputs.w, &inputs.labels);
        let head = Head::on_ranks(Spec::Modified.build(), collective, range);
        let reduction = if rank == 5 { Reduction::Sum } else { Reduction::Mean };
        let error = head.forward_backward(&shard, reduction, &mut gradients).unwrap_err();
        assert!(gradients == before, "{error}: gradients were written");
        error
    });
    assert!(errors.iter().all(|error| *error == errors[0]), "{errors:?}");
    errors[0].clone()
}

fn said(error: Error) -> (usize, String) {
    match error {
        Error::Collective { rank, reason } => (rank, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_label_that_no_rank_owns_is_the_same_error_on_every_rank() {
    let error = refused(&even(10, 3), |_, inputs, _, _| inputs.labels[2] = 10);
    assert_eq!(error, Error::Label { row: 2, label: 10, classes: 10 });
}

#[test]
fn what_all_ranks_find_wrong_is_that_error() {
    let error = refused(&even(10, 3), |_, inputs, _, _| inputs.x[[1, 2]] = f32::INFINITY);
    assert!(matches!(error, Error::NonFinite { argument: "embeddings", row: 1, column: 2, .. }));
}

#[test]
fn what_one_rank_finds_wrong_is_said_by_all() {
    let (rank, reason) = said(refused(&even(10, 3), |rank, inputs, _, _| {
        if rank == 1 {
            inputs.w[[2, 0]] = f32::NAN;
        }
    }));
    assert_eq!((rank, &reason[..]), (1, "class weights[2, 0] is NaN: every entry must be finite"));

    let (rank, reason) = said(refused(&even(10, 4), |rank, _, _, gradients| {
        if rank >= 2 {
            gradients.embeddings = Array2::from_elem((rank, 3), 7.0);
        }
    }));
    assert_eq!(rank, 2);
    assert!(reason.starts_with("gradients of embeddings has shape [2, 3]"), "{reason}");

    let (rank, reason) = said(refused(&even(10, 2), |rank, inputs, _, _| {
        if rank == 0 {
            inputs.w = Array2::ones((3, 3));
        }
    }));
    assert_eq!(rank, 0);
    assert!(reason.starts_with("class weights has shape [3, 3]"), "{reason}");

    let (rank, _) = said(refused(&even(10, 2), |rank, inputs, _, _| {
        if rank == 1 {
            inputs.x = Array2::zeros((0, 3));
        }
    }));
    assert_eq!(rank, 1);
}

#[test]
fn batches_that_differ_are_refused_by_all() {
    let (rank, reason) = said(refused(&even(10, 3), |rank, inputs, _, gradients| {
        if rank == 2 {
            inputs.x = Array2::ones((5, 3));
            inputs.labels = vec![0; 5];
            gradients.embeddings = Array2::from_elem((5, 3), 7.0);
        }
    }));
    assert_eq!(rank, 2);
    assert_eq!(reason, "5 embeddings, on rank 0 4");

    let (rank, reason) = said(refused(&even(10, 3), |rank, inputs, _, _| {
        if rank == 1 {
            inputs.labels[3] = (inputs.labels[3] + 1) % 10;
        }
    }));
    assert_eq!((rank, &reason[..]), (1, "labels or reduction are not those of rank 0"));

    let (rank, reason) = said(refused(&even(10, 6), |_, _, _, _| ()));
    assert_eq!((rank, &reason[..]), (5, "labels or reduction are not those of rank 0"));
}

#[test]
fn ranges_that_overlap_or_leave_a_class_out_are_refused_by_all() {
    let (rank, reason) = said(refused(&[0..4, 3..10], |_, _, _, _| ()));
    assert_eq!((rank, &reason[..]), (1, "holds classes 3..10, of which another rank holds 3 too"));
    let (rank, reason) = said(refused(&[0..4, 5..10], |_, _, _, _| ()));
    assert_eq!((rank, &reason[..]), (1, "holds classes 5..10, but no rank holds 4..5"));
}

/// A bias on an angular loss, given on one rank.
#[test]
fn a_bias_on_one_rank_is_refused_by_all() {
    let problem = problem(12, (3, 2, 6), false);
    let b = Array1::zeros(3);
    let errors = on_ranks(&even(6, 2), |collective, range| {
        let w = problem.w.slice(s![range.clone(), ..]);
        let mut shard = Batch::new(&problem.x, &w, &problem.labels);
        if range.start > 0 {
            shard = shard.with_bias(&b);
        }
        Head::on_ranks(Spec::Modified.build(), collective, range).forward(&shard).unwrap_err()
    });
    assert_eq!(errors[0], errors[1]);
    assert_eq!(said(errors[0].clone()), (1, Error::Bias.to_string()));
}

#[test]
fn a_rank_that_is_gone_is_an_error_on_the_others() {
    let problem = problem(13, (4, 3, 9), false);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let spec = Spec::Cos { s: 8.0, m: 0.1 };
    let results = on_ranks(&even(9, 3), |collective, range| {
        if collective.rank() == 1 {
            return None;
        }
        Some(by_ranks(&spec, &inputs, Reduction::Mean, (collective, range)).unwrap_err())
    });
    let gone = Error::Collective { rank: 1, reason: "is gone".into() };
    assert_eq!(results, [Some(gone.clone()), None, Some(gone)]);
}

/// Panics in the middle of a step, between the sweeps.
#[test]
fn a_rank_that_panics_is_an_error_on_the_others() {
    struct Faulty(ThreadCollective);
    impl Collective<f64> for Faulty {
        fn rank(&self) -> usize {
            self.0.rank()
        }
        fn size(&self) -> usize {
            self.0.size()
        }
        fn all_reduce_max(&self, values: &mut [f64]) -> Result<(), Error> {
            self.0.all_reduce_max(values)
        }
        fn all_reduce_sum(&self, values: &mut [f64]) -> Result<(), Error> {
            assert!(self.0.rank() != 0, "this rank panics");
            self.0.all_reduce_sum(values)
        }
        fn all_gather(&self, values: &[f64]) -> Result<Vec<f64>, Error> {
            self.0.all_gather(values)
        }
    }
    let problem = problem(14, (4, 3, 9), false);
    let inputs = problem.inputs::<f64>([Layout::Standard; 2]);
    let spec = Spec::Cos { s: 8.0, m: 0.1 };
    let results = on_ranks(&even(9, 3), |collective, range| {
        let run = || by_ranks(&spec, &inputs, Reduction::Mean, (Faulty(collective), range));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok()
    });
    assert!(results[0].is_none());
    let gone = Error::Collective { rank: 0, reason: "is gone".into() };
    for answer in &results[1..] {
        assert_eq!(answer.as_ref().unwrap().as_ref().unwrap_err(), &gone);
    }
}

#[test]
fn calls_that_do_not_match_are_refused_by_all() {
    let errors = on_ranks(&even(2, 2), |collective, range| {
        let mut values = vec![1.0_f32; 1 + range.start];
        collective.all_reduce_sum(&mut values).unwrap_err()
    });
    assert_eq!(errors[0], errors[1]);
    let errors = on_ranks(&even(3, 3), |collective, range| {
        if range.start == 1 {
            collective.all_gather(&[1.0_f32]).unwrap_err()
        } else {
            collective.all_reduce_max(&mut [1.0_f32]).unwrap_err()
        }
    });
    assert!(errors.iter().all(|error| matches!(error, Error::Collective { .. })));
}

/// Classes sampled on one rank only, or corrected on one only.
#[test]
fn ranks_that_sample_differently_are_refused_by_all() {
    let problem = problem(17, (4, 3, 20), false);
    let run = |kinds: [Option<bool>; 2]| {
        on_ranks(&even(20, 2), |collective, range| {
            let w = problem.w.slice(s![range.clone(), ..]);
            let shard = Batch::new(&problem.x, &w, &problem.labels);
            let kind = kinds[usize::from(range.start > 0)];
            let sampler = ClassSampler::for_range(range.clone(), 0.6, 1).unwrap();
            let sample = kind.map(|corrected| {
                sampler.with_correction(corrected).sample(&problem.labels).unwrap()
            });
            let shard = sample.as_ref().map_or(shard, |sample| shard.with_sample(sample));
            let mut gradients = Gradients::zeros_for(&shard);
            let head = Head::on_ranks(Spec::Modified.build(), collective, range);
            let answer = head.forward_backward(&shard, Reduction::Mean, &mut gradients);
            if answer.is_err() {
                assert_eq!(gradients, Gradients::zeros_for(&shard));
            }
            answer
        })
    };
    let kinds =
        [(None, "no sample"), (Some(false), "a sample"), (Some(true), "a sample with correction")];
    for (first, of_first) in kinds {
        for (second, of_second) in kinds {
            for answer in run([first, second]) {
                if first == second {
                    answer.unwrap();
                } else {
                    let expected = format!("takes {of_second} of the classes, rank 0 {of_first}");
                    assert_eq!(said(answer.unwrap_err()), (1, expected));
                }
            }
        }
    }
}

/// A sample of another batch on one rank.
#[test]
fn a_stale_sample_on_one_rank_is_refused_by_all() {
    let problem = problem(16, (4, 3, 20), false);
    let errors = on_ranks(&even(20, 2), |collective, range| {
        let w = problem.w.slice(s![range.clone(), ..]);
        let mut sampler = ClassSampler::for_range(range.clone(), 0.5, 1).unwrap();
        let mut sample = sampler.sample(&problem.labels).unwrap();
        if range.start > 0 {
            sample = sampler.sample(&[0; 4]).unwrap();
        }
        let shard = Batch::new(&problem.x, &w, &problem.labels);
        let head = Head::on_ranks(Spec::Modified.build(), collective, range);
        let mut gradients = Gradients::zeros_for(&shard.with_sample(&sample));
        let answer =
            head.forward_backward(&shard.with_sample(&sample), Reduction::Mean, &mut gradients);
        assert_eq!(gradients, Gradients::zeros_for(&shard.with_sample(&sample)));
        answer.unwrap_err()
    });
    assert_eq!(errors[0], errors[1]);
    assert_eq!(said(errors[0].clone()).0, 1);
}
