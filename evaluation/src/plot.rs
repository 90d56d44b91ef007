//! Curves as PNG pictures (feature `plot`).

use kuva::PngBackend;
use kuva::plot::LinePlot;
use kuva::plot::legend::LegendPosition;
use kuva::plot::scatter::{MarkerShape, ScatterPlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, Scene, TextAnchor, render_multiple};

use crate::error::Error;
use crate::roc::{Roc, RocPoint};

/// PNG pixels per unit of the layout.
const PNG_SCALE: f32 = 2.0;
/// Points nearer than this share of an axis to the one before are not drawn.
const RESOLUTION: f64 = 5e-4;
const GRID: &str = "#d8d8d8";
/// The plot, without its margins.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 430.0;
/// Margins of the plot, with room for the texts of the marks; the legend is right of it.
const LEFT: f64 = 92.0;
const ABOVE: f64 = 44.0;
const BELOW: f64 = 66.0;
/// The size of the axes' labels.
const LABEL: u32 = 16;
/// The size of the legend's text, what one letter of it takes at most on average, and the rest of a
/// line with the space around the legend.
const LEGEND_TEXT: u32 = 14;
const LEGEND_LETTER: f64 = 8.5;
const LEGEND_LINE: f64 = 45.0;
/// The size of the marks' texts, and their distance from the plot.
const TEXT: u32 = 13;
const GAP: f64 = 8.0;
/// Colors that color-blind readers tell apart (Okabe and Ito), without yellow, which is too pale for a
/// line. With the marks, which change at every curve, too, 42 curves differ.
const COLORS: [&str; 7] =
    ["#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
const MARKS: [MarkerShape; 6] = [
    MarkerShape::Circle,
    MarkerShape::Triangle,
    MarkerShape::Square,
    MarkerShape::Diamond,
    MarkerShape::TriangleDown,
    MarkerShape::Star,
];
/// The distance of the marks of a curve, as a share of an axis.
const MARK_DISTANCE: f64 = 0.12;
const MARK_SIZE: f64 = 5.0;

/// The marked rates of the normal-deviate axes.
const DET_RATES: [(f64, &str); 9] = [
    (1e-4, "0.01%"),
    (1e-3, "0.1%"),
    (0.01, "1%"),
    (0.05, "5%"),
    (0.1, "10%"),
    (0.2, "20%"),
    (0.4, "40%"),
    (0.6, "60%"),
    (0.8, "80%"),
];

/// An axis: the rates that it marks, and its scale.
struct Axis {
    label: &'static str,
    marks: Vec<(f64, String)>,
    scale: fn(f64) -> f64,
}

/// DET curves, FRR against FAR on normal-deviate axes from 0.01% to 80%, as a PNG file. Scores of
/// two normal distributions give a straight line.
///
/// # Errors
/// [`Error::Empty`] without a curve, [`Error::Picture`] if it could not be rendered.
///
/// ```
/// use margin_softmax_evaluation::{Verification, plot};
///
/// let roc = Verification::from_scores(&[0.9, 0.4, 0.5, 0.1], &[true, true, false, false])?.roc();
/// assert!(plot::det(&[("a network", &roc)])?.starts_with(b"\x89PNG"));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub fn det(curves: &[(&str, &Roc)]) -> Result<Vec<u8>, Error> {
    det_titled("", curves)
}

/// [`det`] with a title; without one if it is empty.
///
/// # Errors
/// Those of [`det`].
///
/// ```
/// use margin_softmax_evaluation::{Verification, plot};
///
/// let roc = Verification::from_scores(&[0.9, 0.4, 0.5, 0.1], &[true, true, false, false])?.roc();
/// assert!(plot::det_titled("Two splits", &[("a network", &roc)])?.starts_with(b"\x89PNG"));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub fn det_titled(title: &str, curves: &[(&str, &Roc)]) -> Result<Vec<u8>, Error> {
    let axis = |label| {
        let marks = DET_RATES.iter().map(|&(rate, text)| (rate, text.to_string())).collect();
        Axis { label, marks, scale: normal_deviate }
    };
    let (far, frr) = (axis("false accept rate"), axis("false reject rate"));
    draw(title, curves, &far, &frr, |point| point.frr)
}

/// ROC curves, TAR against FAR on a logarithmic axis, as a PNG file. The axis starts at the largest
/// power of ten below one false accept, at 10⁻⁹ or above.
///
/// # Errors
/// Those of [`det`].
///
/// ```
/// use margin_softmax_evaluation::{Verification, plot};
///
/// let roc = Verification::from_scores(&[0.9, 0.4, 0.5, 0.1], &[true, true, false, false])?.roc();
/// assert!(plot::roc(&[("a network", &roc)])?.starts_with(b"\x89PNG"));
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub fn roc(curves: &[(&str, &Roc)]) -> Result<Vec<u8>, Error> {
    let impostors = curves.iter().map(|(_, roc)| roc.impostors()).max().unwrap_or(1);
    let decades = (impostors as f64).log10().ceil().clamp(1.0, 9.0) as i32;
    let mark = |exponent| (10_f64.powi(exponent), format!("1e{exponent}"));
    let far = Axis {
        label: "false accept rate",
        marks: (-decades..=0).map(mark).collect(),
        scale: f64::log10,
    };
    let tar = Axis {
        label: "true accept rate",
        marks: (0..=5).map(|fifth| f64::from(fifth) / 5.0).map(|r| (r, format!("{r}"))).collect(),
        scale: |rate| rate,
    };
    draw("", curves, &far, &tar, |point| point.tar)
}

fn draw(
    title: &str,
    curves: &[(&str, &Roc)],
    x: &Axis,
    y: &Axis,
    rate: impl Fn(&RocPoint) -> f64,
) -> Result<Vec<u8>, Error> {
    Error::check_not_empty("curves", &[curves.len()])?;
    let lines = curves.iter().enumerate().flat_map(|(number, &(name, roc))| {
        let points = roc.points().iter().map(|point| (point.far, rate(point)));
        curve(number, name, &within(points, x, y))
    });
    // The grid comes first: it lies below the curves.
    let plots: Vec<Plot> = grid(x, y).chain(lines).collect();
    let letters = curves.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut scene = render_multiple(plots, layout(title, x, letters));
    write_marks(&mut scene, x, y);
    let png = PngBackend::new().with_scale(PNG_SCALE).render_scene(&scene);
    png.map_err(|reason| Error::Picture { reason })
}

/// A line, and its marks, which are shown in the legend.
fn curve(number: usize, name: &str, points: &[(f64, f64)]) -> [Plot; 2] {
    let color = COLORS[number % COLORS.len()];
    let line = LinePlot::new().with_data(points.to_vec()).with_color(color).with_stroke_width(2.0);
    // Curves that coincide have their marks at different places.
    let first = MARK_DISTANCE * (0.5 + (number % MARKS.len()) as f64) / MARKS.len() as f64;
    let marks = ScatterPlot::new()
        .with_data(every(MARK_DISTANCE, first, points))
        .with_color(color)
        .with_marker(MARKS[number % MARKS.len()])
        .with_size(MARK_SIZE)
        .with_legend(name);
    [line.into(), marks.into()]
}

/// The points of a curve on both axes, with one beyond them at each end. Where none lies on both, all,
/// moved to the ends of the axes.
fn within(rates: impl Iterator<Item = (f64, f64)>, x: &Axis, y: &Axis) -> Vec<(f64, f64)> {
    let places: Vec<_> = rates.map(|(far, rate)| (x.place(far), y.place(rate))).collect();
    let shown = |&(x, y): &(f64, f64)| x > 0.0 && x < 1.0 && y > 0.0 && y < 1.0;
    let first = places.iter().position(shown).unwrap_or(0).saturating_sub(1);
    let last = places.iter().rposition(shown).map_or(places.len(), |last| last + 2);
    thinned(places[first..last.min(places.len())].iter().copied())
}

/// Points along a curve, the first one at the given length.
fn every(distance: f64, first: f64, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut marks = Vec::new();
    let mut left = first;
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = f64::hypot(to.0 - from.0, to.1 - from.1);
        while left <= length && length > 0.0 {
            let part = left / length;
            marks.push((from.0 + part * (to.0 - from.0), from.1 + part * (to.1 - from.1)));
            left += distance;
        }
        left -= length;
    }
    marks
}

impl Axis {
    /// Where the marks lie.
    fn places(&self) -> impl Iterator<Item = f64> {
        self.marks.iter().map(|&(rate, _)| self.place(rate))
    }

    /// The share of the axis at which a rate lies; its ends where the rate is beyond.
    fn place(&self, rate: f64) -> f64 {
        let first = (self.scale)(self.marks[0].0);
        let last = (self.scale)(self.marks[self.marks.len() - 1].0);
        (((self.scale)(rate) - first) / (last - first)).clamp(0.0, 1.0)
    }
}

/// Axes from 0 to 1; the marks are written afterwards, for kuva's ticks have equal distances.
fn layout(title: &str, x: &Axis, letters: usize) -> Layout {
    let legend = LEGEND_LINE + LEGEND_LETTER * letters as f64;
    let right = legend + 3.0 * GAP;
    let mut layout = Layout::new((0.0, 1.0), (0.0, 1.0))
        .with_x_axis_min(0.0)
        .with_x_axis_max(1.0)
        .with_y_axis_min(0.0)
        .with_y_axis_max(1.0)
        .with_clamp_axis()
        .with_show_grid(false)
        .with_box_axes()
        .with_title(title)
        .with_title_size(LABEL)
        .with_label_size(LABEL)
        .with_body_size(LEGEND_TEXT)
        .with_width(LEFT + WIDTH + right)
        .with_height(ABOVE + HEIGHT + BELOW)
        .with_force_margins(LEFT, right)
        .with_force_margins_y(ABOVE, BELOW)
        .with_x_label(x.label)
        .with_legend_position(LegendPosition::OutsideRightTop)
        .with_legend_width(legend);
    layout.show_legend = true;
    layout.suppress_x_ticks = true;
    layout.suppress_y_ticks = true;
    layout
}

/// A line at every mark.
fn grid(x: &Axis, y: &Axis) -> impl Iterator<Item = Plot> {
    let upright = x.places().map(|at| [(at, 0.0), (at, 1.0)]).collect::<Vec<_>>();
    let level = y.places().map(|at| [(0.0, at), (1.0, at)]).collect::<Vec<_>>();
    let line = |ends: [(f64, f64); 2]| {
        LinePlot::new().with_data(ends).with_color(GRID).with_stroke_width(1.0).into()
    };
    upright.into_iter().chain(level).map(line)
}

/// Writes the rate of every mark beside the plot, and the upright label, which kuva omits with
/// the ticks.
fn write_marks(scene: &mut Scene, x: &Axis, y: &Axis) {
    let bottom = ABOVE + HEIGHT + GAP + f64::from(TEXT);
    for (at, (_, mark)) in x.places().zip(&x.marks) {
        scene.add(text(mark, LEFT + at * WIDTH, bottom, TextAnchor::Middle));
    }
    // The baseline lies a third of the size below the middle of digits.
    let drop = f64::from(TEXT) / 3.0;
    for (at, (_, mark)) in y.places().zip(&y.marks) {
        scene.add(text(mark, LEFT - GAP, ABOVE + (1.0 - at) * HEIGHT + drop, TextAnchor::End));
    }
    let (x, y, content) = (2.0 * GAP, ABOVE + 0.5 * HEIGHT, y.label.to_string());
    let (size, anchor, rotate) = (LABEL, TextAnchor::Middle, Some(-90.0));
    scene.add(Primitive::Text { x, y, content, size, anchor, rotate, bold: false, color: None });
}

fn text(content: &str, x: f64, y: f64, anchor: TextAnchor) -> Primitive {
    let (content, size) = (content.to_string(), TEXT);
    Primitive::Text { x, y, content, size, anchor, rotate: None, bold: false, color: None }
}

/// The points without those that would fall on the one before.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut last = None;
    for point in points {
        let apart =
            |&(x, y): &(f64, f64)| (x - point.0).abs().max((y - point.1).abs()) > RESOLUTION;
        if kept.last().is_none_or(apart) {
            kept.extend(last.take());
            kept.push(point);
        } else {
            last = Some(point);
        }
    }
    kept.extend(last);
    kept
}

/// Φ⁻¹ by Abramowitz and Stegun 26.2.23, with an error below 4.5e-4, finer than a pixel; ±∞ at 1
/// and 0.
fn normal_deviate(rate: f64) -> f64 {
    if rate <= 0.0 || rate >= 1.0 {
        return if rate <= 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let tail = rate.min(1.0 - rate);
    let t = (-2.0 * tail.ln()).sqrt();
    let numerator = 2.515517 + t * (0.802853 + t * 0.010328);
    let denominator = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308));
    let deviate = t - numerator / denominator;
    if rate < 0.5 { -deviate } else { deviate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_lie_at_equal_distances_along_a_curve() {
        let corner = [(0.0, 0.0), (0.25, 0.0), (0.25, 0.5)];
        assert_eq!(every(0.25, 0.125, &corner), [(0.125, 0.0), (0.25, 0.125), (0.25, 0.375)]);
    }

    #[test]
    fn a_curve_ends_at_the_frame() {
        let axis =
            || Axis { label: "", marks: vec![(0.2, "".into()), (0.8, "".into())], scale: |x| x };
        let (x, y) = (axis(), axis());
        let rates = [(0.0, 1.0), (0.1, 0.9), (0.15, 0.5), (0.5, 0.5), (0.7, 0.1), (1.0, 0.0)];
        let shown = within(rates.into_iter(), &x, &y);
        assert_eq!((shown.len(), shown[0].0, shown[2].1), (3, 0.0, 0.0));
        // Nothing between the ends of both axes: the curve goes along the frame.
        assert!(within([(0.0, 1.0), (0.0, 0.0), (1.0, 0.0)].into_iter(), &x, &y).len() > 1);
    }
}
