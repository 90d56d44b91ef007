//! Writes the pictures of the examples to files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result};
use kuva::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::render::render::Scene;

/// Colors that color-blind readers tell apart (Okabe and Ito): black, blue, vermilion, green, pink, sky
/// blue, orange.
pub const COLORS: [&str; 7] =
    ["#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];

/// PNG pixels per SVG pixel.
const PNG_SCALE: f32 = 2.0;

/// Writes `stem.svg` and `stem.png`.
pub fn save(scene: &Scene, stem: &Path) -> Result<()> {
    let svg = SvgBackend::new().render_scene(scene);
    let png = PngBackend::new().with_scale(PNG_SCALE).render_scene(scene).map_err(Error::msg)?;
    write(&stem.with_extension("svg"), shortened(&svg).as_bytes())?;
    write(&stem.with_extension("png"), &png)
}

/// The picture with at most two decimals in every attribute: a third of the size.
fn shortened(svg: &str) -> String {
    let (mut in_tag, mut decimals) = (false, None);
    svg.chars()
        .filter(|&character| {
            in_tag = character == '<' || in_tag && character != '>';
            decimals = match decimals {
                _ if in_tag && character == '.' => Some(0),
                Some(count) if character.is_ascii_digit() => Some(count + 1),
                _ => None,
            };
            decimals.is_none_or(|count| count <= 2)
        })
        .collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
