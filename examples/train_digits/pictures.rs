//! The pictures of the A-Softmax paper: 2-D features of each loss, with the class weights as rays.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::slice;

use anyhow::Result;
use kuva::plot::text::TextPlot;
use kuva::plot::{LegendEntry, LegendPlot, LegendShape, LinePlot, MarkerShape, ScatterPlot};
use kuva::render::annotations::TextAnnotation;
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use ndarray::Array2;

use crate::digits::CLASSES;
use crate::plot::{COLORS, save};
use crate::recipe::Recipe;

/// The side of the square that features are drawn in, in pixels: alone, and on the sheet.
const LARGE: f64 = 520.0;
const SMALL: f64 = 380.0;
const MARGIN: f64 = 44.0;
const TITLE_MARGIN: f64 = 75.0;
const LEGEND_WIDTH: f64 = 60.0;
const CAPTION_HEIGHT: f64 = 160.0;

const TITLE_SIZE: u32 = 24;
const TEXT_SIZE: u32 = 16;

/// Radii in units of the longest feature.
const RIM: f64 = 1.08;
const LABELS: f64 = 1.18;
const EDGE: f64 = 1.25;

const HOW_TO_READ: &str = "Marks: features of held-out digits. Rays: class weights. \
    Marks on the rim: the normalized features.";
const WHY_SMALLER: &str = "Ten classes are close together in two dimensions, so the margins are \
    smaller than those of the table (16 dimensions); the scales are the same.";

/// What a picture shows.
pub struct Portrait {
    pub recipe: Recipe,
    /// The hyper-parameters of the same loss in the table.
    pub table_recipe: Recipe,
    pub accuracy: f64,
    /// (N, 2)
    pub features: Array2<f32>,
    pub labels: Vec<usize>,
    /// (C, 2)
    pub class_weights: Array2<f32>,
}

/// Removes the pictures of an earlier run: those of losses that are not drawn again would stay.
pub fn remove_old(names: impl IntoIterator<Item = &'static str>, directory: &Path) -> Result<()> {
    for name in names.into_iter().chain(["all", "det"]) {
        for extension in ["svg", "png"] {
            match fs::remove_file(directory.join(name).with_extension(extension)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => (),
            }
        }
    }
    Ok(())
}

/// Writes a picture for each portrait, and a sheet of all if there are several.
pub fn draw(portraits: &[Portrait], directory: &Path) -> Result<()> {
    for portrait in portraits {
        save(&picture(portrait).render(), &directory.join(portrait.recipe.name()))?;
    }
    if portraits.len() > 1 {
        save(&sheet(portraits).render(), &directory.join("all"))?;
    }
    Ok(())
}

/// A portrait with its legend, and below them a caption.
fn picture(portrait: &Portrait) -> Figure {
    Figure::new(2, 2)
        .with_structure(vec![vec![0], vec![1], vec![2, 3]])
        .with_cell_size(LARGE + 2.0 * MARGIN, LARGE + TITLE_MARGIN + MARGIN)
        .with_col_width(1, LEGEND_WIDTH)
        .with_row_height(1, CAPTION_HEIGHT)
        .with_spacing(0.0)
        .with_plots(vec![portrait.plots(), legend(), caption(slice::from_ref(portrait))])
        .with_layouts(vec![portrait.layout(LARGE), text_layout(TITLE_MARGIN), text_layout(0.0)])
}

/// The portraits in rows, and after the last one the legend and the caption.
fn sheet(portraits: &[Portrait]) -> Figure {
    let columns = (portraits.len() + 1).isqrt();
    let rows = (portraits.len() + 1).div_ceil(columns);
    // Each place on the sheet is two cells: one for the legend, one for the caption beside it.
    let mut structure: Vec<_> =
        (0..portraits.len()).map(|place| vec![2 * place, 2 * place + 1]).collect();
    structure.extend([vec![2 * portraits.len()], vec![2 * portraits.len() + 1]]);

    let mut plots: Vec<_> = portraits.iter().map(Portrait::plots).collect();
    plots.extend([legend(), caption(portraits)]);
    let mut layouts: Vec<_> = portraits.iter().map(|portrait| portrait.layout(SMALL)).collect();
    layouts.extend([text_layout(TITLE_MARGIN), text_layout(TITLE_MARGIN)]);
    let figure = (0..columns).fold(Figure::new(rows, 2 * columns), |figure, column| {
        figure
            .with_col_width(2 * column, LEGEND_WIDTH)
            .with_col_width(2 * column + 1, SMALL + 2.0 * MARGIN - LEGEND_WIDTH)
    });
    figure
        .with_structure(structure)
        .with_cell_size(0.0, SMALL + TITLE_MARGIN + MARGIN)
        .with_spacing(0.0)
        .with_plots(plots)
        .with_layouts(layouts)
}

/// A legend in words, and the margins that differ from those in the table.
fn caption(portraits: &[Portrait]) -> Vec<Plot> {
    let differences: Vec<_> = portraits.iter().filter_map(Portrait::margin_difference).collect();
    let mut lines = vec![HOW_TO_READ.to_string()];
    if !differences.is_empty() {
        lines.extend([String::new(), WHY_SMALLER.into()]);
        lines.extend(differences);
    }
    vec![TextPlot::new().with_body(lines.join("\n")).with_font_size(TEXT_SIZE).into()]
}

/// The layout of a legend or caption that starts `top` pixels below the top of its cell.
fn text_layout(top: f64) -> Layout {
    Layout::new((0.0, 1.0), (0.0, 1.0))
        .with_body_size(TEXT_SIZE)
        .with_force_margins(0.0, 0.0)
        .with_force_margins_y(top, 0.0)
}

/// Color and mark of a digit; no two digits have both in common.
fn color(digit: usize) -> &'static str {
    COLORS[digit % 5]
}

fn mark(digit: usize) -> MarkerShape {
    use MarkerShape::{Circle, Diamond, Square, Triangle};
    [Circle, Triangle, Square, Diamond][digit % 4]
}

fn legend() -> Vec<Plot> {
    let entries = (0..CLASSES).map(|digit| LegendEntry {
        label: digit.to_string(),
        color: color(digit).into(),
        shape: LegendShape::Marker(mark(digit)),
        dasharray: None,
    });
    vec![LegendPlot::from_entries(entries.collect()).with_cols(1).without_box().into()]
}

impl Portrait {
    /// The margin of the picture and that of the table, if they differ.
    fn margin_difference(&self) -> Option<String> {
        let (plane, table) = (self.recipe.margin(), self.table_recipe.margin());
        (plane != table).then(|| format!("{}: {plane} instead of {table}", self.recipe.name()))
    }

    fn plots(&self) -> Vec<Plot> {
        let reach = self.reach();
        let mut plots = Vec::new();
        for digit in 0..CLASSES {
            let rows = self.features.rows().into_iter().zip(&self.labels);
            let own = rows.filter(|&(_, &label)| label == digit);
            let points: Vec<_> = own.map(|(x, _)| (f64::from(x[0]), f64::from(x[1]))).collect();
            let rim = points.iter().map(|&point| scaled_to(RIM * reach, point));
            plots.push(scatter(digit, rim).into());
            plots.push(scatter(digit, points.iter().copied()).into());
        }
        for digit in 0..CLASSES {
            let ray = LinePlot::new()
                .with_data([(0.0, 0.0), self.along_ray(digit, reach)])
                .with_stroke_width(1.5);
            plots.push(ray.with_color(color(digit)).into());
        }
        plots
    }

    /// Axes, title and labels around a square of `side` pixels.
    fn layout(&self, side: f64) -> Layout {
        let edge = EDGE * self.reach();
        // kuva draws an annotation six pixels above its point; the height of a digit is 0.73 of its
        // font size.
        let lowered = (6.0 + 0.73 / 2.0 * f64::from(TEXT_SIZE)) * 2.0 * edge / side;
        let layout = Layout::new((-edge, edge), (-edge, edge))
            .with_force_margins(MARGIN, MARGIN)
            .with_force_margins_y(TITLE_MARGIN, MARGIN)
            .with_title(self.recipe.name())
            .with_title_size(TITLE_SIZE)
            .with_subtitle(format!(
                "{} · held-out accuracy {:.1} %",
                self.recipe.hyper_parameters(),
                100.0 * self.accuracy
            ))
            .with_subtitle_size(TEXT_SIZE)
            .with_tick_size(TEXT_SIZE - 3)
            .with_show_grid(false)
            .with_x_axis_min(-edge)
            .with_x_axis_max(edge)
            .with_y_axis_min(-edge)
            .with_y_axis_max(edge);
        (0..CLASSES).fold(layout, |layout, digit| {
            let (x, y) = self.along_ray(digit, LABELS * self.reach());
            let label = TextAnnotation::new(digit.to_string(), x, y - lowered);
            layout.with_annotation(label.with_font_size(TEXT_SIZE))
        })
    }

    /// The length of the longest feature.
    fn reach(&self) -> f64 {
        self.features.rows().into_iter().map(|x| f64::from(x.dot(&x)).sqrt()).fold(0.0, f64::max)
    }

    /// The point at the given distance in the direction of a class weight.
    fn along_ray(&self, digit: usize, distance: f64) -> (f64, f64) {
        let weight = self.class_weights.row(digit);
        scaled_to(distance, (weight[0].into(), weight[1].into()))
    }
}

fn scatter(digit: usize, points: impl Iterator<Item = (f64, f64)>) -> ScatterPlot {
    ScatterPlot::new()
        .with_data(points)
        .with_color(color(digit))
        .with_marker(mark(digit))
        .with_size(3.5)
        .with_marker_opacity(0.6)
}

fn scaled_to(length: f64, (x, y): (f64, f64)) -> (f64, f64) {
    let factor = length / f64::hypot(x, y);
    (factor * x, factor * y)
}
