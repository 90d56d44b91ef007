//! Tests whose bodies run on the ranks of a job: the test starts `mpirun` with its own program,
//! which then runs this one test on each rank.
#![allow(dead_code)] // each test file uses its own part

mod mpirun;

use std::any::type_name;
use std::env;
use std::fmt::Display;
use std::process::{ExitCode, Output};
use std::time::Duration;

use assert_cmd::Command;
use margin_softmax::{Error, Real};
use margin_softmax_mpi::MpiCollective;
use ndarray::{ArrayView, Dimension};
use tempfile::TempDir;

/// Environment variable that is set on the ranks.
pub const ON_A_RANK: &str = "MARGIN_SOFTMAX_MPI_TEST";

/// Printed by a rank on which `work` succeeded.
const DONE: &str = "this rank is done";

/// Seconds after which `mpirun` ends a job, and this process ends `mpirun`.
const LIMITS: [u64; 2] = [90, 120];

/// The exit status of `mpirun` if a rank had a segmentation fault. OpenMPI 4 occasionally has one
/// in `MPI_Finalize` (open-mpi/ompi#10117), after the test; such a job is run again.
const CRASHED: i32 = 139;
const ATTEMPTS: usize = 3;

/// Runs `work` on every rank of a job of each of these sizes; it must succeed on all.
pub fn on_ranks<E: Display>(
    sizes: &[usize],
    work: impl FnOnce(&MpiCollective) -> Result<(), E>,
) -> ExitCode {
    judged(None, sizes, work, succeeds)
}

/// The same with calls that have a timeout.
pub fn on_timed_ranks<E: Display>(
    timeout: Duration,
    sizes: &[usize],
    work: impl FnOnce(&MpiCollective) -> Result<(), E>,
) -> ExitCode {
    judged(Some(timeout), sizes, work, succeeds)
}

fn succeeds(size: usize, job: &Job) {
    assert!(job.output.status.success(), "{size} ranks: {job:?}");
    assert_eq!(job.stdout().matches(DONE).count(), size, "{size} ranks: {job:?}");
}

/// Runs `work` on every rank of a job of each of these sizes, and `judge` on the result of each.
pub fn on_ranks_judged<W, E: Display>(
    sizes: &[usize],
    work: W,
    judge: impl Fn(usize, &Job),
) -> ExitCode
where
    W: FnOnce(&MpiCollective) -> Result<(), E>,
{
    judged(None, sizes, work, judge)
}

/// The same, with a timeout where there is one.
pub fn judged<W, E: Display>(
    timeout: Option<Duration>,
    sizes: &[usize],
    work: W,
    judge: impl Fn(usize, &Job),
) -> ExitCode
where
    W: FnOnce(&MpiCollective) -> Result<(), E>,
{
    let test = test_name(&work);
    on_a_rank(timeout, work).unwrap_or_else(|| {
        sizes.iter().for_each(|&size| judge(size, &Job::run(size, test)));
        ExitCode::SUCCESS
    })
}

/// Runs `work` if this process is a rank of a job, with a timeout where there is one.
pub fn on_a_rank<E: Display>(
    timeout: Option<Duration>,
    work: impl FnOnce(&MpiCollective) -> Result<(), E>,
) -> Option<ExitCode> {
    env::var_os(ON_A_RANK)?;
    let work = |collective: &MpiCollective| work(collective).map(|()| println!("{DONE}"));
    Some(match timeout {
        Some(timeout) => margin_softmax_mpi::run_with_timeout(timeout, work),
        None => margin_softmax_mpi::run(work),
    })
}

/// The path of the test that the closure is written in.
pub fn test_name<W>(_: &W) -> &'static str {
    let path = type_name::<W>();
    let path = path.split_once("::").map_or(path, |(_crate, path)| path);
    path.split("::{{closure}}").next().unwrap_or(path)
}

/// The arguments by which a program of tests runs one of them, on a rank.
pub fn arguments(test: &str) -> [&str; 4] {
    ["--exact", test, "--nocapture", "--test-threads=1"]
}

/// A finished job.
#[derive(Debug)]
pub struct Job {
    pub output: Output,
}

impl Job {
    pub fn run(size: usize, test: &str) -> Self {
        let mut jobs = (0..ATTEMPTS).map(|_| Self::attempt(size, test));
        let crashed = |job: &Job| job.output.status.code() == Some(CRASHED);
        jobs.find(|job| !crashed(job)).expect("the job crashes again and again")
    }

    fn attempt(size: usize, test: &str) -> Self {
        // Jobs that begin and end at once remove each other's directories from a common one.
        let directory = TempDir::new().unwrap();
        let mut command = mpirun::mpirun(size, 1);
        command
            .env("TMPDIR", directory.path())
            .args(["--timeout", &LIMITS[0].to_string()])
            .arg(env::current_exe().unwrap())
            .args(arguments(test))
            .env(ON_A_RANK, "1");
        let output = Command::from_std(command).timeout(Duration::from_secs(LIMITS[1])).output();
        Job { output: output.expect(mpirun::MISSING) }
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// Within `tolerance` of the largest entry.
pub fn assert_close<F: Real, D: Dimension>(
    what: &str,
    found: ArrayView<'_, F, D>,
    expected: ArrayView<'_, F, D>,
    tolerance: f64,
) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let wide = |value: &F| value.to_f64().unwrap();
    let size = expected.iter().fold(0.0_f64, |size, value| size.max(wide(value).abs()));
    for (a, b) in found.iter().zip(&expected) {
        assert!((wide(a) - wide(b)).abs() <= tolerance * size, "{what}: {a:e} for {b:e}");
    }
}

/// The rank and the message of an error that the ranks share.
pub fn said(error: Error) -> (usize, String) {
    match error {
        Error::Collective { rank, reason } => (rank, reason),
        other => panic!("{other:?}"),
    }
}

/// The error of a rank whose call waits longer than its timeout.
pub fn missed(rank: usize, call: &str, timeout: Duration) -> Error {
    let reason = format!("{call} waited for the other ranks beyond its timeout of {timeout:?}");
    Error::Collective { rank, reason }
}
