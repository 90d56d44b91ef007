//! The usable range of each loss, as the width of the band, in which margins of different losses
//! can be compared.

use anyhow::Result;
use kuva::plot::{BandPlot, LegendEntry, LegendPlot, LegendShape, ScatterPlot};
use kuva::render::annotations::TextAnnotation;
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;

use crate::curves::color;
use crate::findings::{Reach, Sweep};
use crate::report::short;

/// Sizes in pixels: a bar with its spacing, the panel of bars, and its margins.
const ROW: f64 = 30.0;
const BARS: f64 = 430.0;
const NAMES: f64 = 310.0;
const RIGHT: f64 = 20.0;
const ABOVE: f64 = 50.0;
const BELOW: f64 = 60.0;

/// The end of the axis in degrees, beyond the longest bar so that labels fit beside it.
const END: f64 = 120.0;
const LABEL_SIZE: u32 = 14;
const INK: &str = "#222222";

/// A panel of bars for each learning rate, with one bar per curve.
pub fn figure(sweeps: &[Sweep]) -> Result<Figure> {
    let rows: Vec<&[Sweep]> = sweeps.chunk_by(|a, b| a.rate() == b.rate()).collect();
    let mut panels = rows
        .iter()
        .enumerate()
        .map(|(column, row)| bars(row, column == 0))
        .collect::<Result<Vec<_>>>()?;
    panels.push(legend());
    let columns = rows.len();
    let height = ABOVE + ROW * rows[0].len() as f64 + BELOW;
    let (plots, layouts) = panels.into_iter().unzip();
    let structure = (0..columns).map(|column| vec![column]);
    let below = (columns..2 * columns).collect();
    Ok(Figure::new(2, columns)
        .with_structure(structure.chain([below]).collect())
        .with_title("Largest margin that trains from every seed")
        .with_title_size(26)
        .with_cell_size(RIGHT + BARS + RIGHT, height)
        .with_col_width(0, NAMES + BARS + RIGHT)
        .with_row_height(1, 60.0)
        .with_plots(plots)
        .with_layouts(layouts))
}

fn bars(sweeps: &[Sweep], named: bool) -> Result<(Vec<Plot>, Layout)> {
    let mut plots: Vec<Plot> = Vec::new();
    let mut published = Vec::new();
    let mut layout = frame(sweeps, named);
    // kuva numbers the categories from 1, starting at the bottom.
    for (y, &sweep) in (1..=sweeps.len()).rev().map(|y| y as f64).zip(sweeps) {
        let curve = sweep.curve();
        let (band, text) = match sweep.reach() {
            Some(Reach { margin, band, whole }) => {
                (band, format!("m ≤ {}{}", short(margin), if whole { " →" } else { "" }))
            }
            None => (0.0, "none".into()),
        };
        let bar = BandPlot::new([0.0, band], [y - 0.3; 2], [y + 0.3; 2]).with_opacity(1.0);
        plots.push(bar.with_color(color(curve.course)).into());
        if let Some(band) = curve.band(curve.name.published())? {
            published.push((band.to_degrees(), y));
        }
        // kuva draws an annotation six pixels above its point; the height of a letter is 0.73 of
        // its font size.
        let lowered = (6.0 + 0.73 / 2.0 * f64::from(LABEL_SIZE)) / ROW;
        let label = TextAnnotation::new(text, END - 11.0, y - lowered);
        layout = layout.with_annotation(label.with_font_size(LABEL_SIZE));
    }
    let dots = ScatterPlot::new().with_data(published).with_color(INK).with_size(5.0);
    plots.push(dots.into());
    Ok((plots, layout))
}

fn frame(sweeps: &[Sweep], named: bool) -> Layout {
    let name = |sweep: &Sweep| {
        let curve = sweep.curve();
        format!("{}, {}", curve.name.title(), curve.course.title())
    };
    let names = sweeps.iter().rev().map(|sweep| if named { name(sweep) } else { String::new() });
    Layout::new((0.0, END), (0.5, sweeps.len() as f64 + 0.5))
        .with_y_categories(names.collect())
        .with_x_axis_min(0.0)
        .with_x_axis_max(END)
        .with_clamp_axis()
        .with_force_margins(if named { NAMES } else { RIGHT }, RIGHT)
        .with_force_margins_y(ABOVE, BELOW)
        .with_title(format!("learning rate {}", sweeps[0].rate()))
        .with_title_size(19)
        .with_label_size(15)
        .with_tick_size(14)
        .with_x_label("band between two of ten classes")
        .with_x_tick_step(30.0)
        .with_x_tick_format(TickFormat::Degree)
}

fn legend() -> (Vec<Plot>, Layout) {
    let entry = LegendEntry {
        label: "published margin. → the largest margin tested trains.".into(),
        color: INK.into(),
        shape: LegendShape::Circle,
        dasharray: None,
    };
    let layout = Layout::new((0.0, 1.0), (0.0, 1.0))
        .with_body_size(15)
        .with_force_margins(NAMES, 0.0)
        .with_force_margins_y(0.0, 0.0);
    (vec![LegendPlot::from_entries(vec![entry]).without_box().into()], layout)
}
