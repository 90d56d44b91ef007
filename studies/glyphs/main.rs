//! Trains a small network on half of the characters that many fonts share, with each loss, and
//! verifies and retrieves the other half in fonts that it never saw.
//!
//! ```sh
//! studies/glyphs/fetch                        # 200 MB of Debian's packages
//! cargo run --release -p glyphs -- run        # about a minute a run; continues where it stopped
//! cargo run --release -p glyphs -- report
//! ```

#[path = "../diverged.rs"]
mod diverged;
mod experiments;
mod fonts;
mod images;
mod losses;
mod measure;
#[path = "../../examples/common/network.rs"]
mod network;
mod picture;
#[path = "../../examples/common/plot.rs"]
mod plot;
mod report;
mod results;
mod runs;
mod summary;
#[cfg(test)]
mod tests;
mod training;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::runs::Alphabet;
use crate::training::Plan;

/// The losses on thousands of classes: characters in fonts that were never seen
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The directory that studies/glyphs/fetch filled
    #[arg(long, global = true, value_name = "DIR", default_value = "studies/glyphs/fonts")]
    fonts: PathBuf,
    /// Directory for the table of all runs and the picture
    #[arg(long, global = true, value_name = "DIR", default_value = "target/glyphs")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// List the fonts and their licenses, and count the characters they share
    Fonts,
    /// Train what the table of all runs lacks
    Run(Run),
    /// Print the tables of what has run, and draw the picture
    Report,
}

#[derive(Args)]
struct Run {
    /// Only experiments whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// The seeds, each after all experiments of the one before
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [0, 1, 2])]
    seeds: Vec<u64>,
    /// Stop after this many runs
    #[arg(long, value_name = "N", default_value_t = usize::MAX)]
    limit: usize,
    /// Runs at the same time, each on one thread
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 6)]
    epochs: usize,
    /// The learning rate that the training starts with
    #[arg(long, value_name = "RATE", default_value_t = 0.2)]
    rate: f64,
}

fn main() -> Result<()> {
    let Arguments { command, fonts, out } = Arguments::parse();
    let table = out.join("glyphs.csv");
    match command {
        Command::Fonts => list(&fonts),
        Command::Run(Run { only, seeds, limit, jobs, epochs, rate }) => {
            fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
            let plan = Plan { epochs, rate, layers: [1024, 256], far: 1e-4 };
            let done = results::read(&table)?;
            let pending = runs::pending(&only, &seeds, &done, limit);
            let alphabet = Alphabet::of_fonts(&fonts::load(&fonts)?)?;
            runs::run(&pending, &alphabet, &plan, jobs, &table)
        }
        Command::Report => report::write(&results::read(&table)?, &out),
    }
}

fn list(directory: &std::path::Path) -> Result<()> {
    let typefaces = fonts::load(directory)?;
    let shared = fonts::shared_characters(&typefaces).len();
    for typeface in &typefaces {
        let fonts::Design { name, license, trained, .. } = typeface.design;
        let usage = if trained { "train" } else { "test" };
        println!("{usage:5}  {name:24}  {:>6} characters  {license}", typeface.characters());
    }
    println!("{} fonts, {shared} characters in all of them", typefaces.len());
    Ok(())
}
