//! True accepts of every loss, and against the margin.

use kuva::plot::{LinePlot, MarkerShape, ScatterPlot};
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

use crate::experiments::{Experiment, Model, groups};
use crate::losses::Loss;
use crate::plot::COLORS;
use crate::results::Outcome;
use crate::summary::{Spread, Summary};

/// Sizes in pixels: the names of the losses, a panel, and its margins.
const NAMES: f64 = 300.0;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 46.0;
const BELOW: f64 = 56.0;

const INK: &str = COLORS[0];
const COSFACE: &str = COLORS[1];
const ARCFACE: &str = COLORS[2];

type Panel = (Vec<Plot>, Layout);
/// What a panel shows of an experiment.
type Value = fn(&Summary) -> Spread;

/// The losses with their published margins on the left, the sweeps of the margins on the right.
pub fn figure(outcomes: &[Outcome]) -> Figure {
    let groups = groups();
    let tar: Value = |summary| summary.tar;
    let eer: Value = |summary| summary.eer;
    let sweeps = [&groups[1].experiments, &groups[2].experiments];
    let panels = [
        losses(&groups[0].experiments, outcomes),
        curves(sweeps, outcomes, tar, "true accepts at FAR 1e-4, %"),
        curves(sweeps, outcomes, eer, "equal error rate, %"),
    ];
    let (plots, layouts) = panels.into_iter().unzip();
    Figure::new(2, 2)
        .with_structure(vec![vec![0, 2], vec![1], vec![3]])
        .with_title("Unseen characters in unseen fonts")
        .with_title_size(24)
        .with_cell_size(LEFT + WIDTH + RIGHT, ABOVE + HEIGHT + BELOW)
        .with_col_width(0, NAMES + WIDTH + RIGHT)
        .with_plots(plots)
        .with_layouts(layouts)
}

/// A dot with its interval for each experiment, the best on top.
fn losses(experiments: &[Experiment], outcomes: &[Outcome]) -> Panel {
    let mut summaries: Vec<Summary> = experiments
        .iter()
        .filter_map(|experiment| Summary::new(&experiment.name(), outcomes))
        .filter(|summary| summary.seeds > 0)
        .collect();
    summaries.sort_by(|a, b| a.tar.mean.value.total_cmp(&b.tar.mean.value));
    let mut plots: Vec<Plot> = Vec::new();
    let mut dots = Vec::new();
    for (place, summary) in summaries.iter().enumerate() {
        // kuva numbers the categories from 1, starting at the bottom.
        let y = place as f64 + 1.0;
        let [value, low, high] = percent(&summary.tar);
        let interval = LinePlot::new().with_data([(low, y), (high, y)]).with_color(INK);
        plots.push(interval.with_stroke_width(2.0).into());
        dots.push((value, y));
    }
    plots.push(ScatterPlot::new().with_data(dots).with_color(INK).with_size(5.0).into());
    let names = summaries.iter().map(|summary| summary.name.clone());
    let layout = Layout::new((0.0, 60.0), (0.5, summaries.len().max(1) as f64 + 0.5))
        .with_y_categories(names.collect())
        .with_x_axis_min(0.0)
        .with_force_margins(NAMES, RIGHT)
        .with_force_margins_y(ABOVE, BELOW)
        .with_title("published margins")
        .with_title_size(18)
        .with_label_size(15)
        .with_tick_size(13)
        .with_x_label("true accepts at FAR 1e-4, %");
    (plots, layout)
}

/// Two curves, with the intervals shaded and a mark for each margin.
fn curves(sweeps: [&Vec<Experiment>; 2], outcomes: &[Outcome], value: Value, label: &str) -> Panel {
    let styles = [(ARCFACE, MarkerShape::Circle), (COSFACE, MarkerShape::Triangle)];
    let mut highest = 1.0_f64;
    let mut plots: Vec<Plot> = Vec::new();
    for (sweep, (color, mark)) in sweeps.into_iter().zip(styles) {
        let points: Vec<(f64, [f64; 3])> = sweep
            .iter()
            .filter_map(|experiment| {
                let summary = Summary::new(&experiment.name(), outcomes)?;
                (summary.seeds > 0).then(|| (margin(experiment), percent(&value(&summary))))
            })
            .collect();
        highest = points.iter().fold(highest, |highest, (_, [_, _, high])| highest.max(*high));
        let (low, high): (Vec<f64>, Vec<f64>) =
            points.iter().map(|(_, [_, low, high])| (low, high)).unzip();
        let means: Vec<(f64, f64)> =
            points.iter().map(|&(margin, [value, ..])| (margin, value)).collect();
        let line = LinePlot::new().with_data(means.clone()).with_band(low, high);
        let marks = ScatterPlot::new().with_data(means).with_marker(mark).with_size(5.0);
        plots.push(line.with_color(color).with_stroke_width(2.5).into());
        plots.push(marks.with_color(color).into());
    }
    let layout = Layout::new((0.0, 0.5), (0.0, 1.1 * highest))
        .with_x_axis_min(0.0)
        .with_y_axis_min(0.0)
        .with_force_margins(LEFT, RIGHT)
        .with_force_margins_y(ABOVE, BELOW)
        .with_title("● ArcFace   ▲ CosFace")
        .with_title_size(18)
        .with_label_size(15)
        .with_tick_size(13)
        .with_x_label("margin m, s = 32")
        .with_y_label(label);
    (plots, layout)
}

fn margin(experiment: &Experiment) -> f64 {
    match experiment.model {
        Model::Trained { loss: Loss::ArcFace { m, .. } | Loss::CosFace { m, .. }, .. } => m,
        _ => 0.0,
    }
}

fn percent(spread: &Spread) -> [f64; 3] {
    let share = spread.mean;
    [share.value, share.low, share.high].map(|share| 100.0 * share)
}
