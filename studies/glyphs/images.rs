//! Images of characters, and how a network gets to see them.

use ndarray::{Array1, Array2, Axis};
use rand::RngExt;
use rand_pcg::Pcg64;

/// The side of an image, in pixels.
pub const SIDE: usize = 24;
pub const PIXELS: usize = SIDE * SIDE;

/// The most that an image is shifted in each direction.
const SHIFT: usize = 1;
/// The side of an image with what a shift moves in.
pub const STORED: usize = SIDE + 2 * (SHIFT + 1);

/// Images of characters, each larger than what a network sees, so that it can be shifted.
#[derive(Default)]
pub struct Glyphs {
    pixels: Vec<u8>,
    labels: Vec<usize>,
}

/// How images are changed on their way to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    Clean,
    /// A half of the images becomes coarse, pale and noisy, some of them beyond recognition.
    Mixed,
}

impl Glyphs {
    pub fn push(&mut self, image: &[u8; STORED * STORED], label: usize) {
        self.pixels.extend_from_slice(image);
        self.labels.push(label);
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    pub fn select_labels(&self, rows: &[usize]) -> Vec<usize> {
        rows.iter().map(|&row| self.labels[row]).collect()
    }

    /// The mean of every pixel, unshifted.
    pub fn mean(&self) -> Array1<f32> {
        let mut sum = Array1::zeros(PIXELS);
        for row in 0..self.len() {
            for (sum, pixel) in sum.iter_mut().zip(self.window(row, [SHIFT + 1; 2])) {
                *sum += pixel;
            }
        }
        sum / self.len() as f32
    }

    /// Images as rows of pixels, each shifted at random, less `mean`.
    pub fn batch(
        &self,
        rows: &[usize],
        quality: Quality,
        mean: &Array1<f32>,
        rng: &mut Pcg64,
    ) -> Array2<f32> {
        let mut images = Array2::zeros((rows.len(), PIXELS));
        for (mut image, &row) in images.axis_iter_mut(Axis(0)).zip(rows) {
            let shift = [0; 2].map(|_| rng.random_range(1..=2 * SHIFT + 1));
            image.iter_mut().zip(self.window(row, shift)).for_each(|(to, from)| *to = from);
            if quality == Quality::Mixed && rng.random_bool(0.5) {
                degrade(image.as_slice_mut().expect("a row is contiguous"), rng);
            }
            image -= mean;
        }
        images
    }

    /// The pixels that are seen of an image from a corner on, from 0 to 1.
    fn window(&self, row: usize, [left, top]: [usize; 2]) -> impl Iterator<Item = f32> {
        let image = &self.pixels[row * STORED * STORED..][..STORED * STORED];
        let lines = image.chunks_exact(STORED).skip(top).take(SIDE);
        lines.flat_map(move |line| &line[left..left + SIDE]).map(|&pixel| f32::from(pixel) / 255.0)
    }
}

/// Squares of two to six pixels take their mean, the contrast falls, and noise is added.
fn degrade(image: &mut [f32], rng: &mut Pcg64) {
    let square = [2, 3, 4, 6][rng.random_range(0..4)];
    let contrast = rng.random_range(0.4..1.0_f32);
    for (top, left) in (0..SIDE)
        .step_by(square)
        .flat_map(|top| (0..SIDE).step_by(square).map(move |left| (top, left)))
    {
        let places =
            (0..square * square).map(|place| (top + place / square) * SIDE + left + place % square);
        let mean = places.clone().map(|place| image[place]).sum::<f32>() / (square * square) as f32;
        places.for_each(|place| image[place] = contrast * mean);
    }
    image.iter_mut().for_each(|pixel| *pixel += rng.random_range(-0.15..0.15_f32));
}
