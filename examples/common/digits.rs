//! The data set: 1,797 small images of handwritten digits, part of the repository.

use anyhow::{Context, Result, ensure};
use ndarray::{Array2, Axis};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

/// Ten digits.
pub const CLASSES: usize = 10;

/// Images as rows of pixels, and their labels.
pub struct Samples {
    pub images: Array2<f32>,
    pub labels: Vec<usize>,
}

impl Samples {
    /// The samples with the given row numbers, in that order.
    pub fn select(&self, rows: &[usize]) -> Samples {
        Samples {
            images: self.images.select(Axis(0), rows),
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }
}

pub struct Dataset {
    pub train: Samples,
    /// Not used for training: every reported accuracy and angle is measured on these.
    pub held_out: Samples,
}

impl Dataset {
    /// The digits in `examples/data`, with one in five held out.
    ///
    /// The split has a fixed seed, so that runs with different `--seed`s are comparable.
    pub fn bundled() -> Result<Self> {
        const SPLIT_SEED: u64 = 2017;
        let all = Self::all()?;
        let mut rows: Vec<usize> = (0..all.len()).collect();
        rows.shuffle(&mut Pcg64::seed_from_u64(SPLIT_SEED));
        let (held_out, train) = rows.split_at(all.len() / 5);
        Ok(Self::centered(all.select(train), all.select(held_out)))
    }

    /// Subtracts the mean training image from all images, which speeds up the first steps.
    pub fn centered(mut train: Samples, mut held_out: Samples) -> Self {
        let mean = train.images.sum_axis(Axis(0)) / train.len() as f32;
        train.images -= &mean;
        held_out.images -= &mean;
        Self { train, held_out }
    }

    /// All digits as they are, with pixels from 0 to 1.
    pub fn all() -> Result<Samples> {
        parse_csv(include_str!("../data/digits.csv")).context("examples/data/digits.csv")
    }
}

/// One image per line: 64 pixel values from 0 to 16, then the digit.
fn parse_csv(text: &str) -> Result<Samples> {
    const PIXELS: usize = 64;
    let mut pixels = Vec::new();
    let mut labels = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let values = line
            .split(',')
            .map(str::parse::<u8>)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("line {}", index + 1))?;
        ensure!(
            values.len() == PIXELS + 1 && usize::from(values[PIXELS]) < CLASSES,
            "line {}: expected {PIXELS} pixel values and a digit",
            index + 1,
        );
        pixels.extend(values[..PIXELS].iter().map(|&value| f32::from(value) / 16.0));
        labels.push(usize::from(values[PIXELS]));
    }
    Ok(Samples { images: Array2::from_shape_vec((labels.len(), PIXELS), pixels)?, labels })
}
