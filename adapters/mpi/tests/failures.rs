//! A failure on one rank ends the work on all ranks, with the same error or by aborting the job.

#[path = "../../../tests/suite/common/mod.rs"]
mod common;
mod support;

use std::process::ExitCode;

use common::layout::Layout;
use common::ranks::problem;
use common::run::Inputs;
use common::spec::Spec;
use margin_softmax::ranks::{Collective, class_range};
use margin_softmax::{Batch, Error, Gradients, Head, Reduction};
use margin_softmax_mpi::MpiCollective;
use margin_softmax_mpi::mpi::topology::SimpleCommunicator;
use margin_softmax_mpi::mpi::traits::CommunicatorCollectives;
use ndarray::{Array2, s};
use support::{Job, on_ranks, on_ranks_judged, said};

const CLASSES: usize = 10;

/// The error of a step with invalid inputs on one rank or on all. The ranks continue together
/// afterwards.
fn refused(
    collective: &MpiCollective,
    spoil: impl FnOnce(usize, &mut Inputs<f32>),
) -> Result<Error, Error> {
    let range = class_range(CLASSES, collective.rank(), collective.size());
    let mut inputs = problem(11, (4, 3, CLASSES), false).inputs::<f32>([Layout::Standard; 2]);
    inputs.w = inputs.w.slice(s![range.clone(), ..]).to_owned();
    spoil(collective.rank(), &mut inputs);
    let batch = Batch::new(&inputs.x, &inputs.w, &inputs.labels);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::on_ranks(Spec::Modified.build(), collective, range);
    let answer = head.forward_backward(&batch, Reduction::Mean, &mut gradients);
    Collective::<f32>::all_gather(collective, &[])?;
    Ok(answer.unwrap_err())
}

#[test]
fn a_label_that_no_rank_owns_is_the_same_error_on_every_rank() -> ExitCode {
    on_ranks(&[1, 2, 3, 4], |collective| {
        let error = refused(collective, |_, inputs| inputs.labels[2] = CLASSES)?;
        assert_eq!(error, Error::Label { row: 2, label: CLASSES, classes: CLASSES });
        Ok::<_, Error>(())
    })
}

#[test]
fn a_wrong_shape_on_one_rank_is_the_same_error_on_every_rank() -> ExitCode {
    on_ranks(&[2, 3, 4], |collective| {
        let (rank, reason) = said(refused(collective, |rank, inputs| {
            if rank == 1 {
                inputs.w = Array2::ones((2, 3));
            }
        })?);
        assert_eq!(rank, 1);
        assert!(reason.starts_with("class weights has shape [2, 3]"), "{reason}");

        let last = collective.size() - 1;
        let (rank, reason) = said(refused(collective, |rank, inputs| {
            if rank == last {
                inputs.x = Array2::ones((5, 3));
                inputs.labels = vec![0; 5];
            }
        })?);
        assert_eq!(rank, last);
        assert_eq!(reason, "5 embeddings, on rank 0 4");

        let (rank, reason) = said(refused(collective, |rank, inputs| {
            if rank == last {
                inputs.labels.pop();
            }
        })?);
        assert_eq!(rank, last);
        assert!(reason.starts_with("labels has shape [3]"), "{reason}");
        Ok::<_, Error>(())
    })
}

/// The exit status of `mpirun` if a rank aborted the job.
const ABORTED: i32 = 1;
/// The exit status if every rank ended by itself and a test failed on one.
const ENDED: i32 = 101;

/// The job failed by itself, without a time-out, and printed the message once.
fn assert_failed(job: &Job, status: i32, message: &str) {
    assert_eq!(job.output.status.code(), Some(status), "{job:?}");
    assert_eq!(job.stderr().matches(message).count(), 1, "{job:?}");
}

#[test]
fn a_rank_that_panics_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| {
        assert!(collective.rank() != 1, "this rank panics");
        collective.all_reduce_sum(&mut [1.0_f32])
    };
    on_ranks_judged(&[2, 4], work, |size, job| {
        assert_failed(job, ABORTED, &format!("rank 1 of {size} panicked"));
        assert!(job.stderr().contains("this rank panics"), "{job:?}");
    })
}

/// The other ranks wait for something outside the collective.
#[test]
fn a_thread_that_panics_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| {
        if collective.rank() == 2 {
            std::thread::spawn(|| panic!("this thread panics")).join().ok();
        }
        SimpleCommunicator::world().barrier();
        Ok::<_, Error>(())
    };
    on_ranks_judged(&[3], work, |_, job| assert_failed(job, ABORTED, "rank 2 of 3 panicked"))
}

#[test]
fn an_error_that_all_ranks_return_ends_the_job_in_order_and_is_printed_once() -> ExitCode {
    let work = |collective: &MpiCollective| {
        let error = refused(collective, |_, inputs| inputs.labels[0] = CLASSES)?;
        Err::<(), _>(error)
    };
    on_ranks_judged(&[1, 3], work, |_, job| {
        let words = "error on every rank: labels[0] is 10, but there are 10 classes (0..10)\n";
        assert_failed(job, ENDED, words);
    })
}

/// The others wait for it in a step and get the error that it is gone.
#[test]
fn a_rank_that_fails_alone_is_an_error_on_the_others() -> ExitCode {
    let work = |collective: &MpiCollective| {
        if collective.rank() == 1 {
            return Err("this rank fails".into());
        }
        refused(collective, |_, _| ()).map(drop).map_err(|error| error.to_string())
    };
    on_ranks_judged(&[3], work, |_, job| {
        assert_failed(job, ENDED, "error on rank 1: this rank fails\n");
        assert_failed(job, ENDED, "error on rank 0: rank 1: is gone\n");
    })
}

/// The others wait for it outside the collective.
#[test]
fn a_rank_that_fails_while_others_wait_elsewhere_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| {
        if collective.rank() == 0 {
            return Err("this rank fails");
        }
        SimpleCommunicator::world().barrier();
        Ok(())
    };
    on_ranks_judged(&[2], work, |_, job| {
        assert_failed(job, ABORTED, "error on rank 0: this rank fails\n")
    })
}

/// A rank that ended without an error is gone too, and so is one that dropped its collective.
#[test]
fn a_rank_that_ends_early_is_an_error_on_the_others() -> ExitCode {
    on_ranks(&[3], |collective| {
        let own = MpiCollective::new(&SimpleCommunicator::world());
        if collective.rank() == 2 {
            return Ok(());
        }
        for _ in 0..2 {
            let gone = Error::Collective { rank: 2, reason: "is gone".into() };
            assert_eq!(own.all_gather(&[1.0_f64]), Err(gone.clone()));
        }
        drop(own);
        for _ in 0..2 {
            let gone = Error::Collective { rank: 2, reason: "is gone".into() };
            assert_eq!(collective.all_reduce_max(&mut [1.0_f32]), Err(gone));
        }
        Ok::<_, Error>(())
    })
}
