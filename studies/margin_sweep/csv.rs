//! The table of all runs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::runs::Point;

/// Writes one line per run. Missing values are empty: a band that does not exist, and the results
/// of a run that diverged.
pub fn write(points: &[Point], path: &Path) -> Result<()> {
    lines(points, path).with_context(|| format!("cannot write {}", path.display()))
}

fn lines(points: &[Point], path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(
        file,
        "loss,course,learning_rate,margin,band_degrees,seed,fate,accuracy,target_angle_degrees,\
         nearest_wrong_angle_degrees,steps,steps_not_finite"
    )?;
    for Point { curve, margin, rate, band, outcomes } in points {
        let band = band.map_or(String::new(), |band| format!("{:.2}", band.to_degrees()));
        for outcome in outcomes {
            let figures = outcome.evaluation.map_or(",,".into(), |e| {
                let angles = [e.target_angle, e.nearest_wrong_angle].map(f32::to_degrees);
                format!("{:.4},{:.2},{:.2}", e.accuracy, angles[0], angles[1])
            });
            writeln!(
                file,
                "{:?},{:?},{rate},{margin:.2},{band},{},{:?},{figures},{},{}",
                curve.name,
                curve.course,
                outcome.seed,
                outcome.fate(),
                outcome.steps,
                outcome.not_finite,
            )?;
        }
    }
    Ok(file.flush()?)
}
