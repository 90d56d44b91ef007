//! Trains a small network on handwritten digits with each of eight losses, prints accuracy and angles,
//! and draws 2-D features as in the A-Softmax paper. Then it trains on ninety of the two-digit numbers,
//! and verifies the ten others, which the network has never seen.

#[path = "../common/digits.rs"]
mod digits;
mod idx;
#[path = "../common/model.rs"]
mod model;
#[path = "../common/network.rs"]
mod network;
mod open_set;
mod pictures;
#[path = "../common/plot.rs"]
mod plot;
mod recipe;
#[path = "../common/say.rs"]
mod say;
#[path = "../common/training.rs"]
mod training;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use margin_softmax::Precision;

use crate::digits::{CLASSES, Dataset};
use crate::model::{Evaluation, Model};
use crate::pictures::Portrait;
use crate::recipe::{DIMENSIONS, LossName, Recipe};
use crate::say::say;
use crate::training::{RATE, Schedule, default_epochs, steps_per_epoch, train};

/// Train a small network on handwritten digits with margin softmax losses
#[derive(Parser)]
struct Args {
    /// Train with this loss only
    #[arg(long, value_name = "NAME", ignore_case = true)]
    loss: Option<LossName>,
    /// Passes over the training digits [default: enough for 4500 steps]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Trainings per loss on ninety two-digit numbers; each verifies ten others
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u8).range(..=open_set::SPLITS as i64))]
    splits: u8,
    /// Seed of the initial weights and of the order of the digits
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Weight of SphereFace+'s hyperspherical energy, added to each loss
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0, value_parser = energy_weight)]
    energy: f32,
    /// Round the factors of the loss's matrix products to bf16 in training
    #[arg(long)]
    bf16: bool,
    /// Read MNIST-format files (train-images-idx3-ubyte and so on, plain or .gz) from this
    /// directory instead of the digits that ship with the example
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Directory for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/train_digits")]
    out: PathBuf,
}

/// One line of the table.
struct Row {
    recipe: Recipe,
    evaluation: Evaluation,
    seconds: f64,
}

fn main() -> Result<()> {
    let args = &Args::parse();
    let data = match &args.data {
        Some(directory) => idx::read_dataset(directory)?,
        None => Dataset::bundled()?,
    };
    // Before training, so that an error here does not waste the results.
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create {}", args.out.display()))?;
    let samples = data.train.len();
    let schedule = Schedule {
        epochs: args.epochs.map_or_else(|| default_epochs(samples), |epochs| epochs as usize),
        rate: RATE,
        seed: args.seed,
        energy: args.energy,
        precision: if args.bf16 { Precision::Bf16 } else { Precision::Full },
    };
    let names = match &args.loss {
        Some(name) => std::slice::from_ref(name),
        None => LossName::value_variants(),
    };
    say(format!(
        "{samples} training digits, {} epochs, {} digits held out",
        schedule.epochs,
        data.held_out.len()
    ))?;
    let progress = progress_bar(2 * names.len() * schedule.epochs * steps_per_epoch(samples))?;
    let mut rows = Vec::new();
    let mut portraits = Vec::new();
    for &name in names {
        rows.push(measure(Recipe::for_table(name), &data, &schedule, &progress)?);
        portraits.push(portray(name, &data, &schedule, &progress)?);
    }
    progress.finish_and_clear();
    print_table(&rows)?;
    let drawable = LossName::value_variants().iter().map(|&name| Recipe::for_plane(name).name());
    pictures::remove_old(drawable, &args.out)?;
    pictures::draw(&portraits, &args.out)?;

    let found = match usize::from(args.splits) {
        0 => None,
        splits => Some(open_set::report(names, &data, &schedule, splits, &args.out)?),
    };
    say(format!("\npictures: {}", args.out.display()))?;
    found.map_or(Ok(()), |found| say(format!("\n{found}")))
}

fn energy_weight(text: &str) -> Result<f32> {
    let weight = text.parse::<f32>()?;
    ensure!(weight.is_finite() && weight >= 0.0, "a weight must be finite and at least 0");
    Ok(weight)
}

fn progress_bar(steps: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg:<48}")?;
    Ok(ProgressBar::new(steps as u64).with_style(style))
}

/// Trains a model with a recipe and embeddings of `dimensions` dimensions.
fn train_recipe(
    recipe: Recipe,
    dimensions: usize,
    data: &Dataset,
    schedule: &Schedule,
    progress: &ProgressBar,
) -> Result<Model> {
    let epoch = steps_per_epoch(data.train.len()) as u64;
    let watch = |loss, _: &_, _: &_| {
        progress.inc(1);
        if progress.position().is_multiple_of(epoch) {
            let name = recipe.name();
            progress.set_message(format!("{name} in {dimensions}-D: loss {loss:.3}"));
        }
    };
    train(recipe.losses(), [dimensions, CLASSES], &data.train, schedule, watch)
}

fn measure(
    recipe: Recipe,
    data: &Dataset,
    schedule: &Schedule,
    progress: &ProgressBar,
) -> Result<Row> {
    let start = Instant::now();
    let model = train_recipe(recipe, DIMENSIONS, data, schedule, progress)?;
    let evaluation = model.evaluate(recipe.loss_at(0)?, &data.held_out)?;
    Ok(Row { recipe, evaluation, seconds: start.elapsed().as_secs_f64() })
}

fn portray(
    name: LossName,
    data: &Dataset,
    schedule: &Schedule,
    progress: &ProgressBar,
) -> Result<Portrait> {
    /// More marks would overlap too much.
    const MARKS: usize = 160;
    let recipe = Recipe::for_plane(name);
    let model = train_recipe(recipe, 2, data, schedule, progress)?;
    let rows: Vec<usize> = (0..data.held_out.len().min(MARKS)).collect();
    let drawn = data.held_out.select(&rows);
    Ok(Portrait {
        recipe,
        table_recipe: Recipe::for_table(name),
        accuracy: model.evaluate(recipe.loss_at(0)?, &data.held_out)?.accuracy,
        features: model.embed(&drawn),
        labels: drawn.labels,
        class_weights: model.classes,
    })
}

fn print_table(rows: &[Row]) -> Result<()> {
    say(format!(
        "\n{:<15}  {:<21}  {:>8}  {:>7}  {:>7}  {:>7}",
        "loss", "hyper-parameters", "accuracy", "angle", "nearest", "seconds"
    ))?;
    for Row { recipe, evaluation, seconds } in rows {
        say(format!(
            "{:<15}  {:<21}  {:>8.4}  {:>6.1}°  {:>6.1}°  {:>7.2}",
            recipe.name(),
            recipe.hyper_parameters(),
            evaluation.accuracy,
            evaluation.target_angle.to_degrees(),
            evaluation.nearest_wrong_angle.to_degrees(),
            seconds,
        ))?;
    }
    say("angle: to the own class; nearest: to the nearest other one; means of held-out digits")
}
