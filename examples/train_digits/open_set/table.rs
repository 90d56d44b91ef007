//! The table of the open set.

use super::{FAR, Row};

/// Prints the references and the losses, each with its mean and standard deviation over the splits.
/// The last column compares a loss with the first one on the same splits.
pub fn print(references: &[Row], losses: &[Row]) {
    let first = &losses[0];
    println!(
        "\ntrained on seven digits, verified on all pairs of the three others: mean ± standard \
         deviation of {} splits",
        first.runs.len()
    );
    println!(
        "{:<16}  {:>15}  {:>12}  {:>13}  {:>13}  {:>13}",
        "loss",
        "accuracy",
        "target angle",
        "EER",
        format!("TAR@FAR={}%", 100.0 * FAR),
        format!("EER − {}", first.name),
    );
    references.iter().for_each(|row| print_row(row, ""));
    for row in losses {
        let differences = row.runs.iter().zip(&first.runs).map(|(own, other)| own.eer - other.eer);
        print_row(row, &percent(differences));
    }
}

fn print_row(Row { name, runs }: &Row, difference: &str) {
    let known = || runs.iter().filter_map(|run| run.known);
    let accuracy = spread(known().map(|known| known.accuracy), 4, "");
    let angle = known().map(|known| f64::from(known.target_angle).to_degrees());
    let angle = spread(angle, 1, "°");
    let eer = percent(runs.iter().map(|run| run.eer));
    let tar = percent(runs.iter().map(|run| run.tar));
    println!("{name:<16}  {accuracy:>15}  {angle:>12}  {eer:>13}  {tar:>13}  {difference:>13}");
}

fn percent(shares: impl Iterator<Item = f64>) -> String {
    spread(shares.map(|share| 100.0 * share), 1, " %")
}

/// Mean and standard deviation; nothing of no values, and no deviation of a single one.
fn spread(values: impl Iterator<Item = f64>, decimals: usize, unit: &str) -> String {
    let values: Vec<f64> = values.collect();
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    match values.len() {
        0 => String::new(),
        1 => format!("{mean:.decimals$}{unit}"),
        _ => format!("{mean:.decimals$} ± {deviation:.decimals$}{unit}"),
    }
}
