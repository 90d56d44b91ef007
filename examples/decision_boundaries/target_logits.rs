//! The target logit of every loss and continuation.

use std::f64::consts::PI;

use kuva::plot::LegendShape;
use kuva::render::figure::Figure;
use kuva::render::layout::TickFormat;
use margin_softmax::custom::Angle;
use margin_softmax::losses::Continuation;
use margin_softmax::{
    ArcFace, CosFace, Error, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, SphereFace,
};

use crate::panel::{Panel, Point, STEPS, entry, layout, legend, line};
use crate::plot::COLORS;

const PALE: &str = "#c4c4c4";

/// Label, loss and color.
type Curve<'a> = (&'a str, &'a dyn MarginLoss, &'a str);

/// A panel of curves f(θ), θ in degrees.
struct Frame {
    title: &'static str,
    subtitle: &'static str,
    x: Point,
    y: Point,
    /// How much wider each curve is than the next one, so that both show where they coincide.
    nesting: f64,
}

/// f(θ) of every loss, and of each continuation of a margin beyond π.
pub fn figure() -> Result<Figure, Error> {
    let (panels, legends): (Vec<_>, Vec<_>) =
        [every_loss()?, continued_sum()?, continued_product()?].into_iter().unzip();
    let (plots, layouts) = panels.into_iter().chain(legends).unzip();
    Ok(Figure::new(2, 3)
        .with_title("The target logit before the scale, f(θ)")
        .with_title_size(28)
        .with_cell_size(520.0, 560.0)
        .with_row_height(1, 170.0)
        .with_plots(plots)
        .with_layouts(layouts))
}

fn every_loss() -> Result<(Panel, Panel), Error> {
    let curves: [Curve; 6] = [
        ("Softmax, ModifiedSoftmax: cos θ", &ModifiedSoftmax::new(), COLORS[0]),
        ("CosFace, m = 0.35", &CosFace::new(64.0, 0.35)?, COLORS[5]),
        ("ArcFace, m = 0.5", &ArcFace::new(64.0, 0.5)?, COLORS[2]),
        (
            "Generalized, m₀ = 1, m₁ = 0.3, m₂ = 0.2",
            &Generalized::new(64.0, 1.0, 0.3, 0.2)?,
            COLORS[4],
        ),
        ("F-Norm SphereFace, m = 2", &FNormSphereFace::new(64.0, 2)?, COLORS[1]),
        ("SphereFace, m = 4, falls to −7", &SphereFace::new(4)?, COLORS[6]),
    ];
    let panel = Frame {
        title: "Every loss",
        subtitle: "default continuation",
        x: (0.0, 180.0),
        y: (-3.2, 1.2),
        nesting: 0.0,
    };
    Ok(panel.draw(&curves))
}

fn continued_sum() -> Result<(Panel, Panel), Error> {
    let loss = |mode| ArcFace::new(64.0, 0.5).map(|loss| loss.with_continuation(mode));
    let curves: [Curve; 5] = [
        ("no margin: cos θ", &ModifiedSoftmax::new(), PALE),
        ("Monotone, the default", &loss(Continuation::Monotone)?, COLORS[2]),
        ("Linear", &loss(Continuation::Linear)?, COLORS[0]),
        ("Raw: cos(θ + m)", &loss(Continuation::Raw)?, COLORS[1]),
        ("EasyMargin", &loss(Continuation::EasyMargin)?, COLORS[6]),
    ];
    let panel = Frame {
        title: "ArcFace and its continuations",
        subtitle: "m = 0.5: θ + m exceeds π from 151.4°",
        x: (60.0, 180.0),
        y: (-1.4, 0.6),
        nesting: 1.5,
    };
    Ok(panel.draw(&curves))
}

fn continued_product() -> Result<(Panel, Panel), Error> {
    let loss = |mode| Generalized::new(64.0, 4.0, 0.0, 0.0)?.with_continuation(mode);
    let curves: [Curve; 3] = [
        ("no margin: cos θ", &ModifiedSoftmax::new(), PALE),
        ("Monotone, the default: A-Softmax", &loss(Continuation::Monotone)?, COLORS[2]),
        ("Raw: cos(4θ)", &loss(Continuation::Raw)?, COLORS[1]),
    ];
    let panel = Frame {
        title: "SphereFace and its continuations",
        subtitle: "m = 4: 4θ exceeds π from 45°",
        x: (0.0, 180.0),
        y: (-7.5, 1.5),
        nesting: 1.5,
    };
    Ok(panel.draw(&curves))
}

impl Frame {
    /// Draws the curves and their legend.
    fn draw(&self, curves: &[Curve]) -> (Panel, Panel) {
        let width = |order: usize| 2.5 + self.nesting * (curves.len() - 1 - order) as f64;
        let lines = curves.iter().enumerate().map(|(order, (_, loss, color))| {
            line(self.points(*loss), color).with_stroke_width(width(order)).into()
        });
        let frame = layout(self.x, self.y)
            .with_title(self.title)
            .with_subtitle(self.subtitle)
            .with_x_label("θ")
            .with_x_tick_step(30.0)
            .with_x_tick_format(TickFormat::Degree)
            .with_force_margins(70.0, 20.0);
        let key = curves.iter().map(|(label, _, color)| entry(label, color, LegendShape::Line, ""));
        ((lines.collect(), frame), legend(key.collect(), 70.0, 0.0))
    }

    fn points(&self, loss: &dyn MarginLoss) -> Vec<Point> {
        let step = PI / f64::from(4 * STEPS);
        let angles = (0..=4 * STEPS).map(|i| Angle::from_theta(f64::from(i) * step));
        angles
            .map(|angle| (angle.theta.to_degrees(), loss.target(&angle).value))
            .filter(|point| point.0 >= self.x.0 && point.1 >= self.y.0)
            .collect()
    }
}
