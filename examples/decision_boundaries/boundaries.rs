//! The decision boundaries of each loss, side by side as in the papers.

use std::f64::consts::{FRAC_PI_2, PI};
use std::sync::Arc;

use kuva::plot::{LegendShape, LinePlot, TextPlot};
use kuva::render::annotations::TextAnnotation;
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::theme::Theme;

use crate::panel::{Panel, Point, STEPS, entry, layout, legend, line};
use crate::plot::COLORS;
use crate::{Entry, in_degrees};

/// The angle between the class weights.
const BETWEEN: f64 = FRAC_PI_2;

const CLASS_ONE: &str = COLORS[1];
const CLASS_TWO: &str = COLORS[2];
const NEITHER: &str = "#8c8c8c";
const INK: &str = COLORS[0];

/// Sizes in pixels: the side of a square panel, its left and right margins, the margin above for
/// titles and the margin below for labels.
const SIDE: f64 = 290.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 22.0;
const TITLES: f64 = 70.0;
const LABELS: f64 = 54.0;
/// The margins above and below a circle.
const ROOM: f64 = 40.0;

/// Both boundaries of each loss, in the angles above and on the circle below.
pub fn figure(entries: &[Entry]) -> Figure {
    const COLUMNS: usize = 4;
    let mut panels: Vec<Panel> = Vec::new();
    for row in entries.chunks(COLUMNS) {
        let free = COLUMNS - row.len();
        panels.extend(row.iter().map(angles).chain((0..free).map(|_| key())));
        panels.extend(row.iter().map(circle).chain((0..free).map(|_| caption())));
    }
    let rows = panels.len() / COLUMNS;
    let (plots, layouts) = panels.into_iter().unzip();
    let figure = Figure::new(rows, COLUMNS)
        .with_title("Decision boundaries between two classes")
        .with_title_size(28)
        .with_cell_size(LEFT + SIDE + RIGHT, TITLES + SIDE + LABELS)
        .with_plots(plots)
        .with_layouts(layouts);
    let circles = (1..rows).step_by(2);
    circles.fold(figure, |figure, row| figure.with_row_height(row, ROOM + SIDE + ROOM))
}

/// A square panel that shows `range` on both axes.
fn square(range: Point, above: f64, below: f64) -> Layout {
    layout(range, range)
        .with_show_grid(false)
        .with_force_margins(LEFT, RIGHT)
        .with_force_margins_y(above, below)
}

fn key() -> Panel {
    let entries = [
        entry("satisfies class 1", CLASS_ONE, LegendShape::Rect, ""),
        entry("satisfies class 2", CLASS_TWO, LegendShape::Rect, ""),
        entry("the band: satisfies neither", NEITHER, LegendShape::Rect, ""),
        entry("from w₁ to w₂: θ₁ + θ₂ = 90°", INK, LegendShape::Line, "8 4"),
    ];
    legend(entries.into(), LEFT, 2.0 * TITLES)
}

fn caption() -> Panel {
    let text = TextPlot::new().with_font_size(15).with_padding(0.0).with_body(
        "θ₁ is the angle between a sample and w₁, the weight of class 1, and θ₂ that between the \
         sample and w₂.\n\nOn the circles w₁ and w₂ are 90° apart, and the width of the band is \
         measured between them.",
    );
    (vec![text.into()], square((0.0, 1.0), ROOM, ROOM))
}

/// The area inside `outline`. kuva fills between a line and y = 0, so that an outline that starts
/// and ends at the origin is filled exactly.
fn area(outline: &[Point], color: &str) -> Plot {
    let origin = [(0.0, 0.0)];
    LinePlot::new()
        .with_data([&origin, outline, &origin].concat())
        .with_color(color)
        .with_stroke_width(0.0)
        .with_fill()
        .with_fill_opacity(0.35)
        .into()
}

/// The plane of both angles, in degrees, with the regions that satisfy class 1, class 2 and
/// neither.
fn angles(entry: &Entry) -> Panel {
    let degrees = |curves: Vec<Vec<Point>>| -> Vec<Point> {
        curves.into_iter().flatten().map(|(a, b)| (a.to_degrees(), b.to_degrees())).collect()
    };
    let one = degrees(entry.boundary.class_one(STEPS / 2));
    let two = degrees(entry.boundary.class_two(STEPS / 2));
    // Class 1 is above its boundary, class 2 to the right of its own, the band between them.
    let above = [&one[..], &[(one[one.len() - 1].0, 180.0), (0.0, 180.0)]].concat();
    let right = [&two[..], &[(180.0, two[two.len() - 1].1), (180.0, 0.0)]].concat();
    let back: Vec<Point> = two.iter().rev().copied().collect();
    let band = [&one[..], &[(180.0, 180.0)], &back].concat();
    let apart = BETWEEN.to_degrees();
    let plots = vec![
        area(&band, NEITHER),
        area(&above, CLASS_ONE),
        area(&right, CLASS_TWO),
        line(one, CLASS_ONE).into(),
        line(two, CLASS_TWO).into(),
        line(vec![(0.0, apart), (apart, 0.0)], INK).with_stroke_width(1.5).with_dashed().into(),
    ];
    let frame = square((0.0, 180.0), TITLES, LABELS)
        .with_title(entry.name)
        .with_subtitle(entry.parameters)
        .with_x_label("θ₁")
        .with_y_label("θ₂")
        .with_x_tick_step(45.0)
        .with_y_tick_step(45.0)
        .with_tick_format(TickFormat::Degree)
        .with_box_axes();
    (plots, frame)
}

/// The point at an angle on the circle with this radius.
fn at(angle: f64, radius: f64) -> Point {
    (radius * angle.cos(), radius * angle.sin())
}

/// The angles of the class weights on the circle, symmetric about its top.
const WEIGHT_ONE: f64 = FRAC_PI_2 + 0.5 * BETWEEN;
const WEIGHT_TWO: f64 = FRAC_PI_2 - 0.5 * BETWEEN;

/// The arcs of the circle, each with the color of the class that its points satisfy.
fn arcs(entry: &Entry) -> Vec<(&'static str, Vec<Point>)> {
    let color = |angle: f64| {
        let from = |weight: f64| (angle - weight).cos().acos();
        let (theta1, theta2) = (from(WEIGHT_ONE), from(WEIGHT_TWO));
        if entry.boundary.satisfies_one(theta1, theta2) {
            CLASS_ONE
        } else if entry.boundary.satisfies_two(theta1, theta2) {
            CLASS_TWO
        } else {
            NEITHER
        }
    };
    // Points in the middle of each step, so that none falls on a boundary.
    let step = PI / f64::from(STEPS);
    let rim: Vec<f64> = (0..2 * STEPS).map(|i| WEIGHT_ONE + (f64::from(i) + 0.5) * step).collect();
    let arc = |middles: &[f64]| {
        let starts = middles.iter().map(|middle| at(middle - 0.5 * step, 1.0));
        let end = at(middles[middles.len() - 1] + 0.5 * step, 1.0);
        (color(middles[0]), starts.chain([end]).collect())
    };
    rim.chunk_by(|&a, &b| color(a) == color(b)).map(arc).collect()
}

/// The circle, both class weights, and the class that each of its points satisfies.
fn circle(entry: &Entry) -> Panel {
    let mut plots = Vec::new();
    for (color, arc) in arcs(entry) {
        plots.push(area(&arc, color));
        plots.push(line(arc, color).with_stroke_width(5.0).into());
    }
    for (weight, color) in [(WEIGHT_ONE, CLASS_ONE), (WEIGHT_TWO, CLASS_TWO)] {
        plots.push(line(vec![(0.0, 0.0), at(weight, 1.0)], color).into());
    }
    let label = |text: &str, angle: f64| {
        let (x, y) = at(angle, 1.16);
        TextAnnotation::new(text, x, y - 0.06).with_font_size(18)
    };
    let band = entry.boundary.band(BETWEEN).map_or("none".into(), in_degrees);
    let hidden = Theme { axis_color: "none".into(), tick_color: "none".into(), ..Theme::light() };
    let frame = square((-1.2, 1.2), ROOM, ROOM)
        .with_title(format!("band: {band}"))
        .with_theme(hidden)
        .with_show_grid(false)
        .with_tick_format(TickFormat::Custom(Arc::new(|_| String::new())))
        .with_annotation(label("w₁", WEIGHT_ONE))
        .with_annotation(label("w₂", WEIGHT_TWO));
    (plots, frame)
}
