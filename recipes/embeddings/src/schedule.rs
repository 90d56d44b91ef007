//! Loss and learning rate of each step: pure functions of the step, so that a run that continues
//! needs no state of them.

use std::f64::consts::PI;
use std::fmt;

use anyhow::Result;
use margin_softmax::schedule::MarginWarmup;
use margin_softmax::{ArcFace, CosFace, MarginLoss};

use crate::settings::{LossName, Settings};

/// The share of all steps in which the learning rate rises.
const RATE_WARMUP: f64 = 0.1;

/// The share of all steps in which the margin rises.
const MARGIN_WARMUP: f64 = 0.5;

/// The probability that the default scale is made for.
const REACHED: f64 = 0.99;

pub struct Schedule {
    loss: LossName,
    scale: f64,
    margin: MarginWarmup,
    rate: f64,
    steps: f64,
}

impl Schedule {
    pub fn new(settings: &Settings, classes: usize, steps: usize) -> Result<Self> {
        let &Settings { loss, scale, margin, rate, .. } = settings;
        let scale = scale.unwrap_or_else(|| 2.0 * least_scale(classes));
        let margin = margin.unwrap_or(match loss {
            LossName::ArcFace => 0.5,
            LossName::CosFace => 0.35,
        });
        let steps = steps as f64;
        let margin = MarginWarmup::new(margin, (MARGIN_WARMUP * steps) as usize)?;
        let schedule = Schedule { loss, scale, margin, rate, steps };
        // Of the whole margin: the training does not begin with one that it would end with.
        schedule.loss(usize::MAX)?;
        Ok(schedule)
    }

    pub fn loss(&self, step: usize) -> Result<Box<dyn MarginLoss>> {
        let margin = self.margin.at(step);
        Ok(match self.loss {
            LossName::ArcFace => Box::new(ArcFace::new(self.scale, margin)?),
            LossName::CosFace => Box::new(CosFace::new(self.scale, margin)?),
        })
    }

    /// Rises linearly, then falls as a cosine to 0.
    pub fn rate(&self, step: usize) -> f64 {
        let (done, warmup) = ((step + 1) as f64, RATE_WARMUP * self.steps);
        if done < warmup {
            return self.rate * done / warmup;
        }
        let progress = (done - warmup) / (self.steps - warmup);
        0.5 * self.rate * (1.0 + (PI * progress).cos())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Schedule { loss, scale, ref margin, .. } = self;
        write!(f, "{loss:?}, scale {scale:.1}, margin 0 to {}", margin.margin())
    }
}

/// The least scale at which the probability of a class among `classes` can be `REACHED`: the bound
/// of CosFace's authors.
fn least_scale(classes: usize) -> f64 {
    let others = classes as f64 - 1.0;
    others / (others + 1.0) * (others * REACHED / (1.0 - REACHED)).ln()
}
