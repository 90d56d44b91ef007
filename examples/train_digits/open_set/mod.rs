//! Verification: the network is trained on ninety of the two-digit numbers, and then has to tell
//! whether two images show the same of the ten others, by the angle between their embeddings.
//!
//! This is what a margin is for. Every loss classifies the numbers that it was trained on; on those
//! that it never saw, a margin divides the errors by up to ten, and an accuracy tells nothing of it.
//!
//! It takes many classes. With seven single digits instead of ninety numbers, as in release 0.2.0,
//! the three others were told apart worse than by the bare pixels, whatever the loss.

mod numbers;
mod table;

use std::fs;
use std::path::Path;

use anyhow::Result;
use indicatif::{ParallelProgressIterator, ProgressBar, ProgressStyle};
use margin_softmax_evaluation::{Verification, pair_cosines, plot};
use ndarray::Array2;
use rayon::prelude::*;

use self::numbers::Split;
use crate::digits::Dataset;
use crate::model::Evaluation;
use crate::recipe::{DIMENSIONS, LossName, Recipe};
use crate::training::{Schedule, train};

/// The number of splits that differ.
pub const SPLITS: usize = Split::COUNT;
/// The false accept rate of the table.
const FAR: f64 = 0.01;

/// What one network did on one split.
struct Run {
    /// On held-out images of the known numbers. The bare pixels have none.
    known: Option<Evaluation>,
    /// On all pairs of images of the unknown numbers.
    eer: f64,
    tar: f64,
    scores: Vec<f64>,
    genuine: Vec<bool>,
}

/// A line of the table: a run for each split.
struct Row {
    name: &'static str,
    has_margin: bool,
    runs: Vec<Run>,
}

/// Trains with every loss on every split, several at a time, prints the table, and draws the DET
/// curves of all splits together. Returns what was found, in a sentence.
pub fn report(
    names: &[LossName],
    data: &Dataset,
    schedule: &Schedule,
    splits: usize,
    directory: &Path,
) -> Result<String> {
    let splits: Vec<_> =
        (0..splits).map(|number| Split::new(data, number)).collect::<Result<_>>()?;
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} trainings")?;
    let progress = ProgressBar::new(((names.len() + 1) * splits.len()) as u64).with_style(style);
    let row = |name, recipe: Recipe, epochs| {
        let runs = splits.par_iter().enumerate().progress_with(progress.clone());
        let runs = runs.map(|(number, split)| {
            let seed = schedule.seed.wrapping_add(number as u64);
            split.run(recipe, &Schedule { epochs, seed, ..*schedule })
        });
        let runs = runs.collect::<Result<_>>()?;
        Ok::<_, anyhow::Error>(Row { name, has_margin: recipe.has_margin(), runs })
    };
    let pixels = splits.iter().map(Split::compare_pixels).collect::<Result<_>>()?;
    let references = [
        Row { name: "pixels", has_margin: false, runs: pixels },
        row("untrained", Recipe::ModifiedSoftmax, 0)?,
    ];
    let losses = names.iter().map(|&name| {
        let recipe = Recipe::for_table(name);
        row(recipe.name(), recipe, schedule.epochs)
    });
    let losses = losses.collect::<Result<Vec<_>>>()?;
    progress.finish_and_clear();

    table::print(&references, &losses)?;
    let curves = references.iter().chain(&losses).map(|row| Ok((row.name, row.pooled()?.roc())));
    let curves = curves.collect::<Result<Vec<_>>>()?;
    let curves: Vec<_> = curves.iter().map(|(name, roc)| (*name, roc)).collect();
    let title = format!("Numbers that were not trained on, {} splits together", splits.len());
    fs::write(directory.join("det.png"), plot::det_titled(&title, &curves)?)?;
    Ok(table::finding(&references, &losses))
}

impl Split {
    fn run(&self, recipe: Recipe, schedule: &Schedule) -> Result<Run> {
        let Split { known, unknown } = self;
        let sizes = [DIMENSIONS, Self::KNOWN];
        let model = train(recipe.losses(), sizes, &known.train, schedule, |_, _, _| ())?;
        let evaluation = model.evaluate(recipe.loss_at(0)?, &known.held_out)?;
        self.verify(&model.embed(unknown), Some(evaluation))
    }

    fn compare_pixels(&self) -> Result<Run> {
        self.verify(&self.unknown.images, None)
    }

    /// Compares all rows of `x`, one for each image of the unknown numbers.
    fn verify(&self, x: &Array2<f32>, known: Option<Evaluation>) -> Result<Run> {
        let labels = &self.unknown.labels;
        let pairs: Vec<_> = (0..labels.len()).flat_map(|i| (0..i).map(move |j| (i, j))).collect();
        let scores = pair_cosines(x, &pairs)?;
        let genuine: Vec<_> = pairs.iter().map(|&(i, j)| labels[i] == labels[j]).collect();
        let verification = Verification::from_scores(&scores, &genuine)?;
        let (eer, tar) = (verification.eer().rate, verification.tar_at_far(FAR)?.tar);
        Ok(Run { known, eer, tar, scores, genuine })
    }
}

impl Row {
    /// The pairs of all splits.
    fn pooled(&self) -> Result<Verification> {
        let scores: Vec<_> = self.runs.iter().flat_map(|run| &run.scores).copied().collect();
        let genuine: Vec<_> = self.runs.iter().flat_map(|run| &run.genuine).copied().collect();
        Ok(Verification::from_scores(&scores, &genuine)?)
    }
}
