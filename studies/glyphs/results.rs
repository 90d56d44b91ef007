//! The table of all runs, to which each run adds a line when it is done.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::measure::{Measured, Share};

const HEADER: &str = "experiment,seed,eer,eer_low,eer_high,tar,tar_low,tar_high,recall,recall_low,recall_high,cpu_seconds";

/// The numbers of three shares.
const SHARES: usize = 9;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub experiment: String,
    pub seed: u64,
    /// `None` if the training diverged: the loss refused numbers that were no longer finite.
    pub measured: Option<Measured>,
    /// The processor time of the training.
    pub seconds: f64,
}

/// The runs that a file holds; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Outcome>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let outcome = |line| parse(line).with_context(|| format!("{}: {line:?}", path.display()));
    text.lines().skip(1).map(outcome).collect()
}

/// Adds a run to the file.
pub fn append(path: &Path, outcome: &Outcome) -> Result<()> {
    let new = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if new {
        writeln!(file, "{HEADER}")?;
    }
    let shares = match outcome.measured {
        Some(Measured { eer, tar, recall }) => {
            let shares = [eer, tar, recall].map(|share| [share.value, share.low, share.high]);
            shares.concat().iter().map(|share| format!("{share:.6}")).collect()
        }
        None => vec![String::new(); SHARES],
    };
    let Outcome { experiment, seed, seconds, .. } = outcome;
    writeln!(file, "{experiment},{seed},{},{seconds:.1}", shares.join(","))?;
    Ok(())
}

fn parse(line: &str) -> Result<Outcome> {
    let columns: Vec<&str> = line.split(',').collect();
    let [experiment, seed, shares @ .., seconds] = &columns[..] else { bail!("too few columns") };
    ensure!(shares.len() == SHARES, "{} columns, not {}", columns.len(), SHARES + 3);
    let measured = if shares.iter().all(|share| share.is_empty()) {
        None
    } else {
        let mut shares = shares.chunks(3).map(|share| -> Result<Share> {
            Ok(Share { value: share[0].parse()?, low: share[1].parse()?, high: share[2].parse()? })
        });
        let mut next = || shares.next().context("three shares")?;
        Some(Measured { eer: next()?, tar: next()?, recall: next()? })
    };
    Ok(Outcome {
        experiment: (*experiment).into(),
        seed: seed.parse()?,
        measured,
        seconds: seconds.parse()?,
    })
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:40} seed {}: ", self.experiment, self.seed)?;
        match self.measured {
            Some(Measured { eer, tar, recall }) => {
                write!(f, "EER {eer}, TAR {tar}, recall@1 {recall}, {:.0} s", self.seconds)
            }
            None => write!(f, "diverged"),
        }
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let [value, low, high] = [self.value, self.low, self.high].map(|share| 100.0 * share);
        write!(f, "{value:.1} % ({low:.1}–{high:.1})")
    }
}
