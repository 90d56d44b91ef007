//! Draws the decision boundaries between two classes for every loss, in the angles to the two class
//! weights and on the circle, and the target logit of every loss and continuation.

mod boundaries;
mod panel;
#[path = "../common/plot.rs"]
mod plot;
#[path = "../common/say.rs"]
mod say;
mod target_logits;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use margin_softmax::boundary::Boundary;
use margin_softmax::{
    ArcFace, CosFace, Error, FNormSphereFace, Generalized, MarginLoss, ModifiedSoftmax, Softmax,
    SphereFace,
};

use crate::say::say;

/// Draw the decision boundaries and the target logits of every loss
#[derive(Parser)]
struct Args {
    /// Directory for the pictures
    #[arg(long, value_name = "DIR", default_value = "target/decision_boundaries")]
    out: PathBuf,
}

/// A loss with the parameters used in the pictures.
struct Entry {
    name: &'static str,
    parameters: &'static str,
    boundary: Boundary<Box<dyn MarginLoss>>,
}

fn main() -> Result<()> {
    let args = &Args::parse();
    let out = &args.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let entries = entries()?;
    print_bands(&entries)?;
    for (name, figure) in
        [("boundaries", boundaries::figure(&entries)), ("target_logits", target_logits::figure()?)]
    {
        let stem = out.join(name);
        plot::save(&figure.render(), &stem)?;
        say(format!("{}.svg and .png", stem.display()))?;
    }
    Ok(())
}

/// Every loss, with its published margin or a common one.
fn entries() -> Result<Vec<Entry>, Error> {
    let entry = |name, parameters, loss: Box<dyn MarginLoss>| {
        // The norms affect Softmax only: the other losses normalize.
        let boundary = Boundary::of(loss).with_norms(1.0, 1.5)?;
        Ok(Entry { name, parameters, boundary })
    };
    Ok(vec![
        entry("Softmax", "‖w₁‖ = 1, ‖w₂‖ = 1.5", Box::new(Softmax::new()))?,
        entry("ModifiedSoftmax", "no margin", Box::new(ModifiedSoftmax::new()))?,
        entry("SphereFace", "m = 4", Box::new(SphereFace::new(4)?))?,
        entry("F-Norm SphereFace", "m = 2", Box::new(FNormSphereFace::new(64.0, 2)?))?,
        entry("CosFace", "m = 0.35", Box::new(CosFace::new(64.0, 0.35)?))?,
        entry("ArcFace", "m = 0.5", Box::new(ArcFace::new(64.0, 0.5)?))?,
        entry(
            "Generalized",
            "m₀ = 1, m₁ = 0.3, m₂ = 0.2",
            Box::new(Generalized::new(64.0, 1.0, 0.3, 0.2)?),
        )?,
    ])
}

/// Prints the angular width of each loss's band for several angles between the class weights.
fn print_bands(entries: &[Entry]) -> Result<()> {
    const APART: [f64; 5] = [30.0, 60.0, 90.0, 120.0, 180.0];
    say("Angular width of the band that satisfies neither class, for an angle Θ between\n\
         the weights (– if a boundary does not cross the arc: no sample on it satisfies\n\
         that class)\n")?;
    let row = |head: &str, cells: [String; 5]| {
        say(format!("{head:40}{}", cells.map(|cell| format!("{cell:>8}")).concat()))
    };
    row("Θ", APART.map(|degrees| format!("{degrees}°")))?;
    for Entry { name, parameters, boundary } in entries {
        let band = |degrees: f64| boundary.band(degrees.to_radians());
        let cells = APART.map(|degrees| band(degrees).map_or("–".into(), in_degrees));
        row(&format!("{name}, {parameters}"), cells)?;
    }
    say("")
}

/// An angle in degrees, rounded to a tenth.
fn in_degrees(angle: f64) -> String {
    let tenths = (10.0 * angle.to_degrees()).round();
    // Adding 0 turns -0 into 0.
    format!("{:.1}°", tenths / 10.0 + 0.0)
}
