//! The table of the open set, and what it says.

use anyhow::Result;

use super::{FAR, Row, Split};
use crate::say::say;

/// Prints the references and the losses, each with its mean and standard deviation over the splits.
/// The last column compares a loss with the first one on the same splits.
pub fn print(references: &[Row], losses: &[Row]) -> Result<()> {
    let first = &losses[0];
    say(format!(
        "\nTrained on {} two-digit numbers, verified on all pairs of images of the 10 others:\n\
         mean ± standard deviation of {} splits",
        Split::KNOWN,
        first.runs.len()
    ))?;
    let tar = format!("TAR@FAR={} %", 100.0 * FAR);
    let difference = format!("EER − {}", first.name);
    let heads = ["accuracy %", "angle °", "EER %", &tar, &difference];
    say(line("loss", heads))?;
    for row in references {
        say(row.line(""))?;
    }
    for row in losses {
        let differences = row.runs.iter().zip(&first.runs).map(|(own, other)| own.eer - other.eer);
        say(row.line(&percent(differences)))?;
    }
    say("accuracy and angle: on the numbers trained on; EER: equal error rate; TAR@FAR: true\n\
         accept rate at a false accept rate")
}

/// The lowest equal error rates with and without a margin; with only one of them also the pixels'.
pub fn finding(references: &[Row], losses: &[Row]) -> String {
    let lowest = |has_margin: bool| {
        let rows = losses.iter().filter(move |row| row.has_margin == has_margin);
        rows.min_by(|a, b| a.mean_eer().total_cmp(&b.mean_eer()))
    };
    let pixels = &references[0];
    let rates = match (lowest(true), lowest(false)) {
        (Some(with), Some(without)) => {
            format!("{} % with {}, {} % without a margin", with.eer(), with.name, without.eer())
        }
        (Some(only), None) | (None, Some(only)) => {
            format!("{} % with {}, {} % by bare pixels", only.eer(), only.name, pixels.eer())
        }
        (None, None) => format!("{} % by bare pixels", pixels.eer()),
    };
    format!("EER on unseen numbers: {rates}")
}

impl Row {
    fn mean_eer(&self) -> f64 {
        self.runs.iter().map(|run| run.eer).sum::<f64>() / self.runs.len() as f64
    }

    fn eer(&self) -> String {
        percent(self.runs.iter().map(|run| run.eer))
    }

    fn line(&self, difference: &str) -> String {
        let known = || self.runs.iter().filter_map(|run| run.known);
        let accuracy = percent(known().map(|known| known.accuracy));
        let angle = spread(known().map(|known| known.target_angle.to_degrees().into()));
        let tar = percent(self.runs.iter().map(|run| run.tar));
        line(self.name, [&accuracy, &angle, &self.eer(), &tar, difference])
    }
}

fn line(name: &str, [accuracy, angle, eer, tar, difference]: [&str; 5]) -> String {
    format!("{name:<15} {accuracy:>12}{angle:>12}{eer:>12}{tar:>13}{difference:>14}")
}

fn percent(shares: impl Iterator<Item = f64>) -> String {
    spread(shares.map(|share| 100.0 * share))
}

/// Mean and standard deviation; nothing of no values, and no deviation of a single one.
fn spread(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    match values.len() {
        0 => String::new(),
        1 => format!("{mean:.1}"),
        _ => format!("{mean:.1} ± {deviation:.1}"),
    }
}
