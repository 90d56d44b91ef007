//! Images in folders by identity.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader};
use indicatif::{ParallelProgressIterator, ProgressBar};
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use rayon::prelude::*;

use crate::view::{CHANNELS, View};

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// Decoded images, all in memory: 3·size² bytes each. Where they do not fit, decode them in
/// [`batch`](Images::batch) instead.
pub struct Images {
    pub size: usize,
    /// The names of the identities, in the order of their numbers.
    pub identities: Vec<String>,
    pub samples: Vec<Sample>,
}

pub struct Sample {
    pub path: PathBuf,
    pub identity: usize,
    /// Red, green and blue of each pixel, row by row.
    pub pixels: Vec<u8>,
}

impl Images {
    /// Reads the images of `directory/identity/`, identities and files in the order of their names,
    /// and resizes them to squares. Hidden files and folders, such as `.git` and the `._x.png` that
    /// macOS writes, are skipped; folders without an image and other files are named.
    pub fn read(directory: &Path, size: usize) -> Result<Self> {
        let Listed { identities, files } = list(directory)?;
        let bar = ProgressBar::new(files.len() as u64).with_message("decoding");
        let decoded: Vec<Result<Sample>> = files
            .into_par_iter()
            .progress_with(bar)
            .map(|(path, identity)| {
                let pixels = decode(&path, size)?;
                Ok(Sample { path, identity, pixels })
            })
            .collect();
        let (samples, broken): (Vec<_>, Vec<_>) = decoded.into_iter().partition(Result::is_ok);
        let broken: Vec<String> =
            broken.into_iter().flat_map(Result::err).map(|error| format!("{error:#}")).collect();
        let count = broken.len();
        ensure!(count == 0, "files that cannot be read: {count}\n{}", broken.join("\n"));
        Ok(Images { size, identities, samples: samples.into_iter().flatten().collect() })
    }

    /// The images to train on, and those of `held_out` identities that are drawn at random among
    /// those with two images and more: verification compares them. Both number their identities
    /// from 0.
    ///
    /// # Errors
    /// If too few identities are left for either.
    pub fn split(self, held_out: usize, seed: u64) -> Result<(Images, Images)> {
        let mut images = vec![0; self.identities.len()];
        self.samples.iter().for_each(|sample| images[sample.identity] += 1);
        let mut order: Vec<usize> = (0..self.identities.len()).collect();
        order.shuffle(&mut Pcg64::seed_from_u64(seed));
        order.sort_by_key(|&identity| images[identity] < 2); // stable: the others stay shuffled
        let (all, paired) = (images.len(), images.iter().filter(|&&count| count > 1).count());
        ensure!(
            paired >= held_out && all >= held_out + 2,
            "identities: {all}, {paired} of them with two images and more; to hold out {held_out} \
             takes as many with two images, and to train two others",
        );
        if paired < all {
            println!("one image:  {} identities, which are never held out", all - paired);
        }
        let (held_out, train) = order.split_at_mut(held_out);
        held_out.sort_unstable();
        train.sort_unstable();
        let part = |numbers: &[usize], samples: Vec<Sample>| {
            let identities =
                numbers.iter().map(|&number| self.identities[number].clone()).collect();
            let renumbered = samples.into_iter().map(|sample| {
                let identity = numbers.partition_point(|&number| number < sample.identity);
                Sample { identity, ..sample }
            });
            Images { size: self.size, identities, samples: renumbered.collect() }
        };
        let (unseen, seen) = self
            .samples
            .into_iter()
            .partition(|sample| held_out.binary_search(&sample.identity).is_ok());
        Ok((part(train, seen), part(held_out, unseen)))
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The number of each sample's identity.
    pub fn labels(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.identity).collect()
    }

    /// A checksum of names and pixels, by which a checkpoint knows its images.
    pub fn checksum(&self) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        for Sample { path, identity, pixels } in &self.samples {
            checksum.update(self.identities[*identity].as_bytes());
            checksum.update(name(path).as_bytes());
            checksum.update(pixels);
        }
        checksum.finalize()
    }

    /// These samples as (N, 3, size, size) with values from −1 to 1, each seen from its view, and
    /// their identities.
    pub fn batch(
        &self,
        rows: &[usize],
        mut view: impl FnMut() -> View,
        device: &Device,
    ) -> (Tensor<4>, Tensor<1, Int>) {
        let mut values = Vec::with_capacity(rows.len() * CHANNELS * self.size * self.size);
        for &row in rows {
            view().append(&self.samples[row].pixels, self.size, &mut values);
        }
        let labels: Vec<i64> = rows.iter().map(|&row| self.samples[row].identity as i64).collect();
        let images = TensorData::new(values, [rows.len(), CHANNELS, self.size, self.size]);
        let labels = TensorData::new(labels, [rows.len()]);
        (Tensor::from_data(images, device), Tensor::from_data(labels, device))
    }
}

impl fmt::Display for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities, {} images", self.identities.len(), self.len())
    }
}

/// What a folder of images holds.
struct Listed {
    /// The names of the identities.
    identities: Vec<String>,
    /// Each image with the number of its identity.
    files: Vec<(PathBuf, usize)>,
}

/// Lists a folder, and says what it skips.
fn list(directory: &Path) -> Result<Listed> {
    let (mut identities, mut files) = (Vec::new(), Vec::new());
    let (mut empty, mut others) = (Vec::new(), Vec::new());
    for folder in visible(directory)? {
        if !folder.is_dir() {
            others.push(folder);
            continue;
        }
        let (images, rest): (Vec<_>, Vec<_>) =
            visible(&folder)?.into_iter().partition(|path| path.is_file() && is_image(path));
        others.extend(rest);
        if images.is_empty() {
            empty.push(folder);
            continue;
        }
        files.extend(images.into_iter().map(|path| (path, identities.len())));
        identities.push(name(&folder));
    }
    report_skipped("folders without an image", &empty);
    report_skipped("files and folders that are no png, jpeg, webp or bmp image", &others);
    Ok(Listed { identities, files })
}

fn report_skipped(what: &str, paths: &[PathBuf]) {
    const NAMED: usize = 5;
    if paths.is_empty() {
        return;
    }
    let named: Vec<_> = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let more = if paths.len() > NAMED { ", ..." } else { "" };
    println!("skipped:    {} {what}: {}{more}", paths.len(), named.join(", "));
}

/// What is in a folder and not hidden, in the order of the names.
fn visible(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = entries(directory)?;
    paths.retain(|path| !name(path).starts_with('.'));
    Ok(paths)
}

/// What is in a folder, in the order of the names.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    let paths: std::io::Result<Vec<PathBuf>> = list();
    let mut paths = paths.with_context(|| directory.display().to_string())?;
    paths.sort_unstable();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The pixels of an image as it is meant to be seen: what kind of file it is says its content, not
/// its name, and a camera's note of how it was held is followed.
fn decode(path: &Path, size: usize) -> Result<Vec<u8>> {
    let upright = || {
        let mut decoder = ImageReader::open(path)?.with_guessed_format()?.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        anyhow::Ok(image)
    };
    let image = upright().with_context(|| path.display().to_string())?;
    let size = u32::try_from(size)?;
    Ok(image.resize_exact(size, size, FilterType::Triangle).to_rgb8().into_raw())
}
