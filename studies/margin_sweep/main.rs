//! Trains a small network on handwritten digits with each loss over a range of margins, from
//! several seeds, prints which margins train, and draws accuracy and angles against the margin.

mod csv;
mod curves;
#[path = "../../examples/common/digits.rs"]
mod digits;
#[path = "../diverged.rs"]
mod diverged;
mod findings;
#[path = "../../examples/common/model.rs"]
mod model;
#[path = "../../examples/common/network.rs"]
mod network;
#[path = "../../examples/common/plot.rs"]
mod plot;
mod ranges;
mod report;
mod runs;
#[path = "../../examples/common/say.rs"]
mod say;
mod study;
#[path = "../../examples/common/training.rs"]
mod training;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use margin_softmax::CosFace;

use crate::digits::Dataset;
use crate::runs::{Plan, Point};
use crate::say::say;
use crate::study::LossName;
use crate::training::{RATE, default_epochs};

/// Train a small network on handwritten digits over a range of margins
#[derive(Parser)]
struct Args {
    /// Sweep the margin of this loss only
    #[arg(long, value_name = "NAME", ignore_case = true)]
    loss: Option<LossName>,
    /// Number of seeds for each margin
    #[arg(long, value_name = "N", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Passes over the training digits [default: enough for 4500 steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Learning rates: a small one and a large one
    #[arg(long, value_name = "RATES", value_delimiter = ',', default_values_t = [RATE, 0.3],
        value_parser = learning_rate)]
    rates: Vec<f32>,
    /// The scale of every loss that has one
    #[arg(long, value_name = "S", default_value_t = 16.0, value_parser = scale)]
    scale: f64,
    /// Directory for the pictures and the table of all runs
    #[arg(long, value_name = "DIR", default_value = "target/margin_sweep")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let args = &Args::parse();
    let data = Dataset::bundled()?;
    // Before training, so that an error here does not waste the results.
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let plan = Plan {
        scale: args.scale,
        epochs: args.epochs.map_or_else(|| default_epochs(data.train.len()), |n| n as usize),
        seeds: args.seeds,
    };
    let mut points = points(args)?;
    say(format!(
        "{} margins, {} seeds each, {} epochs per run, s = {} for losses with a scale",
        points.len(),
        plan.seeds,
        plan.epochs,
        plan.scale,
    ))?;
    let progress = progress_bar(points.len() as u64 * plan.seeds)?;
    runs::run(&mut points, &plan, &data, &progress)?;
    progress.finish_and_clear();

    let sweeps = findings::sweeps(&points);
    report::print(&sweeps)?;
    csv::write(&points, &args.out.join("margin_sweep.csv"))?;
    plot::save(&curves::figure(&sweeps).render(), &args.out.join("margin_sweep"))?;
    plot::save(&ranges::figure(&sweeps)?.render(), &args.out.join("usable_ranges"))?;
    say(format!("\npictures and the table of all runs: {}", args.out.display()))
}

/// The points to train: sweep after sweep, with the margins of each in order.
fn points(args: &Args) -> Result<Vec<Point>> {
    let names = args.loss.as_ref().map_or(LossName::value_variants(), std::slice::from_ref);
    let mut points = Vec::new();
    let mut rates = args.rates.clone();
    rates.sort_by(f32::total_cmp);
    rates.dedup();
    for rate in rates {
        for curve in names.iter().flat_map(|name| name.curves()) {
            for margin in curve.name.margins() {
                points.push(Point::new(curve, margin, rate)?);
            }
        }
    }
    Ok(points)
}

fn learning_rate(text: &str) -> Result<f32> {
    let rate = text.parse::<f32>()?;
    ensure!(rate.is_finite() && rate > 0.0, "a learning rate must be finite and above 0");
    Ok(rate)
}

fn scale(text: &str) -> Result<f64> {
    Ok(CosFace::new(text.parse()?, 0.0)?.s())
}

fn progress_bar(runs: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left")?;
    Ok(ProgressBar::new(runs).with_style(style))
}
