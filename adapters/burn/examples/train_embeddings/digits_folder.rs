//! The bundled digits as a folder of images.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image::{GrayImage, Luma};

use super::digits::{CLASSES, Dataset};

const SIDE: u32 = 8;

/// Writes `directory/digit/number.png`, at most `images` of each digit.
pub fn write(directory: &Path, images: usize) -> Result<()> {
    let digits = Dataset::all()?;
    let mut written = [0; CLASSES];
    for (pixels, &digit) in digits.images.rows().into_iter().zip(&digits.labels) {
        if written[digit] == images {
            continue;
        }
        let folder = directory.join(digit.to_string());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(format!("{:03}.png", written[digit]));
        let picture = GrayImage::from_fn(SIDE, SIDE, |x, y| {
            Luma([(pixels[(y * SIDE + x) as usize] * 255.0).round() as u8])
        });
        picture.save(&file).with_context(|| file.display().to_string())?;
        written[digit] += 1;
    }
    let total: usize = written.iter().sum();
    println!("{total} images of {CLASSES} digits in {}", directory.display());
    Ok(())
}
