//! Draws DET and ROC curves of two made-up networks: `curves DIR` writes det.png and roc.png.

use std::error::Error;
use std::path::PathBuf;

use margin_softmax_evaluation::{Verification, plot};
use rand::{RngExt, SeedableRng};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or("target".into()));
    let (good, fair) = (scores(0.9)?.roc(), scores(0.6)?.roc());
    let curves = [("good", &good), ("fair", &fair)];
    std::fs::create_dir_all(&out)?;
    std::fs::write(out.join("det.png"), plot::det(&curves)?)?;
    std::fs::write(out.join("roc.png"), plot::roc(&curves)?)?;
    Ok(())
}

/// Nearly normal scores, those of genuine pairs higher by `gap`.
fn scores(gap: f64) -> Result<Verification, margin_softmax_evaluation::Error> {
    let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(1);
    let genuine: Vec<bool> = (0..60_000).map(|pair| pair % 6 == 0).collect();
    let sum = genuine.iter().map(|&genuine| {
        let noise: f64 = (0..12).map(|_| rng.random_range(-0.5..0.5)).sum();
        0.2 * noise + if genuine { gap } else { 0.0 }
    });
    Verification::from_scores(&sum.collect::<Vec<f64>>(), &genuine)
}
