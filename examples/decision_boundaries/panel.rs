//! Functions shared by all panels.

use kuva::plot::{LegendEntry, LegendPlot, LegendShape, LinePlot};
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

/// A pair of angles, or a point in the plane.
pub type Point = (f64, f64);
/// One panel of a figure.
pub type Panel = (Vec<Plot>, Layout);

/// Steps of a degree over [0, π].
pub const STEPS: u32 = 180;

/// A layout with these axis ranges and large text.
pub fn layout(x: Point, y: Point) -> Layout {
    Layout::new(x, y)
        .with_x_axis_min(x.0)
        .with_x_axis_max(x.1)
        .with_y_axis_min(y.0)
        .with_y_axis_max(y.1)
        .with_clamp_axis()
        .with_title_size(20)
        .with_subtitle_size(15)
        .with_label_size(17)
        .with_tick_size(13)
        .with_body_size(15)
}

/// A line through `points`.
pub fn line(points: Vec<Point>, color: &str) -> LinePlot {
    LinePlot::new().with_data(points).with_color(color).with_stroke_width(2.5)
}

/// An entry of a legend. The dashes are those of a line, and empty where it is solid.
pub fn entry(label: &str, color: &str, shape: LegendShape, dashes: &str) -> LegendEntry {
    let dasharray = (!dashes.is_empty()).then(|| dashes.into());
    LegendEntry { label: label.into(), color: color.into(), shape, dasharray }
}

/// A panel that contains only a legend.
pub fn legend(entries: Vec<LegendEntry>, left: f64, top: f64) -> Panel {
    let legend = LegendPlot::from_entries(entries).with_cols(1).without_box();
    let layout =
        layout((0.0, 1.0), (0.0, 1.0)).with_force_margins(left, 0.0).with_force_margins_y(top, 0.0);
    (vec![legend.into()], layout)
}
