//! Writes the pictures of the examples to files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result};
use kuva::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::render::render::Scene;

/// PNG pixels per SVG pixel.
const PNG_SCALE: f32 = 2.0;

/// Writes `stem.svg`, with an embedded font, and `stem.png`.
pub fn save(scene: &Scene, stem: &Path) -> Result<()> {
    let svg = SvgBackend::new().with_embedded_font(true).render_scene(scene);
    let png = PngBackend::new().with_scale(PNG_SCALE).render_scene(scene).map_err(Error::msg)?;
    write(&stem.with_extension("svg"), svg.as_bytes())?;
    write(&stem.with_extension("png"), &png)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
