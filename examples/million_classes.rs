//! Trains the weights of a million classes for a few steps in one process, and prints time and
//! memory. The weights move as their gradient is made, so that besides weights and momentum the memory
//! does not grow with the classes.

#[path = "common/say.rs"]
mod say;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use margin_softmax::{ArcFace, BatchMut, Head, Reduction, Sgd};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use crate::say::say;

/// Rows per seed, so that the weights do not depend on the number of threads.
const ROWS: usize = 1024;
/// Large, because the mean over the samples and the large norms of the rows make gradients small.
const LEARNING_RATE: f64 = 50.0;
const MOMENTUM: f64 = 0.9;

/// Train the weights of a million classes in one process, and print time and memory
#[derive(Parser)]
struct Args {
    /// Classes: rows of the weights
    #[arg(long, value_name = "C", default_value_t = 1_000_000, value_parser = count())]
    classes: u64,
    /// Embeddings in the batch
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = count())]
    samples: u64,
    /// Length of an embedding
    #[arg(long, value_name = "D", default_value_t = 512, value_parser = count())]
    dims: u64,
    /// Steps of gradient descent with momentum
    #[arg(long, value_name = "STEPS", default_value_t = 5, value_parser = count())]
    steps: u64,
}

/// A positive integer, small enough that sizes in bytes fit the address space.
fn count() -> clap::builder::RangedU64ValueParser<u64> {
    value_parser!(u64).range(1..1 << 30)
}

fn main() -> Result<()> {
    let args = &Args::parse();
    let [classes, samples, dims] = [args.classes, args.samples, args.dims].map(|n| n as usize);
    say(format!("{samples} embeddings, {dims} dimensions, {classes} classes, ArcFace in f32"))?;
    let started = Instant::now();
    let x = random(samples, dims, 1, &ProgressBar::hidden())?;
    let mut w = random(classes, dims, 2, &bar("weights", classes)?)?;
    say(format!("weights generated in {:.1} s", started.elapsed().as_secs_f64()))?;

    let labels: Vec<usize> = (0..samples).map(|i| (i * 7919 + 13) % classes).collect();
    let head = Head::new(ArcFace::default());
    let mut update = Sgd::new(LEARNING_RATE)?.with_momentum(MOMENTUM)?;
    let mut dx = Array2::zeros(x.dim());
    let progress = bar("steps", args.steps as usize)?;
    for step in 1..=args.steps {
        let started = Instant::now();
        let mut batch = BatchMut::new(&x, &mut w, &labels);
        let forward = head.step(&mut batch, Reduction::Mean, &mut update, &mut dx)?;
        let seconds = started.elapsed().as_secs_f64();
        let line = format!("step {step}: loss {:.3}, {seconds:.2} s", forward.mean());
        progress.suspend(|| say(line))?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    say(memory(2 * w.len() * size_of::<f32>()))
}

/// Random entries in [-1, 1), generated in parallel.
fn random(rows: usize, columns: usize, seed: u64, progress: &ProgressBar) -> Result<Array2<f32>> {
    let entries = rows.checked_mul(columns).context("the matrix is too large")?;
    // vec! would abort the program.
    Vec::<f32>::new().try_reserve_exact(entries).context("the matrix does not fit into memory")?;
    let mut matrix = vec![0.0; entries];
    matrix.par_chunks_mut(ROWS * columns).enumerate().for_each(|(block, entries)| {
        let mut rng = Pcg64Mcg::seed_from_u64(seed << 32 | block as u64);
        entries.fill_with(|| rng.random_range(-1.0..1.0));
        progress.inc((entries.len() / columns) as u64);
    });
    progress.finish_and_clear();
    Ok(Array2::from_shape_vec((rows, columns), matrix)?)
}

fn bar(name: &'static str, length: usize) -> Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{msg:8} {bar:40} {pos}/{len} [{elapsed}, {eta} left]")?;
    Ok(ProgressBar::new(length as u64).with_style(style).with_message(name))
}

/// The peak memory of the process, and the share of the weights and their momentum in it.
fn memory(weights: usize) -> String {
    let of = |bytes: usize| format!("{:.2} GB", bytes as f64 / 1e9);
    let weights_are = format!("weights and their momentum are {}", of(weights));
    match peak() {
        Some(peak) => {
            let share = 100.0 * weights as f64 / peak as f64;
            format!("peak memory {}, of which {weights_are} ({share:.1} %)", of(peak))
        }
        None => format!("peak memory unknown; {weights_are}"),
    }
}

/// The peak resident memory of the process in bytes, if the system reports it (Linux).
fn peak() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
