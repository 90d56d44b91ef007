//! The bundled digits as a folder of images.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use image::{GrayImage, Luma};
use ndarray::ArrayView1;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use crate::digits::{CLASSES, Dataset};

const SIDE: u32 = 8;

/// Writes the numbers of `places` digits, 0 to 9 or 00 to 99, as `directory/number/image.png`. Each
/// bundled digit is in one image at most, so that no part of an image is in another.
pub fn write(directory: &Path, places: u32, most: usize) -> Result<()> {
    let digits = Dataset::all()?;
    let mut unused = vec![Vec::new(); CLASSES];
    for (row, &digit) in digits.labels.iter().enumerate() {
        unused[digit].push(row);
    }
    // The data set is in the order of its writers.
    let mut random = Pcg64::seed_from_u64(0);
    unused.iter_mut().for_each(|rows| rows.shuffle(&mut random));

    let numbers = CLASSES.pow(places);
    let fewest = unused.iter().map(Vec::len).min().unwrap_or(0);
    let images = most.min(fewest * CLASSES / (numbers * places as usize));
    for number in 0..numbers {
        let name = format!("{number:0width$}", width = places as usize);
        let folder = directory.join(&name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        for image in 0..images {
            let rows = name.bytes().filter_map(|digit| unused[usize::from(digit - b'0')].pop());
            let parts: Vec<_> = rows.map(|row| digits.images.row(row)).collect();
            let file = folder.join(format!("{image:03}.png"));
            picture(&parts).save(&file).with_context(|| file.display().to_string())?;
        }
    }
    println!("{numbers} identities, {images} images of each, in {}", directory.display());
    Ok(())
}

/// The digits side by side, in the middle of a square.
fn picture(digits: &[ArrayView1<f32>]) -> GrayImage {
    let size = SIDE * digits.len() as u32;
    let top = (size - SIDE) / 2;
    GrayImage::from_fn(size, size, |x, y| {
        let inside = (top..top + SIDE).contains(&y);
        let digit = digits[(x / SIDE) as usize];
        let value = if inside { digit[((y - top) * SIDE + x % SIDE) as usize] } else { 0.0 };
        Luma([(value * 255.0).round() as u8])
    })
}
