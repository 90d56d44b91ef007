//! Jobs over hosts of one machine: their results are those of one machine, and the loss of a host
//! ends them. As root on Linux; elsewhere these tests say why they are skipped.
#![cfg(target_os = "linux")]

#[path = "../../../../examples/common/digits.rs"]
mod digits;
mod lan;
#[path = "../../../../examples/common/network.rs"]
mod network;
#[path = "../../examples/train_digits_mpi/training.rs"]
mod split;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::{self, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;
use margin_softmax::Error;
use margin_softmax::ranks::Collective;
use margin_softmax_mpi::MpiCollective;

use crate::digits::Dataset;
use crate::lan::Lan;
use crate::support::{Job, missed, on_a_rank, test_name};

/// Longer than the other ranks of a job need for a step, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
/// For what a job does before it is disturbed.
const START: Duration = Duration::from_secs(120);
/// For the end of a disturbed job, daemons included. 20 seconds are usual.
const END: Duration = Duration::from_secs(90);
/// Epochs without an end.
const MANY: usize = 100_000;

/// Trains on the digits, and prints a hash of the bits of all losses, with the host.
fn report_losses(collective: &MpiCollective) -> Result<()> {
    let data = Dataset::bundled()?;
    let mut hasher = DefaultHasher::new();
    let mut losses = 0;
    let mut model = split::train(&data.train, collective, (5, 0), |loss| {
        loss.to_bits().hash(&mut hasher);
        losses += 1;
    })?;
    let (hash, accuracy) = (hasher.finish(), model.accuracy(&data.held_out)?);
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let rank = collective.rank();
    println!("result: rank {rank}, {losses} losses {hash:x}, accuracy {accuracy} @{host}");
    Ok(())
}

/// The results that ranks printed, in their order, and their hosts.
fn results<'a>(lines: impl Iterator<Item = &'a str>) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut results: Vec<_> = lines
        .filter_map(|line| line.split_once("result: ").and_then(|(_, line)| line.split_once(" @")))
        .collect();
    results.sort_unstable();
    results.into_iter().unzip()
}

#[test]
fn three_hosts_have_the_bits_of_one_machine() -> ExitCode {
    let work = |collective: &MpiCollective| report_losses(collective);
    let test = test_name(&work);
    on_a_rank(Some(START), work).unwrap_or_else(|| {
        let Some(lan) = Lan::new(3) else { return ExitCode::SUCCESS };
        let (status, lines) = lan.start(test).end(START);
        assert!(status.success(), "{lines:#?}");
        let (found, mut hosts) = results(lines.iter().map(String::as_str));
        let machine = Job::run(3, test).stdout();
        let (expected, _) = results(machine.lines());
        assert_eq!((found.len(), &found), (3, &expected), "{lines:#?}");
        hosts.dedup();
        assert_eq!(hosts.len(), 3, "{lines:#?}");
        ExitCode::SUCCESS
    })
}

/// Prints the process of each rank when it has trained for a while, and trains on.
fn train_on(collective: &MpiCollective) -> Result<()> {
    let data = Dataset::bundled()?;
    let (rank, process) = (collective.rank(), process::id());
    let mut steps = 0;
    let watch = |_| {
        steps += 1;
        if steps == 20 {
            println!("process of rank {rank}: {process}");
        }
    };
    split::train(&data.train, collective, (MANY, 0), watch).map(drop)
}

/// Cuts the cable of host 2 when all ranks have printed `line`. Those of the other hosts return
/// the typed error, and no process is left.
fn cut_cable(lan: &Lan, test: &str, line: impl Fn(usize) -> String, calls: &[&str]) {
    let mut job = lan.start(test);
    (0..lan.size).for_each(|rank| drop(job.rest_of_line(&line(rank), START)));
    lan.cut_cable_of(2);
    let cut = Instant::now();
    let (status, lines) = job.end(END);
    println!("the job ended {:.1} s after the cable was cut", cut.elapsed().as_secs_f64());
    assert!(!status.success(), "{lines:#?}");
    for rank in (0..lan.size).filter(|&rank| rank + 1 != 2) {
        let error = |call: &&str| {
            lines.contains(&format!("error on rank {rank}: {}", missed(rank, call, TIMEOUT)))
        };
        assert!(calls.iter().any(error), "rank {rank}: {lines:#?}");
    }
}

#[test]
fn a_cut_cable_is_a_typed_error_on_the_other_hosts_and_ends_the_job() -> ExitCode {
    let work = |collective: &MpiCollective| {
        let error = train_on(collective).unwrap_err().downcast::<Error>()?;
        anyhow::ensure!(
            matches!(&error, Error::Collective { rank, .. } if *rank == collective.rank())
        );
        Err::<(), _>(error.into())
    };
    let test = test_name(&work);
    on_a_rank(Some(TIMEOUT), work).unwrap_or_else(|| {
        let Some(lan) = Lan::new(3) else { return ExitCode::SUCCESS };
        let line = |rank| format!("process of rank {rank}: ");
        cut_cable(&lan, test, line, &["all_reduce_max", "all_reduce_sum", "all_gather"]);
        ExitCode::SUCCESS
    })
}

/// Most of the time of such a call is that of its numbers, after the check of the call.
#[test]
fn a_cable_cut_during_a_long_transfer_is_the_same_error() -> ExitCode {
    let work = |collective: &MpiCollective| {
        let numbers: Vec<f32> = (0..1 << 22).map(|i| (i % 1021) as f32).collect();
        for turn in 0.. {
            let mut sums = numbers.clone();
            if let Err(error) = collective.all_reduce_sum(&mut sums) {
                assert!(sums == numbers, "a call that fails leaves its numbers");
                assert_eq!(collective.all_gather(&sums), Err(error.clone()));
                return Err(error);
            }
            if turn == 2 {
                println!("rank {} sums", collective.rank());
            }
        }
        Ok(())
    };
    let test = test_name(&work);
    on_a_rank(Some(TIMEOUT), work).unwrap_or_else(|| {
        let Some(lan) = Lan::new(2) else { return ExitCode::SUCCESS };
        cut_cable(&lan, test, |rank| format!("rank {rank} sums"), &["all_reduce_sum"]);
        ExitCode::SUCCESS
    })
}

#[test]
fn a_killed_rank_ends_the_job_on_all_hosts() -> ExitCode {
    let work = |collective: &MpiCollective| train_on(collective);
    let test = test_name(&work);
    on_a_rank(Some(START), work).unwrap_or_else(|| {
        let Some(lan) = Lan::new(3) else { return ExitCode::SUCCESS };
        let mut job = lan.start(test);
        let process = job.rest_of_line("process of rank 1: ", START);
        assert!(Command::new("kill").args(["-9", &process]).status().unwrap().success());
        let killed = Instant::now();
        let (status, lines) = job.end(END);
        println!("the job ended {:.1} s after a rank was killed", killed.elapsed().as_secs_f64());
        assert!(!status.success(), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("signal 9")), "{lines:#?}");
        ExitCode::SUCCESS
    })
}
