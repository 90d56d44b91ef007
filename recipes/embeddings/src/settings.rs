//! What decides the result of a run.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A checkpoint keeps these, and a run with others does not continue from it.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Pixels on each side of the images as the network sees them: 112 is usual for faces.
    #[arg(long, default_value_t = 32, value_parser = at_least::<8>)]
    pub size: usize,
    /// Identities that are not trained on, drawn with the seed. By default a tenth of them, and at
    /// least 3.
    #[arg(long, value_parser = at_least::<2>)]
    pub held_out: Option<usize>,
    /// Mirrors half of the images while training, as is usual for faces.
    #[arg(long)]
    pub mirror: bool,
    /// Dimensions of an embedding: 512 is usual for faces.
    #[arg(long, default_value_t = 64, value_parser = at_least::<1>)]
    pub dims: usize,
    /// Passes over the training images. The schedules of margin and learning rate are those of all
    /// of them.
    #[arg(long, default_value_t = 40, value_parser = at_least::<1>)]
    pub epochs: usize,
    /// Images in a step.
    #[arg(long, default_value_t = 64, value_parser = at_least::<2>)]
    pub batch: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 0.1, value_parser = up_to::<10>)]
    pub rate: f64,
    /// The loss.
    #[arg(long, value_enum, default_value_t = LossName::ArcFace)]
    pub loss: LossName,
    /// The scale s of the loss. By default twice the least scale at which a sample can reach the
    /// probability 0.99; 64 is usual for many thousand identities.
    #[arg(long, value_parser = up_to::<10_000>)]
    pub scale: Option<f64>,
    /// The margin m of the loss, after its warm-up. By default 0.5 for ArcFace, 0.35 for CosFace.
    #[arg(long)]
    pub margin: Option<f64>,
    /// With more classes than this, a step samples them.
    #[arg(long, default_value_t = 10_000)]
    pub sample_above: usize,
    /// The share of the classes in a step that samples them.
    #[arg(long, default_value_t = 0.1, value_parser = up_to::<1>)]
    pub sample_rate: f64,
    /// Decides the initial weights, the identities that are held out, the order of the images and
    /// how they are changed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, Serialize, Deserialize)]
#[value(rename_all = "lower")]
#[serde(rename_all = "lowercase")]
pub enum LossName {
    ArcFace,
    CosFace,
}

impl Settings {
    /// Refuses to continue a run that had other settings, and names them.
    pub fn check_same(&self, before: &Settings) -> Result<()> {
        let (before, now) = (serde_json::to_value(before)?, serde_json::to_value(self)?);
        let Value::Object(before) = before else { unreachable!("settings have names") };
        let differing: Vec<_> = before
            .iter()
            .filter(|&(name, value)| now[name] != *value)
            .map(|(name, value)| {
                let option = name.replace('_', "-");
                format!("--{option} was {}, and is now {}", given(value), given(&now[name]))
            })
            .collect();
        ensure!(differing.is_empty(), "{}", differing.join("; "));
        Ok(())
    }
}

fn given(value: &Value) -> String {
    if value.is_null() { "the default".into() } else { value.to_string() }
}

/// A number of at least `LEAST`, from the command line.
pub fn at_least<const LEAST: usize>(text: &str) -> Result<usize> {
    let number = text.parse()?;
    ensure!(number >= LEAST, "expected at least {LEAST}");
    Ok(number)
}

/// A number above 0 and at most `MOST`, from the command line.
fn up_to<const MOST: u32>(text: &str) -> Result<f64> {
    let number: f64 = text.parse()?;
    ensure!(number > 0.0 && number <= f64::from(MOST), "expected above 0 and at most {MOST}");
    Ok(number)
}
