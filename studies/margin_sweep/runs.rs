//! The training runs, in parallel on all cores.

use std::f32::consts::FRAC_PI_2;

use anyhow::Result;
use indicatif::ProgressBar;
use margin_softmax::Precision;
use ndarray::Array2;
use rayon::prelude::*;

use crate::digits::{CLASSES, Dataset};
use crate::diverged::diverged;
use crate::model::Evaluation;
use crate::study::Curve;
use crate::training::{Schedule, steps_per_epoch, train};

/// Settings shared by all runs.
pub struct Plan {
    pub scale: f64,
    pub epochs: usize,
    pub seeds: u64,
}

/// One margin of a curve at one learning rate, trained from every seed.
pub struct Point {
    pub curve: Curve,
    pub margin: f64,
    pub rate: f32,
    /// The margin as a band between two classes, in radians: see `Curve::band`.
    pub band: Option<f64>,
    pub outcomes: Vec<Outcome>,
}

/// The result of one run.
pub struct Outcome {
    pub seed: u64,
    /// `None` if the network diverged and the loss returned an error.
    pub evaluation: Option<Evaluation>,
    pub steps: usize,
    /// Steps whose loss or gradient is not finite.
    pub not_finite: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Trained,
    /// Accurate, but the embeddings point away from the weight of their own class, and further away
    /// from all others.
    InsideOut,
    Collapsed,
}

impl Point {
    pub fn new(curve: Curve, margin: f64, rate: f32) -> Result<Self> {
        let band = curve.band(margin)?;
        Ok(Self { curve, margin, rate, band, outcomes: Vec::new() })
    }
}

impl Outcome {
    /// A held-out accuracy below this is a collapse. Without a margin it is 0.98.
    pub const ACCURATE: f64 = 0.9;

    /// The accuracy on the held-out digits; 0 for a run that diverged.
    pub fn accuracy(&self) -> f64 {
        self.evaluation.map_or(0.0, |evaluation| evaluation.accuracy)
    }

    pub fn fate(&self) -> Fate {
        match self.evaluation {
            Some(evaluation) if evaluation.accuracy >= Self::ACCURATE => {
                if evaluation.target_angle < FRAC_PI_2 { Fate::Trained } else { Fate::InsideOut }
            }
            _ => Fate::Collapsed,
        }
    }
}

/// Trains every point from every seed.
pub fn run(
    points: &mut [Point],
    plan: &Plan,
    data: &Dataset,
    progress: &ProgressBar,
) -> Result<()> {
    let places = 0..points.len();
    let runs: Vec<_> =
        places.flat_map(|place| (0..plan.seeds).map(move |seed| (place, seed))).collect();
    let outcomes = runs
        .par_iter()
        .map(|&(place, seed)| {
            let outcome = train_once(&points[place], seed, plan, data);
            progress.inc(1);
            outcome
        })
        .collect::<Result<Vec<_>>>()?;
    for ((place, _), outcome) in runs.into_iter().zip(outcomes) {
        points[place].outcomes.push(outcome);
    }
    Ok(())
}

fn train_once(point: &Point, seed: u64, plan: &Plan, data: &Dataset) -> Result<Outcome> {
    const DIMENSIONS: usize = 16;
    let total = plan.epochs * steps_per_epoch(data.train.len());
    let loss_at = |step| point.curve.loss_at(point.margin, plan.scale, step, total);
    let (mut steps, mut not_finite) = (0, 0);
    // A gradient of the class weights that is not finite leaves them not finite.
    let watch = |loss: f32, gradient: &Array2<f32>, classes: &Array2<f32>| {
        let mut entries = gradient.iter().chain(classes);
        steps += 1;
        not_finite += usize::from(!loss.is_finite() || entries.any(|entry| !entry.is_finite()));
    };
    let (epochs, rate, precision) = (plan.epochs, point.rate, Precision::Full);
    let schedule = Schedule { epochs, rate, seed, energy: 0.0, precision };
    let trained =
        train(|step, _| loss_at(step), [DIMENSIONS, CLASSES], &data.train, &schedule, watch)
            .and_then(|model| model.evaluate(loss_at(total)?, &data.held_out));
    let evaluation = match trained {
        Ok(evaluation) => Some(evaluation),
        Err(error) if diverged(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(Outcome { seed, evaluation, steps, not_finite })
}
