//! The tiles of the class weights, and the logits of each.

use std::ops::Range;

use margin_softmax::offload::{HardNegativeLogits, OffloadedStep};
use ndarray::{Array1, Array2, Axis};
use num_traits::Float;

use crate::binary::Logistic;
use crate::operations::{Binary, Map, Operations, Reduce};
use crate::options::{narrow, number};

/// Logits in a tile, and its fewest rows, unless the rows of a tile are set.
const TILE: (usize, usize) = (1 << 21, 2048);
/// The same on a CPU, whose caches hold so many.
const TILE_ON_CPU: (usize, usize) = (1 << 17, 512);

/// The class weights of a step: rows of matrices one after the other, `sub_centers` in turn for
/// each class, with what is added to their logits.
#[derive(Debug, Clone)]
pub(crate) struct Rows<M> {
    pub matrices: Vec<M>,
    /// (1, rows): bias, and corrections for sampling.
    pub shift: Option<M>,
    pub sub_centers: usize,
    /// Rows of a tile, where they are set.
    pub tile: Option<usize>,
}

/// A tile: some rows of one of the matrices.
#[derive(Debug, Clone)]
pub(crate) struct Tile {
    pub matrix: usize,
    pub rows: Range<usize>,
    /// The number of its first row over all matrices.
    pub first: usize,
}

/// What both sweeps read.
pub(crate) struct Sweeps<'a, D: Operations> {
    pub device: &'a D,
    pub rows: &'a Rows<D::Matrix>,
    pub tiles: Vec<Tile>,
    /// The embeddings times their scale (N, D).
    pub embeddings: D::Matrix,
    /// The place of each sample's own class (N lists); empty without labels.
    pub own: Vec<Vec<usize>>,
    /// How many negatives the sums of the first sweep leave out.
    pub top: usize,
    pub hard: Option<Hard<D::Matrix>>,
    pub logistic: Option<Logistic<D>>,
    /// The class prior (1, classes).
    pub log_prior: Option<D::Matrix>,
    pub normalized: bool,
    pub smoothed: bool,
}

/// [`HardNegativeLogits`] on the device, (N, 1) each.
pub(crate) struct Hard<M> {
    threshold: M,
    constant: M,
    linear: f64,
    quadratic: M,
}

/// The rows of one tile, ready for products.
pub(crate) struct TileRows<M> {
    /// (rows, D): as they are, or where their norms leave the squares of f32 divided by them.
    pub weights: M,
    /// What multiplies their products (1, rows); `None` where nothing does.
    pub factor: Option<M>,
    /// What their gradients are divided by at last (rows, 1); `None` where by nothing.
    pub divisor: Option<M>,
}

/// The norms of a tile, from the first sweep.
#[derive(Clone)]
pub(crate) enum Norms<M> {
    /// Class weights are not normalized.
    Unused,
    /// (1, rows): 1/norm.
    Inverse(M),
    /// The norms leave the squares of f32.
    Extreme,
}

/// The logits of one tile.
pub(crate) struct Logits<M> {
    /// (N, classes), before any are up-weighted.
    pub plain: M,
    /// Which of its rows each class takes (N, rows) of 0 and 1; `None` where it has one.
    pub chosen: Option<M>,
}

/// Numbers of one column.
pub(crate) fn column<D: Operations>(
    device: &D,
    numbers: &[D::Float],
) -> Result<D::Matrix, D::Error> {
    let numbers = Array2::from_shape_fn((numbers.len(), 1), |(i, _)| numbers[i]);
    device.upload(numbers)
}

impl<'a, D: Operations> Sweeps<'a, D> {
    /// The sweeps of `step` over `rows`, among which the samples' own classes are at `places`.
    pub fn new(
        device: &'a D,
        step: &OffloadedStep<'_, D::Float>,
        rows: &'a Rows<D::Matrix>,
        places: &[usize],
    ) -> Result<Self, D::Error> {
        let embeddings = step.scaled_embeddings();
        let column = |numbers: &[D::Float]| column(device, numbers);
        let hard = step.hard_negative_logits().map(|hard| {
            let HardNegativeLogits { threshold, constant, linear, quadratic, .. } = &hard;
            let (threshold, constant) = (column(threshold)?, column(constant)?);
            let (linear, quadratic) = (number(*linear), column(quadratic)?);
            Ok(Hard { threshold, constant, linear, quadratic })
        });
        let samples = embeddings.nrows();
        let logistic = step.binary_logits();
        let logistic = logistic.map(|logits| Logistic::new(device, logits, samples));
        let log_prior = step.log_prior().map(Array1::from);
        let log_prior = log_prior.map(|prior| device.upload(prior.insert_axis(Axis(0))));
        Ok(Sweeps {
            device,
            rows,
            tiles: tiles(device, rows, samples),
            embeddings: device.upload(embeddings)?,
            own: places.iter().map(|place| vec![*place]).collect(),
            top: step.top_negatives(),
            hard: hard.transpose()?,
            logistic: logistic.transpose()?,
            log_prior: log_prior.transpose()?,
            normalized: step.is_normalized(),
            smoothed: step.is_smoothed(),
        })
    }

    /// The places of the classes of a tile.
    fn classes(&self, tile: &Tile) -> Range<usize> {
        let k = self.rows.sub_centers;
        tile.first / k..(tile.first + tile.rows.len()) / k
    }

    fn weights(&self, tile: &Tile) -> Result<D::Matrix, D::Error> {
        self.device.rows(&self.rows.matrices[tile.matrix], tile.rows.clone())
    }

    /// The lengths of rows (rows, 1).
    fn lengths(&self, rows: D::Matrix) -> Result<D::Matrix, D::Error> {
        let d = self.device;
        d.map(d.reduce(&d.map(rows, Map::Square)?, Reduce::Sum, 1)?, Map::Root)
    }

    /// The norms of the rows of a tile (rows, 1).
    pub fn norms(&self, tile: &Tile, extreme: bool) -> Result<D::Matrix, D::Error> {
        if extreme { Ok(self.unit_rows(tile)?.1) } else { self.lengths(self.weights(tile)?) }
    }

    /// The rows of a tile divided by their norms, and the norms (rows, 1). The largest entry is
    /// divided out first: no square overflows.
    fn unit_rows(&self, tile: &Tile) -> Result<(D::Matrix, D::Matrix), D::Error> {
        let (d, weights) = (self.device, self.weights(tile)?);
        let largest = d.reduce(&d.map(weights.clone(), Map::Abs)?, Reduce::Largest, 1)?;
        let largest = d.map(largest, Map::AtLeast(number(D::Float::min_positive_value())))?;
        let scaled = d.combine(weights, Binary::Divide, &largest)?;
        let length = self.lengths(scaled.clone())?;
        let unit = d.combine(scaled, Binary::Divide, &length)?;
        Ok((unit, d.combine(length, Binary::Multiply, &largest)?))
    }

    pub fn tile_rows(
        &self,
        tile: &Tile,
        norms: &Norms<D::Matrix>,
    ) -> Result<TileRows<D::Matrix>, D::Error> {
        if let Norms::Extreme = norms {
            let (weights, norm) = self.unit_rows(tile)?;
            return Ok(TileRows { weights, factor: None, divisor: Some(norm) });
        }
        let factor = if let Norms::Inverse(inverse) = norms { Some(inverse.clone()) } else { None };
        Ok(TileRows { weights: self.weights(tile)?, factor, divisor: None })
    }

    /// What is added to the logits of a tile (1, rows).
    pub fn shift(&self, tile: &Tile) -> Result<Option<D::Matrix>, D::Error> {
        let range = tile.first..tile.first + tile.rows.len();
        self.rows.shift.as_ref().map(|shift| self.device.columns(shift, range)).transpose()
    }

    pub fn logits(
        &self,
        tile: &Tile,
        rows: &TileRows<D::Matrix>,
    ) -> Result<Logits<D::Matrix>, D::Error> {
        let d = self.device;
        let mut plain = d.product(&self.embeddings, &d.transposed(&rows.weights)?)?;
        if let Some(factor) = &rows.factor {
            plain = d.combine(plain, Binary::Multiply, factor)?;
        }
        if let Some(shift) = self.shift(tile)? {
            plain = d.combine(plain, Binary::Add, &shift)?;
        }
        if self.rows.sub_centers == 1 {
            return Ok(Logits { plain, chosen: None });
        }
        let (plain, chosen) = d.largest_of(plain, self.rows.sub_centers)?;
        Ok(Logits { plain, chosen: Some(chosen) })
    }

    /// Where the logits of a tile are those of the classes at these places (N lists), in as few
    /// masks (N, classes) as there may be.
    pub fn masks(&self, tile: &Tile, places: &[Vec<usize>]) -> Result<Vec<D::Mask>, D::Error> {
        let classes = self.classes(tile);
        let inside = |places: &Vec<usize>| -> Vec<usize> {
            let places = places.iter().filter(|place| classes.contains(place));
            places.map(|place| place - classes.start).collect()
        };
        let inside: Vec<Vec<usize>> = places.iter().map(inside).collect();
        let most = inside.iter().map(Vec::len).max().unwrap_or(0);
        let mask = |at: usize| {
            let number = |places: &Vec<usize>| places.get(at).map_or(-1.0, |place| *place as f64);
            let numbers: Vec<_> = inside.iter().map(|places| narrow(number(places))).collect();
            self.device.at(&column(self.device, &numbers)?, classes.len())
        };
        (0..most).map(mask).collect()
    }

    /// The logits of classes with a number where the masks say so.
    pub fn filled(
        &self,
        z: D::Matrix,
        masks: &[D::Mask],
        number: f64,
    ) -> Result<D::Matrix, D::Error> {
        masks.iter().try_fold(z, |z, mask| self.device.fill(z, mask, number))
    }

    /// What is added to the logits of classes (1, classes) whose negatives are up-weighted: without a
    /// bias it is the same for all rows of a class.
    fn class_shift(&self, tile: &Tile) -> Result<Option<D::Matrix>, D::Error> {
        let k = self.rows.sub_centers;
        match self.shift(tile)? {
            Some(shift) if k > 1 => Ok(Some(self.device.largest_of(shift, k)?.0)),
            shift => Ok(shift),
        }
    }

    /// Logits of a tile without what is added to them: hard negatives are up-weighted by these.
    pub fn unshifted(&self, tile: &Tile, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        match self.class_shift(tile)? {
            Some(shift) => self.device.combine(z, Binary::Subtract, &shift),
            None => Ok(z),
        }
    }

    /// The logits, hard negatives up-weighted.
    pub fn up_weighted(&self, tile: &Tile, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        let Some(hard) = &self.hard else { return Ok(z) };
        let (d, plain) = (self.device, self.unshifted(tile, z.clone())?);
        let slope = d.combine(plain.clone(), Binary::Multiply, &hard.quadratic)?;
        let slope = d.map(slope, Map::Affine(1.0, hard.linear))?;
        let above = d.above(&plain, &hard.threshold)?;
        let harder = d.combine(slope, Binary::Multiply, &plain)?;
        let mut harder = d.combine(harder, Binary::Add, &hard.constant)?;
        if let Some(shift) = self.class_shift(tile)? {
            harder = d.combine(harder, Binary::Add, &shift)?;
        }
        d.replace(z, &above, &harder)
    }

    /// The logits of a tile, and the class prior.
    pub fn with_prior(&self, tile: &Tile, z: D::Matrix) -> Result<D::Matrix, D::Error> {
        let Some(prior) = &self.log_prior else { return Ok(z) };
        let prior = self.device.columns(prior, self.classes(tile))?;
        self.device.combine(z, Binary::Add, &prior)
    }

    /// The derivatives of the logits of `hard` negatives by the plain ones, which are `unshifted`.
    pub fn slopes(&self, hard: &Hard<D::Matrix>, z: &D::Matrix) -> Result<D::Matrix, D::Error> {
        let d = self.device;
        let steeper = d.combine(z.clone(), Binary::Multiply, &hard.quadratic)?;
        let steeper = d.map(steeper, Map::Affine(2.0, hard.linear))?;
        let above = d.above(z, &hard.threshold)?;
        d.replace(d.map(z.clone(), Map::Affine(0.0, 1.0))?, &above, &steeper)
    }
}

fn tiles<D: Operations>(device: &D, rows: &Rows<D::Matrix>, samples: usize) -> Vec<Tile> {
    let (logits, least) = if device.is_cpu() { TILE_ON_CPU } else { TILE };
    let most = rows.tile.unwrap_or((logits / samples.max(1)).max(least));
    let most = whole_classes(most.min(device.most_columns()), rows.sub_centers);
    let (mut first, mut tiles) = (0, Vec::new());
    for (matrix, weights) in rows.matrices.iter().enumerate() {
        let [count, _] = device.shape(weights);
        for start in (0..count).step_by(most) {
            let rows = start..(start + most).min(count);
            tiles.push(Tile { matrix, first: first + start, rows });
        }
        first += count;
    }
    tiles
}

/// As many whole classes of `k` rows as fit into `rows`, at least one.
pub(crate) fn whole_classes(rows: usize, k: usize) -> usize {
    (rows / k).max(1) * k
}
