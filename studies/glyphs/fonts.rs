//! The fonts of `fonts.csv`: which characters they share, and pictures of these.

use std::fs;
use std::path::Path;

use ab_glyph::{Font, FontVec, Glyph, OutlinedGlyph, PxScale, point};
use anyhow::{Context, Result, ensure};

use crate::images::{Glyphs, STORED};

/// The size of a font in pixels: most characters are a little smaller than this.
const SIZE: f32 = 24.0;

/// The ideographs of Unicode's first block of them.
const CHARACTERS: std::ops::RangeInclusive<char> = '\u{4E00}'..='\u{9FFF}';

/// A line of `fonts.csv`.
pub struct Design {
    pub name: &'static str,
    pub license: &'static str,
    /// Whether the network is trained on this font or tested.
    pub trained: bool,
    file: &'static str,
    /// The place of the font in a collection.
    index: u32,
}

pub fn designs() -> Result<Vec<Design>> {
    let lines = include_str!("fonts.csv").lines().skip(1);
    lines.map(|line| parse(line).with_context(|| format!("fonts.csv: {line:?}"))).collect()
}

fn parse(line: &'static str) -> Result<Design> {
    let columns: Vec<_> = line.split(',').collect();
    let &[usage, name, license, _path, _hash, file, index] = &columns[..] else {
        anyhow::bail!("{} columns, not 7", columns.len());
    };
    ensure!(["train", "test"].contains(&usage), "{usage:?} is neither train nor test");
    Ok(Design { name, license, trained: usage == "train", file, index: index.parse()? })
}

/// A font and its design.
pub struct Typeface {
    pub design: Design,
    font: FontVec,
}

/// Every font of the list, from the directory that `fetch` filled.
pub fn load(directory: &Path) -> Result<Vec<Typeface>> {
    let load = |design: Design| {
        let path = directory.join(design.file);
        let bytes = fs::read(&path)
            .with_context(|| format!("{}: run studies/glyphs/fetch first", path.display()))?;
        let font = FontVec::try_from_vec_and_index(bytes, design.index)
            .with_context(|| path.display().to_string())?;
        Ok(Typeface { design, font })
    };
    designs()?.into_iter().map(load).collect()
}

/// The characters that every font has, in the order of Unicode.
pub fn shared_characters(typefaces: &[Typeface]) -> Vec<char> {
    CHARACTERS.filter(|&character| typefaces.iter().all(|face| face.has(character))).collect()
}

/// The characters in the fonts; the label of an image is the place of its character.
pub fn render<'a>(
    typefaces: impl Iterator<Item = &'a Typeface>,
    characters: &[char],
) -> Result<Glyphs> {
    let mut glyphs = Glyphs::default();
    for typeface in typefaces {
        for (label, &character) in characters.iter().enumerate() {
            let image = typeface.draw(character);
            let image = image.with_context(|| format!("{character} in {}", typeface.design.name));
            glyphs.push(&image?, label);
        }
    }
    Ok(glyphs)
}

impl Typeface {
    /// The number of ideographs.
    pub fn characters(&self) -> usize {
        CHARACTERS.filter(|&character| self.has(character)).count()
    }

    /// Whether the font has an outline for the character, not the sign for those it lacks.
    fn has(&self, character: char) -> bool {
        let id = self.font.glyph_id(character);
        id.0 != 0 && self.font.outline(id).is_some_and(|outline| !outline.curves.is_empty())
    }

    /// The character in the middle of a square of `STORED` pixels, ink 255; what does not fit in
    /// is cut off.
    fn draw(&self, character: char) -> Option<[u8; STORED * STORED]> {
        let mut image = [0; STORED * STORED];
        let glyph = self.outlined(character)?;
        let bounds = glyph.px_bounds();
        let margin = |extent: f32| (STORED as i64 - extent as i64) / 2;
        let (left, top) = (margin(bounds.width()), margin(bounds.height()));
        glyph.draw(|x, y, ink| {
            let (x, y) = (left + i64::from(x), top + i64::from(y));
            let inside = 0..STORED as i64;
            if inside.contains(&x) && inside.contains(&y) {
                image[y as usize * STORED + x as usize] =
                    (ink.clamp(0.0, 1.0) * 255.0).round() as u8;
            }
        });
        Some(image)
    }

    fn outlined(&self, character: char) -> Option<OutlinedGlyph> {
        // ab_glyph's scale is the height of a line; the em square is what fonts agree on.
        let per_em = self.font.units_per_em()?;
        let height = SIZE * self.font.height_unscaled() / per_em;
        let glyph = Glyph {
            id: self.font.glyph_id(character),
            scale: PxScale::from(height),
            position: point(0.0, 0.0),
        };
        self.font.outline_glyph(glyph)
    }
}
