//! What the runs of one experiment come to.

use crate::measure::{Measured, Share};
use crate::results::Outcome;

/// The runs of one experiment, from all seeds that did not diverge.
pub struct Summary {
    pub name: String,
    pub eer: Spread,
    pub tar: Spread,
    pub recall: Spread,
    /// Mean processor time of a training.
    pub seconds: f64,
    pub seeds: usize,
    pub diverged: usize,
}

/// Means over the seeds, and the standard deviation of the values if there are several.
#[derive(Clone, Copy)]
pub struct Spread {
    pub mean: Share,
    pub deviation: Option<f64>,
}

impl Summary {
    /// `None` if no seed has run.
    pub fn new(name: &str, outcomes: &[Outcome]) -> Option<Self> {
        let runs: Vec<&Outcome> = outcomes.iter().filter(|run| run.experiment == name).collect();
        let measured: Vec<Measured> = runs.iter().filter_map(|run| run.measured).collect();
        let spread = |share: fn(&Measured) -> Share| Spread::of(measured.iter().map(share));
        (!runs.is_empty()).then(|| Self {
            name: name.into(),
            eer: spread(|measured| measured.eer),
            tar: spread(|measured| measured.tar),
            recall: spread(|measured| measured.recall),
            seconds: runs.iter().map(|run| run.seconds).sum::<f64>() / runs.len() as f64,
            seeds: measured.len(),
            diverged: runs.len() - measured.len(),
        })
    }

    /// Its line in a table.
    pub fn line(&self) -> String {
        let Self { name, eer, tar, recall, seconds, seeds, diverged } = self;
        let fate = if *diverged > 0 { format!(" ({diverged} diverged)") } else { String::new() };
        if *seeds == 0 {
            return format!("| {name}{fate} | | | | |");
        }
        let [eer, tar, recall] = [eer, tar, recall].map(Spread::cell);
        format!("| {name}{fate} | {eer} | {tar} | {recall} | {seconds:.0} s |")
    }
}

impl Spread {
    fn of(shares: impl Iterator<Item = Share> + Clone) -> Self {
        let count = shares.clone().count() as f64;
        let mean = |part: fn(Share) -> f64| shares.clone().map(part).sum::<f64>() / count;
        let value = mean(|share| share.value);
        let squares = shares.clone().map(|share| (share.value - value).powi(2)).sum::<f64>();
        Self {
            mean: Share { value, low: mean(|share| share.low), high: mean(|share| share.high) },
            deviation: (count > 1.0).then(|| (squares / (count - 1.0)).sqrt()),
        }
    }

    /// In percent: the mean, its deviation between seeds, and the interval over characters.
    fn cell(&self) -> String {
        let Share { value, low, high } = self.mean;
        let [value, low, high] = [value, low, high].map(|share| 100.0 * share);
        let deviation = self.deviation.map(|deviation| format!(" ± {:.1}", 100.0 * deviation));
        format!("{value:.1}{} ({low:.1}–{high:.1})", deviation.unwrap_or_default())
    }
}
