//! Measures the cost of splitting the classes over MPI ranks on one machine: the step time of 1, 2,
//! 4 … ranks that share its cores, compared with one process. Start it without `mpirun`.

#[path = "../tests/support/mpirun.rs"]
mod mpirun;
#[path = "../../../examples/common/say.rs"]
mod say;

use std::ops::Range;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use margin_softmax::ranks::{Collective, class_range};
use margin_softmax::{Batch, CosFace, Gradients, Head, Reduction};
use margin_softmax_mpi::MpiCollective;
use ndarray::Array2;
use say::say;

/// Measure the step of classes split over MPI ranks against one process with all cores
#[derive(Parser)]
struct Args {
    /// Samples in a batch
    #[arg(long, value_name = "N", default_value_t = 512)]
    samples: usize,
    /// Dimensions of an embedding
    #[arg(long, value_name = "D", default_value_t = 512)]
    dims: usize,
    /// Classes
    #[arg(long, value_name = "C", default_value_t = 100_000)]
    classes: usize,
    /// Numbers of ranks
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    ranks: Vec<usize>,
    /// Rounds; each round measures every configuration once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Steps per measurement, after one warm-up step
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// The role of a process that this program starts
    #[arg(long, hide = true)]
    mode: Option<Mode>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    SingleRank,
    Rank,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.mode {
        Some(Mode::Rank) => return margin_softmax_mpi::run(|collective| rank(&args, collective)),
        Some(Mode::SingleRank) => alone(&args),
        None => compare(&args),
    };
    done.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

/// Pseudo-random rows: an additive sequence for each entry.
fn rows(range: Range<usize>, dims: usize) -> Array2<f32> {
    Array2::from_shape_fn((range.len(), dims), |(row, k)| {
        let j = (range.start + row) as f64;
        let turns = (j + 1.0) * ((k as f64 + 2.0).sqrt() + 0.1 * j);
        (turns.fract() - 0.5) as f32
    })
}

impl Args {
    fn batch(&self) -> (Array2<f32>, Vec<usize>) {
        let labels = (0..self.samples).map(|i| i * 7919 % self.classes).collect();
        (rows(0..self.samples, self.dims), labels)
    }

    /// The seconds of each step except the first.
    fn time(&self, mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        step()?;
        let timed = (0..self.steps).map(|_| {
            let start = Instant::now();
            step().map(|()| start.elapsed().as_secs_f64())
        });
        timed.collect()
    }

    /// The seconds of each step that a process of this program prints.
    fn turn(&self, mut command: Command, mode: Mode) -> Result<Vec<f64>> {
        let sizes = [
            ("--samples", self.samples),
            ("--dims", self.dims),
            ("--classes", self.classes),
            ("--steps", self.steps as usize),
        ];
        command.args(sizes.iter().map(|(name, size)| format!("{name}={size}")));
        let part = match mode {
            Mode::SingleRank => "--mode=single-rank",
            Mode::Rank => "--mode=rank",
        };
        let output = command.arg(part).stderr(Stdio::inherit()).output().with_context(|| {
            format!("cannot start {}: {}", command.get_program().display(), mpirun::MISSING)
        })?;
        ensure!(output.status.success(), "a turn failed: {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        text.lines().map(|line| line.parse().context("not a number of seconds")).collect()
    }
}

/// Measures one process with all cores.
fn alone(args: &Args) -> Result<()> {
    let ((x, labels), w) = (args.batch(), rows(0..args.classes, args.dims));
    let batch = Batch::new(&x, &w, &labels);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::new(CosFace::default());
    let step = || {
        head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
        Ok(())
    };
    print(&args.time(step)?)
}

/// Measures one rank with its share of the cores. The time of a step is that of the slowest rank.
fn rank(args: &Args, collective: &MpiCollective) -> Result<()> {
    let range = class_range(args.classes, collective.rank(), collective.size());
    let ((x, labels), w) = (args.batch(), rows(range.clone(), args.dims));
    let batch = Batch::new(&x, &w, &labels);
    let mut gradients = Gradients::zeros_for(&batch);
    let head = Head::on_ranks(CosFace::default(), collective, range);
    let step = || {
        head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
        Ok(())
    };
    let mut seconds = args.time(step)?;
    collective.all_reduce_max(&mut seconds)?;
    if collective.rank() == 0 {
        print(&seconds)?;
    }
    Ok(())
}

fn print(seconds: &[f64]) -> Result<()> {
    seconds.iter().try_for_each(say)
}

/// Measures every configuration in each round and prints the medians and their ratios.
fn compare(args: &Args) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(args.classes > 0, "there are no classes");
    ensure!(args.ranks.iter().all(|ranks| (1..=cores).contains(ranks)), "there are {cores} cores");
    say(format!(
        "N = {}, D = {}, C = {}, f32; {cores} cores; medians of {} rounds of {} steps",
        args.samples, args.dims, args.classes, args.rounds, args.steps
    ))?;
    let mut one = Vec::new();
    let mut split = vec![Vec::new(); args.ranks.len()];
    let turns = u64::from(args.rounds) * (1 + args.ranks.len() as u64);
    let progress = ProgressBar::new(turns);
    for _ in 0..args.rounds {
        let mut process = Command::new(std::env::current_exe()?);
        process.env("RAYON_NUM_THREADS", cores.to_string());
        one.extend(args.turn(process, Mode::SingleRank)?);
        progress.inc(1);
        for (seconds, &ranks) in split.iter_mut().zip(&args.ranks) {
            let mut job = mpirun::mpirun(ranks, cores / ranks);
            job.arg(std::env::current_exe()?);
            seconds.extend(args.turn(job, Mode::Rank)?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let one = median(&mut one);
    say(format!("one process:      {one:.4} s"))?;
    for (seconds, ranks) in split.iter_mut().zip(&args.ranks) {
        let seconds = median(seconds);
        let threads = cores / ranks;
        let ratio = seconds / one;
        say(format!(
            "{ranks} ranks x {threads} threads: {seconds:.4} s, {ratio:.3} of one process"
        ))?;
    }
    Ok(())
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
