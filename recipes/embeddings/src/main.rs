//! A recipe for embeddings of your own images: a folder for each identity, faces for example.
//!
//! ```sh
//! cargo run --release -p embeddings -- write-digits digits
//! cargo run --release -p embeddings -- train digits
//! ```
//!
//! `train` holds some identities out, trains a small convolutional network with a margin on the
//! others, and verifies the held-out ones: how often two images of one identity are recognized as
//! such, and at which threshold. A run that is stopped continues from its last checkpoint with
//! `--resume` and ends, on the CPU, with the same bits.

mod checkpoint;
#[path = "../../../adapters/burn/examples/common/device.rs"]
mod devices;
#[allow(dead_code)] // the other examples use the rest
#[path = "../../../examples/common/digits.rs"]
mod digits;
mod digits_folder;
mod export;
mod images;
mod network;
mod recipe;
mod schedule;
mod settings;
#[cfg(test)]
mod tests;
mod training;
mod verification;
mod view;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Trains embeddings on images in folders by identity, and verifies them on identities that it
/// never saw.
#[derive(Parser)]
pub enum Command {
    /// Writes the bundled handwritten digits as images in folders, to try this with.
    WriteDigits {
        /// The folder that is created.
        directory: PathBuf,
        /// Digits in an image. With two there are a hundred identities, from 00 to 99.
        #[arg(long, default_value = "2", value_parser = clap::value_parser!(u32).range(1..=2))]
        places: u32,
        /// Images of each identity, at most: by default as many as there are.
        #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
        images: usize,
    },
    /// Trains, verifies, and writes the embeddings of all images.
    Train(Box<recipe::Arguments>),
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::WriteDigits { directory, places, images } => {
            digits_folder::write(&directory, places, images)
        }
        Command::Train(arguments) => recipe::run(&arguments),
    }
}

fn main() -> Result<()> {
    run(Command::parse())
}
