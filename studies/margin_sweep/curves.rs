//! Accuracy and angles against the margin: one column per loss, one color per margin schedule.

use kuva::plot::{LegendEntry, LegendPlot, LegendShape, LinePlot};
use kuva::render::annotations::{ReferenceLine, ShadedRegion};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;

use crate::findings::Sweep;
use crate::plot::COLORS;
use crate::runs::{Outcome, Point};
use crate::study::{Course, LossName};

/// Sizes of a panel and its margins, in pixels.
const WIDTH: f64 = 370.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 14.0;
const ABOVE: f64 = 48.0;
const BELOW: f64 = 52.0;
const LEGEND_HEIGHT: f64 = 240.0;

const GRAY: &str = "#8c8c8c";
/// The background where a run does not train.
const FAILS: &str = "#f3d9a4";

type Panel = (Vec<Plot>, Layout);
/// The value of a run that a panel shows.
type Figures = fn(&Outcome) -> Option<f64>;

/// A row of accuracies and a row of angles for each learning rate.
pub fn figure(sweeps: &[Sweep]) -> Figure {
    let columns: Vec<&[Sweep]> =
        sweeps.chunk_by(|a, b| a.curve().name == b.curve().name && a.rate() == b.rate()).collect();
    let mut rates: Vec<f32> = sweeps.iter().map(|sweep| sweep.rate()).collect();
    rates.dedup();
    let losses = columns.len() / rates.len();
    let mut panels: Vec<Panel> = Vec::new();
    for row in columns.chunks(losses) {
        panels.extend(row.iter().map(|sweeps| accuracies(sweeps)));
        panels.extend(row.iter().map(|sweeps| angles(sweeps)));
    }
    panels.extend(columns[..losses].iter().map(|sweeps| legend(sweeps)));
    let rows = 2 * rates.len() + 1;
    let (plots, layouts) = panels.into_iter().unzip();
    Figure::new(rows, losses)
        .with_title("Accuracy and angles against the margin")
        .with_title_size(28)
        .with_cell_size(WIDTH, HEIGHT)
        .with_row_height(rows - 1, LEGEND_HEIGHT)
        .with_spacing(8.0)
        .with_plots(plots)
        .with_layouts(layouts)
}

pub fn color(course: Course) -> &'static str {
    match course {
        Course::AtOnce => COLORS[2],
        Course::Linear => COLORS[4],
        Course::Raw => COLORS[0],
        Course::Annealed => COLORS[1],
        Course::AnnealedAway | Course::WarmedUp => COLORS[3],
    }
}

fn accuracies(sweeps: &[Sweep]) -> Panel {
    let accuracy: Figures = |outcome| Some(outcome.accuracy());
    let lines = sweeps.iter().rev().zip(widths(sweeps)).map(|(sweep, width)| {
        banded(sweep.points, accuracy, color(sweep.curve().course)).with_stroke_width(width).into()
    });
    let frame = layout(sweeps, (0.0, 1.05))
        .with_y_label("accuracy")
        .with_y_tick_step(0.2)
        .with_shaded_region(fails(0.0, Outcome::ACCURATE));
    (lines.collect(), frame)
}

/// Two lines per curve: the angle to the own class, solid, and to the nearest wrong one, dashed.
fn angles(sweeps: &[Sweep]) -> Panel {
    let target: Figures = |outcome| Some(outcome.evaluation?.target_angle.to_degrees().into());
    let wrong: Figures =
        |outcome| Some(outcome.evaluation?.nearest_wrong_angle.to_degrees().into());
    let lines = sweeps.iter().rev().zip(widths(sweeps)).flat_map(|(sweep, width)| {
        let color = color(sweep.curve().course);
        let own = banded(sweep.points, target, color).with_stroke_width(width);
        let other = mean(sweep.points, wrong, color).with_stroke_width(1.5).with_dashed();
        [other.into(), own.into()]
    });
    let frame = layout(sweeps, (0.0, 180.0))
        .with_y_label("angle")
        .with_y_tick_step(45.0)
        .with_y_tick_format(TickFormat::Degree)
        .with_shaded_region(fails(90.0, 180.0));
    (lines.collect(), frame)
}

/// Each line is thinner than the one below it, so that both are visible where they coincide.
fn widths(sweeps: &[Sweep]) -> impl Iterator<Item = f64> {
    (0..sweeps.len()).rev().map(|above| 2.2 + 1.6 * above as f64)
}

fn fails(from: f64, to: f64) -> ShadedRegion {
    ShadedRegion::horizontal(from, to).with_color(FAILS).with_opacity(0.35)
}

/// The mean over the seeds against the margin.
fn mean(points: &[Point], figure: Figures, color: &str) -> LinePlot {
    let means = points.iter().filter_map(|point| Some((point.margin, point.spread(figure)?[1])));
    LinePlot::new().with_data(means).with_color(color)
}

/// The mean, with the range from minimum to maximum shaded.
fn banded(points: &[Point], figure: Figures, color: &str) -> LinePlot {
    let (least, greatest): (Vec<f64>, Vec<f64>) = points
        .iter()
        .filter_map(|point| point.spread(figure))
        .map(|[least, _, greatest]| (least, greatest))
        .unzip();
    mean(points, figure, color).with_band(least, greatest)
}

fn layout(sweeps: &[Sweep], y: (f64, f64)) -> Layout {
    let sweep = sweeps[0];
    let name = sweep.curve().name;
    let margins = name.margins();
    let x = (margins[0], margins[margins.len() - 1]);
    Layout::new(x, y)
        .with_x_axis_min(x.0)
        .with_x_axis_max(x.1)
        .with_y_axis_min(y.0)
        .with_y_axis_max(y.1)
        .with_clamp_axis()
        .with_force_margins(LEFT, RIGHT)
        .with_force_margins_y(ABOVE, BELOW)
        .with_title(format!("{}, rate {}", name.title(), sweep.rate()))
        .with_title_size(18)
        .with_label_size(15)
        .with_tick_size(13)
        .with_x_label(name.margin_label())
        .with_x_tick_step(if x.1 > 4.0 { 1.0 } else { 0.4 })
        .with_reference_line(published(name))
}

fn published(name: LossName) -> ReferenceLine {
    ReferenceLine::vertical(name.published()).with_color(GRAY).with_stroke_width(2.0)
}

fn legend(sweeps: &[Sweep]) -> Panel {
    let entry = |label: &str, color: &str, shape, dasharray: Option<&str>| LegendEntry {
        label: label.into(),
        color: color.into(),
        shape,
        dasharray: dasharray.map(Into::into),
    };
    let curves = sweeps.iter().map(|sweep| {
        let course = sweep.curve().course;
        entry(course.title(), color(course), LegendShape::Line, None)
    });
    let common = [
        entry("mean of the seeds; shaded: range", GRAY, LegendShape::Line, None),
        entry("angle to the own class", GRAY, LegendShape::Line, None),
        entry("angle to the nearest wrong one", GRAY, LegendShape::Line, Some("8 4")),
        entry("published margin", GRAY, LegendShape::Line, Some("4 4")),
        entry("solid line in this area: does not train", FAILS, LegendShape::Rect, None),
    ];
    let entries = curves.chain(common).collect();
    let legend = LegendPlot::from_entries(entries).with_cols(1).without_box();
    let layout = Layout::new((0.0, 1.0), (0.0, 1.0))
        .with_body_size(15)
        .with_force_margins(LEFT, 0.0)
        .with_force_margins_y(0.0, 0.0);
    (vec![legend.into()], layout)
}
