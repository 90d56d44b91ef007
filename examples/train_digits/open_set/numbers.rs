//! The two-digit numbers 00 to 99: two images of digits, side by side.

use anyhow::{Context, Result};
use ndarray::{Array2, Axis, concatenate};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_pcg::Pcg64;

use crate::digits::{CLASSES, Dataset, Samples};

/// Numbers that a network is trained on, and numbers that it never sees.
pub struct Split {
    /// Ninety numbers. Those for training are made of training digits.
    pub known: Dataset,
    /// The ten other numbers, made of digits that are held out.
    pub unknown: Samples,
}

impl Split {
    /// The number of splits that differ. In all of them together every number is unknown once.
    pub const COUNT: usize = CLASSES;
    /// The numbers that a network is trained on.
    pub const KNOWN: usize = CLASSES * (CLASSES - 1);
    /// Images of a number for training, and as many for verification.
    const IMAGES: usize = 40;
    /// Images of a known number that are held out.
    const HELD_OUT: usize = 10;

    /// Of the unknown numbers each has other tens than the others, and other units.
    pub fn new(data: &Dataset, number: usize) -> Result<Self> {
        let (unknown, known): (Vec<usize>, Vec<usize>) = (0..CLASSES * CLASSES)
            .partition(|value| value % CLASSES == (value / CLASSES + number) % CLASSES);
        let mut rng = Pcg64::seed_from_u64(number as u64);
        let train = compose(&data.train, &known, Self::IMAGES, &mut rng)?;
        // Shifted, so that the mean training image of both parts is 0.
        let mean = train.images.sum_axis(Axis(0)) / train.len() as f32;
        let held_out = compose(&data.held_out, &known, Self::HELD_OUT, &mut rng)?;
        let mut unknown = compose(&data.held_out, &unknown, Self::IMAGES, &mut rng)?;
        unknown.images -= &mean;
        Ok(Split { known: Dataset::centered(train, held_out), unknown })
    }
}

/// Images of two-digit numbers, `each` of every number: random images of both digits side by side.
/// The labels are the positions in `numbers`.
fn compose(digits: &Samples, numbers: &[usize], each: usize, rng: &mut Pcg64) -> Result<Samples> {
    let rows: Vec<Vec<usize>> = (0..CLASSES)
        .map(|digit| (0..digits.len()).filter(|&row| digits.labels[row] == digit).collect())
        .collect();
    let mut random = |digit: usize| {
        rows[digit].choose(rng).copied().with_context(|| format!("no image of a {digit}"))
    };
    let mut halves = [Vec::new(), Vec::new()];
    let mut labels = Vec::new();
    for (label, number) in numbers.iter().enumerate() {
        for _ in 0..each {
            halves[0].push(random(number / CLASSES)?);
            halves[1].push(random(number % CLASSES)?);
            labels.push(label);
        }
    }
    let [tens, units] = halves.map(|rows| -> Array2<f32> { digits.images.select(Axis(0), &rows) });
    Ok(Samples { images: concatenate![Axis(1), tens, units], labels })
}
