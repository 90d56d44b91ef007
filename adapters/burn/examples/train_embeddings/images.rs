//! Images in folders by identity.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use image::imageops::FilterType;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use rayon::prelude::*;

use super::view::{CHANNELS, View};

const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

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
    pixels: Vec<u8>,
}

impl Images {
    /// Reads `directory/identity/*.png`, `*.jpg` and `*.jpeg`, identities and files in the order of
    /// their names, and resizes them to squares.
    pub fn read(directory: &Path, size: usize) -> Result<Self> {
        let mut folders = entries(directory)?;
        folders.retain(|path| path.is_dir());
        let mut files = Vec::new();
        for (identity, folder) in folders.iter().enumerate() {
            let mut images = entries(folder)?;
            images.retain(|path| is_image(path));
            ensure!(!images.is_empty(), "{} has no png or jpeg image", folder.display());
            files.extend(images.into_iter().map(|path| (path, identity)));
        }
        let samples: Result<_> = files
            .into_par_iter()
            .map(|(path, identity)| {
                let pixels = decode(&path, size)?;
                Ok(Sample { path, identity, pixels })
            })
            .collect();
        let identities = folders.iter().map(|folder| name(folder)).collect();
        Ok(Images { size, identities, samples: samples? })
    }

    /// The images to train on, and those of `held_out` identities that are drawn at random. Both
    /// number their identities from 0.
    pub fn split(self, held_out: usize, seed: u64) -> (Images, Images) {
        let mut order: Vec<usize> = (0..self.identities.len()).collect();
        order.shuffle(&mut Pcg64::seed_from_u64(seed));
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
        (part(train, seen), part(held_out, unseen))
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

fn decode(path: &Path, size: usize) -> Result<Vec<u8>> {
    let image = image::open(path).with_context(|| path.display().to_string())?;
    let size = u32::try_from(size)?;
    Ok(image.resize_exact(size, size, FilterType::Triangle).to_rgb8().into_raw())
}
