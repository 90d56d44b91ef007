//! What the example found: a table and a picture.

use anyhow::Result;
use kuva::plot::{Histogram, StripPlot};
use kuva::render::annotations::ReferenceLine;
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

use crate::plot::COLORS;
use crate::say::say;
use crate::{Args, SUB_CENTERS};

/// Angles beyond which labels are counted as suspect, in degrees; the paper's is the last.
const ANGLES: [f32; 4] = [30.0, 45.0, 60.0, 75.0];

/// One method, and its held-out accuracy for each seed.
pub struct Column {
    pub name: &'static str,
    pub accuracies: Vec<f64>,
}

/// The angles of all samples to the dominant sub-center of their labeled class for one seed, in
/// degrees: of those with a right label, and of those with a wrong one.
pub struct Search {
    pub right: Vec<f32>,
    pub wrong: Vec<f32>,
}

/// The share of wrong labels among those beyond an angle, and the share of the wrong ones that are
/// beyond it, over all seeds.
fn precision_and_recall(searches: &[Search], suspect: f32) -> (f64, f64) {
    let count = |angles: fn(&Search) -> &[f32], least: f32| {
        searches.iter().flat_map(angles).filter(|&&angle| angle > least).count()
    };
    let wrong = count(|search| &search.wrong, suspect);
    let right = count(|search| &search.right, suspect);
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    (share(wrong, right + wrong), share(wrong, count(|search| &search.wrong, -1.0)))
}

/// The mean and the standard deviation over the seeds.
fn mean_and_spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (squares / (values.len() as f64 - 1.0).max(1.0)).sqrt())
}

pub fn print_table(args: &Args, columns: &[Column], searches: &[Search]) -> Result<()> {
    say(format!(
        "{:.0} % of the labels wrong, {} epochs, {} seeds: held-out accuracy (mean ± deviation)\n",
        100.0 * args.noise,
        args.epochs,
        args.seeds
    ))?;
    for Column { name, accuracies } in columns {
        let (mean, spread) = mean_and_spread(accuracies);
        say(format!("{name:<16}  {mean:.4} ± {spread:.4}"))?;
    }
    say(format!("\nlabels far from the dominant of {SUB_CENTERS} sub-centers of their class:"))?;
    for angle in ANGLES {
        let (precision, recall) = precision_and_recall(searches, angle);
        say(format!("beyond {angle}°  precision {precision:.3}  recall {recall:.3}"))?;
    }
    Ok(())
}

/// The accuracies of all seeds, and the angles to the dominant sub-center of right and wrong labels.
pub fn picture(columns: &[Column], searches: &[Search], suspect: f32) -> Figure {
    let strips = columns.iter().fold(StripPlot::new().with_point_size(5.0), |plot, column| {
        plot.with_group(column.name, column.accuracies.iter().copied())
    });
    let strips: Vec<Plot> = vec![strips.with_color(COLORS[1]).into()];
    let accuracy = Layout::auto_from_plots(&strips)
        .with_title("Held-out accuracy, a dot for each seed")
        .with_y_label("accuracy");
    let histogram = |label: &str, color: &str, angles: fn(&Search) -> &[f32]| -> Plot {
        let angles = searches.iter().flat_map(angles).map(|&angle| f64::from(angle));
        Histogram::new()
            .with_data(angles.collect::<Vec<_>>())
            .with_range((0.0, 180.0))
            .with_bins(60)
            .with_step(true)
            .with_color(color)
            .with_legend(label)
            .into()
    };
    let angles = vec![
        histogram("right label", COLORS[1], |search| &search.right),
        histogram("wrong label", COLORS[2], |search| &search.wrong),
    ];
    let layout = Layout::auto_from_plots(&angles)
        .with_title("Angle to the dominant sub-center of the labeled class")
        .with_reference_line(
            ReferenceLine::vertical(suspect.into())
                .with_color(COLORS[0])
                .with_label(format!("dropped beyond {suspect}°")),
        )
        .with_x_label("degrees")
        .with_y_label("training digits, all seeds");
    Figure::new(1, 2)
        .with_cell_size(760.0, 480.0)
        .with_plots(vec![strips, angles])
        .with_layouts(vec![accuracy, layout])
}
