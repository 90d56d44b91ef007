//! A call with a timeout is the same call, and one that waits too long returns an error.

mod support;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use margin_softmax::Error;
use margin_softmax::ranks::Collective;
use margin_softmax_mpi::MpiCollective;
use margin_softmax_mpi::mpi::topology::{Color, SimpleCommunicator};
use margin_softmax_mpi::mpi::traits::Communicator;
use support::{Job, judged, missed, on_ranks, on_timed_ranks};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than any job of a test may last.
const FOR_EVER: Duration = Duration::from_secs(1000);

/// The job failed by itself and printed the line once.
fn assert_failed(job: &Job, line: &str) {
    assert_eq!(job.output.status.code(), Some(1), "{job:?}");
    assert_eq!(job.stderr().lines().filter(|&found| found == line).count(), 1, "{job:?}");
}

/// Rank 2 is busy for ever, outside the collective.
#[test]
fn a_call_that_one_rank_does_not_make_is_an_error_on_the_others_and_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| {
        let rank = collective.rank();
        let mut sums = [1.0_f64, 2.0];
        collective.all_reduce_sum(&mut sums)?;
        assert_eq!(sums, [3.0, 6.0]);
        if rank == 2 {
            thread::sleep(FOR_EVER);
        }
        let error = collective.all_reduce_max(&mut sums).unwrap_err();
        assert_eq!((&error, sums), (&missed(rank, "all_reduce_max", TIMEOUT), [3.0, 6.0]));
        assert_eq!(collective.all_gather(&[1.0_f32]), Err(error.clone()));
        Err(error)
    };
    judged(Some(TIMEOUT), &[3], work, |_, job| {
        for rank in 0..2 {
            let error = missed(rank, "all_reduce_max", TIMEOUT);
            assert_failed(job, &format!("error on rank {rank}: {error}"));
        }
    })
}

/// A program that hides the error cannot end MPI either.
#[test]
fn a_missed_deadline_ends_the_job_even_if_the_program_ignores_it() -> ExitCode {
    let work = |collective: &MpiCollective| {
        if collective.rank() == 0 {
            thread::sleep(FOR_EVER);
        }
        collective.all_reduce_sum(&mut [1.0_f32]).unwrap_err();
        Ok::<_, Error>(())
    };
    judged(Some(TIMEOUT), &[2], work, |_, job| {
        assert_failed(job, &format!("error on rank 1: {}", missed(1, "all_reduce_sum", TIMEOUT)));
    })
}

/// A collective that a program makes itself.
#[test]
fn dropping_a_collective_that_missed_a_deadline_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| -> Result<(), Error> {
        let timeout = TIMEOUT / 2;
        let own = MpiCollective::with_timeout(&SimpleCommunicator::world(), timeout)?;
        if collective.rank() == 1 {
            thread::sleep(FOR_EVER);
        }
        assert_eq!(own.all_gather(&[1.0_f32]), Err(missed(0, "all_gather", timeout)));
        drop(own);
        panic!("the job goes on");
    };
    judged(Some(TIMEOUT), &[2], work, |_, job| {
        let error = missed(0, "all_gather", TIMEOUT / 2);
        assert_failed(job, &format!("error on rank 0: {error}"));
        assert!(!job.stderr().contains("panicked"), "{job:?}");
    })
}

#[test]
fn the_end_of_the_job_has_the_deadline_of_a_call() -> ExitCode {
    let work = |collective: &MpiCollective| {
        if collective.rank() == 1 {
            thread::sleep(FOR_EVER);
        }
        Ok::<_, Error>(())
    };
    judged(Some(TIMEOUT), &[2], work, |_, job| {
        assert_failed(
            job,
            &format!("error on rank 0: {}", missed(0, "the end of the job", TIMEOUT)),
        );
    })
}

/// Between its calls a rank may take as long as the timeout.
#[test]
fn each_call_has_the_whole_timeout() -> ExitCode {
    on_timed_ranks(TIMEOUT, &[2], |collective| {
        for _ in 0..4 {
            thread::sleep(if collective.rank() == 0 { TIMEOUT * 2 / 5 } else { Duration::ZERO });
            collective.all_reduce_sum(&mut [1.0_f32])?;
        }
        Ok::<_, Error>(())
    })
}

/// The ranks of a part of a job, in another order than in the job.
#[test]
fn a_part_of_the_ranks_keeps_its_order() -> ExitCode {
    on_timed_ranks(TIMEOUT, &[4], |collective| {
        let world = SimpleCommunicator::world();
        let rank = collective.rank();
        let color = Color::with_value(i32::from(rank == 2));
        let part = world.split_by_color_with_key(color, -world.rank()).ok_or("no part").unwrap();
        let part = MpiCollective::with_timeout(&part, TIMEOUT)?;
        assert_eq!(part.timeout(), Some(TIMEOUT));
        let expected: &[f32] = if rank == 2 { &[2.0] } else { &[3.0, 1.0, 0.0] };
        assert_eq!(part.all_gather(&[rank as f32])?, expected);
        assert_eq!(part.size(), expected.len());
        assert_eq!(expected[part.rank()], rank as f32);
        Ok::<_, Error>(())
    })
}

#[test]
fn a_timeout_of_zero_is_refused() -> ExitCode {
    on_ranks(&[2], |_| {
        let refused = MpiCollective::with_timeout(&SimpleCommunicator::world(), Duration::ZERO);
        let (parameter, expected) = ("timeout in seconds", "> 0");
        let error = Error::Parameter { parameter, value: 0.0, expected };
        assert_eq!(refused.unwrap_err(), error);
        Ok::<_, Error>(())
    })
}

/// `run` initializes MPI for calls from one thread only.
#[test]
fn mpi_that_only_one_thread_may_call_has_no_timeouts() -> ExitCode {
    on_ranks(&[2], |collective| {
        let refused = MpiCollective::with_timeout(&SimpleCommunicator::world(), TIMEOUT);
        let reason = "a timeout needs MPI_THREAD_SERIALIZED, and MPI was initialized as Funneled";
        let error = Error::Collective { rank: collective.rank(), reason: reason.into() };
        assert_eq!(refused.unwrap_err(), error);
        Ok::<_, Error>(())
    })
}
