//! Trains a small network on handwritten digits with the ten classes split over the ranks of a job:
//! `mpirun -n 4 target/release/examples/train_digits_mpi`.

#[path = "../../../../examples/common/digits.rs"]
mod digits;
#[path = "../../../../examples/common/network.rs"]
mod network;
#[path = "../../../../examples/common/say.rs"]
mod say;
mod training;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use margin_softmax::ranks::class_range;
use margin_softmax_mpi::{MpiCollective, run, run_with_timeout};

use crate::digits::{CLASSES, Dataset};
use crate::say::say;

/// Train a small network on handwritten digits, the classes split over the ranks of an MPI job
#[derive(Parser)]
struct Args {
    /// Passes over the training digits
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of the initial weights and of the order of the digits
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Seconds after which a call that waits for other ranks is an error
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.timeout.map(Duration::from_secs) {
        Some(timeout) => run_with_timeout(timeout, |collective| train(&args, collective)),
        None => run(|collective| train(&args, collective)),
    }
}

fn train(args: &Args, collective: &MpiCollective) -> Result<()> {
    let data = Dataset::bundled()?;
    let (rank, size) = (collective.rank(), collective.size());
    // All ranks have the same values; one of them prints.
    let print = |text: String| if rank == 0 { say(text) } else { Ok(()) };
    print(format!("{} digits to train on, {} held out", data.train.len(), data.held_out.len()))?;
    for rank in 0..size {
        print(format!("rank {rank}: classes {:?}", class_range(CLASSES, rank, size)))?;
    }
    let mut losses = Vec::new();
    let epochs = args.epochs as usize;
    let mut model =
        training::train(&data.train, collective, (epochs, args.seed), |loss| losses.push(loss))?;
    for (epoch, losses) in losses.chunks(losses.len() / epochs).enumerate() {
        let mean = losses.iter().sum::<f32>() / losses.len() as f32;
        print(format!("epoch {}: mean loss {mean:.4}", epoch + 1))?;
    }
    print(format!("accuracy on held-out digits: {:.4}", model.accuracy(&data.held_out)?))?;
    Ok(())
}
