//! IDX, the file format of MNIST: big-endian 32-bit numbers (a magic number, then one size for each
//! dimension), then the bytes. Files may be gzipped.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use ndarray::Array2;

use crate::digits::{CLASSES, Dataset, Samples};

/// The four files of an MNIST-format directory, plain or gzipped.
pub fn read_dataset(directory: &Path) -> Result<Dataset> {
    let set = |prefix: &str| {
        read_samples(
            &locate(directory, &format!("{prefix}-images-idx3-ubyte"))?,
            &locate(directory, &format!("{prefix}-labels-idx1-ubyte"))?,
        )
    };
    let (train, held_out) = (set("train")?, set("t10k")?);
    ensure!(
        train.images.ncols() == held_out.images.ncols(),
        "{}: the train images have {} pixels, the t10k images {}",
        directory.display(),
        train.images.ncols(),
        held_out.images.ncols(),
    );
    Ok(Dataset::centered(train, held_out))
}

/// `directory/name`, or `directory/name.gz` where only that exists.
fn locate(directory: &Path, name: &str) -> Result<PathBuf> {
    let plain = directory.join(name);
    let gzipped = directory.join(format!("{name}.gz"));
    match [plain, gzipped].into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None if directory.is_dir() => {
            bail!("{}: neither {name} nor {name}.gz is there", directory.display())
        }
        None => bail!("{}: no such directory", directory.display()),
    }
}

/// Images with their labels; every error message names the file.
fn read_samples(images: &Path, labels: &Path) -> Result<Samples> {
    let ([count, height, width], pixels) = read(images)?;
    let ([label_count], digits) = read(labels)?;
    ensure!(count > 0 && height * width > 0, "{}: holds no pixels", images.display());
    ensure!(
        count == label_count,
        "{} holds {label_count} labels, but {} holds {count} images",
        labels.display(),
        images.display(),
    );
    if let Some(index) = digits.iter().position(|&digit| usize::from(digit) >= CLASSES) {
        bail!(
            "{}: label {} of item {index} is not a digit from 0 to 9",
            labels.display(),
            digits[index],
        );
    }
    let pixels = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    Ok(Samples {
        images: Array2::from_shape_vec((count, height * width), pixels)?,
        labels: digits.into_iter().map(usize::from).collect(),
    })
}

/// The sizes and contents of a file of unsigned bytes with `DIMENSIONS` dimensions.
fn read<const DIMENSIONS: usize>(path: &Path) -> Result<([usize; DIMENSIONS], Vec<u8>)> {
    let bytes = decompressed(path).with_context(|| path.display().to_string())?;
    parse(&bytes).with_context(|| path.display().to_string())
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(fs::read(path)?);
    }
    let mut bytes = Vec::new();
    MultiGzDecoder::new(File::open(path)?).read_to_end(&mut bytes).context("broken gzip file")?;
    Ok(bytes)
}

fn parse<const DIMENSIONS: usize>(bytes: &[u8]) -> Result<([usize; DIMENSIONS], Vec<u8>)> {
    const UNSIGNED_BYTE: u32 = 0x08;
    let header = 4 * (1 + DIMENSIONS);
    ensure!(bytes.len() >= header, "{} bytes are too few for the header of {header}", bytes.len());
    let mut numbers = bytes[..header]
        .chunks_exact(4)
        .map(|number| u32::from_be_bytes([number[0], number[1], number[2], number[3]]));
    let magic = numbers.next().unwrap_or_default();
    let expected = UNSIGNED_BYTE << 8 | DIMENSIONS as u32;
    ensure!(magic == expected, "the magic number is {magic:#010x}, not {expected:#010x}");

    let mut sizes = [0; DIMENSIONS];
    for (size, number) in sizes.iter_mut().zip(numbers) {
        *size = number as usize;
    }
    // The product of the sizes in a corrupt header may overflow.
    let announced = sizes.iter().map(|&size| size as u128).product::<u128>();
    let found = bytes.len() - header;
    ensure!(
        announced == found as u128,
        "the header announces {announced} bytes of data, the file holds {found}",
    );
    Ok((sizes, bytes[header..].to_vec()))
}
