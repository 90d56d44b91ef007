//! The tiles of the class weights, and the logits of each.

use std::ops::Range;

use burn::backend::DispatchDevice;
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData};
use margin_softmax::offload::{HardNegativeLogits, OffloadedStep};

use super::ids;
use crate::config::whole_classes;
use crate::memory::{Precision, number, with_dtype};

/// Numbers in one of the arrays of logits of a tile, unless the rows of a tile are set.
const TILE_NUMBERS: usize = 1 << 21;
/// The same on the CPU, whose caches hold so many.
const TILE_NUMBERS_ON_CPU: usize = 1 << 17;

/// The class weights of a step: rows of matrices one after the other, `sub_centers` in turn for
/// each class, with what is added to their logits.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub matrices: Vec<Tensor<2>>,
    /// (rows): bias, and corrections for sampling.
    pub shift: Option<Tensor<1>>,
    pub sub_centers: usize,
    /// Rows of a tile, where they are set.
    pub tile: Option<usize>,
}

/// A tile: some rows of one of the matrices.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub matrix: usize,
    pub rows: Range<usize>,
    /// The number of its first row over all matrices.
    pub first: usize,
}

/// What both sweeps read.
pub(super) struct Sweeps<'a> {
    pub rows: &'a Rows,
    pub tiles: Vec<Tile>,
    pub device: Device,
    pub dtype: DType,
    /// The embeddings times their scale (N, D).
    pub embeddings: Tensor<2>,
    /// The number of each sample's own class (N, 1), and the same in main memory; -1 without.
    pub own: Tensor<2, Int>,
    pub labels: Vec<i64>,
    /// 0, 1, … (1, classes of a tile).
    pub numbers: Tensor<2, Int>,
    pub hard: Option<Hard>,
    pub normalized: bool,
    pub smoothed: bool,
}

/// [`HardNegativeLogits`] on the device, (N, 1) each.
pub(super) struct Hard {
    pub threshold: Tensor<2>,
    pub constant: Tensor<2>,
    pub linear: f64,
    pub quadratic: Tensor<2>,
}

/// The rows of one tile, ready for products.
#[derive(Clone)]
pub(super) struct TileRows {
    /// (rows, D): as they are, or where their norms leave the squares of f32 divided by them.
    pub weights: Tensor<2>,
    /// What multiplies their products (1, rows); `None` where nothing does.
    pub factor: Option<Tensor<2>>,
    /// What their gradients are divided by at last (rows, 1); `None` where by nothing.
    pub divisor: Option<Tensor<2>>,
}

/// The norms of a tile, from the first sweep.
#[derive(Clone)]
#[allow(clippy::large_enum_variant)] // one per tile
pub(super) enum Norms {
    /// Class weights are not normalized.
    Unused,
    /// (1, rows): 1/norm.
    Plain(Tensor<2>),
    /// The norms leave the squares of f32.
    Extreme,
}

/// The logits of one tile.
pub(super) struct Logits {
    /// (N, classes), before any is up-weighted.
    pub plain: Tensor<2>,
    /// Which of its rows each class takes (N, classes, K) of 0 and 1; `None` where it has one.
    pub chosen: Option<Tensor<3>>,
}

impl Rows {
    fn tiles(&self, samples: usize, device: &Device) -> Vec<Tile> {
        let k = self.sub_centers;
        let on_cpu = matches!(device.as_dispatch(), DispatchDevice::Flex(_));
        let (numbers, least) =
            if on_cpu { (TILE_NUMBERS_ON_CPU, 512) } else { (TILE_NUMBERS, 2048) };
        let rows = self.tile.unwrap_or((numbers / samples.max(1)).max(least));
        let rows = whole_classes(rows.min(most_rows(device)), k);
        let mut first = 0;
        let mut tiles = Vec::new();
        for (matrix, weights) in self.matrices.iter().enumerate() {
            let [count, _] = weights.dims();
            for start in (0..count).step_by(rows) {
                let range = start..(start + rows).min(count);
                tiles.push(Tile { matrix, first: first + start, rows: range });
            }
            first += count;
        }
        tiles
    }
}

impl<'a> Sweeps<'a> {
    /// The sweeps of `step` over `rows`, where the samples' own classes have the numbers `labels`
    /// among the rows, -1 for none.
    pub fn new<F: Precision>(
        step: &OffloadedStep<'_, F>,
        rows: &'a Rows,
        labels: Vec<i64>,
        device: &Device,
    ) -> Self {
        let device = device.clone().without_autodiff();
        let tiles = rows.tiles(labels.len(), &device);
        let widest = tiles.iter().map(|tile| tile.rows.len()).max().unwrap_or(0);
        let column = |numbers: &[F]| column(numbers, &device);
        let hard = step.hard_negative_logits().map(|hard| {
            let HardNegativeLogits { threshold, constant, linear, quadratic, .. } = &hard;
            Hard {
                threshold: column(threshold),
                constant: column(constant),
                linear: number(*linear),
                quadratic: column(quadratic),
            }
        });
        let numbers: Vec<i64> = (0..(widest / rows.sub_centers) as i64).collect();
        let embeddings = step.scaled_embeddings();
        let shape = [embeddings.nrows(), embeddings.ncols()];
        let embeddings = TensorData::new(embeddings.into_raw_vec_and_offset().0, shape);
        Sweeps {
            rows,
            tiles,
            dtype: F::dtype(),
            embeddings: Tensor::from_data(embeddings, (&device, F::dtype())),
            own: ids(&labels, &device).unsqueeze_dim(1),
            numbers: ids(&numbers, &device).unsqueeze_dim(0),
            labels,
            hard,
            normalized: step.is_normalized(),
            smoothed: step.is_smoothed(),
            device,
        }
    }

    pub fn weights(&self, tile: &Tile) -> Tensor<2> {
        let weights = self.rows.matrices[tile.matrix].clone().slice([tile.rows.clone()]);
        with_dtype(weights, self.dtype)
    }

    /// The norms of the rows of a tile (rows, 1).
    pub fn plain_norms(&self, tile: &Tile) -> Tensor<2> {
        self.weights(tile).square().sum_dim(1).sqrt()
    }

    /// The rows of a tile divided by their norms, and the norms (rows, 1). The largest entry is
    /// divided out first: no square overflows.
    pub fn unit_rows(&self, tile: &Tile) -> (Tensor<2>, Tensor<2>) {
        let weights = self.weights(tile);
        let tiny = if self.dtype == DType::F64 { f64::MIN_POSITIVE } else { 1.2e-38 };
        let largest = weights.clone().max_abs_dim(1).clamp_min(tiny);
        let scaled = weights / largest.clone();
        let length = scaled.clone().square().sum_dim(1).sqrt();
        (scaled / length.clone(), length * largest)
    }

    pub fn tile_rows(&self, tile: &Tile, norms: &Norms) -> TileRows {
        let weights = || self.weights(tile);
        match norms {
            Norms::Unused => TileRows { weights: weights(), factor: None, divisor: None },
            Norms::Plain(inverse) => {
                TileRows { weights: weights(), factor: Some(inverse.clone()), divisor: None }
            }
            Norms::Extreme => {
                let (weights, norm) = self.unit_rows(tile);
                TileRows { weights, factor: None, divisor: Some(norm) }
            }
        }
    }

    /// What is added to the logits of a tile (1, rows).
    pub fn shift(&self, tile: &Tile) -> Option<Tensor<2>> {
        let range = tile.first..tile.first + tile.rows.len();
        self.rows.shift.as_ref().map(|shift| shift.clone().slice([range]).unsqueeze_dim(0))
    }

    pub fn logits(&self, tile: &Tile, rows: &TileRows) -> Logits {
        let mut plain = self.embeddings.clone().matmul(rows.weights.clone().transpose());
        if let Some(factor) = &rows.factor {
            plain = plain * factor.clone();
        }
        if let Some(shift) = self.shift(tile) {
            plain = plain + shift;
        }
        let k = self.rows.sub_centers;
        if k == 1 {
            return Logits { plain, chosen: None };
        }
        let [samples, rows] = plain.dims();
        let by_class = plain.reshape([samples, rows / k, k]);
        let (largest, at) = by_class.max_dim_with_indices(2);
        let rows_of_class = ids(&(0..k as i64).collect::<Vec<_>>(), &self.device);
        let rows_of_class = rows_of_class.cast(at.dtype()).reshape([1, 1, k]);
        let shape = [samples, rows / k, k];
        let chosen = at.expand(shape).equal(rows_of_class.expand(shape));
        let chosen = chosen.cast(FloatDType::from(self.dtype));
        Logits { plain: largest.squeeze_dim(2), chosen: Some(chosen) }
    }

    /// Where the logits of a tile are those of the samples' own classes (N, classes); `None` where
    /// none is.
    pub fn own_classes(&self, tile: &Tile) -> Option<Tensor<2, Bool>> {
        let k = self.rows.sub_centers;
        let (first, count) = ((tile.first / k) as i64, tile.rows.len() / k);
        let inside = |label: &i64| (first..first + count as i64).contains(label);
        if !self.labels.iter().any(inside) {
            return None;
        }
        let shape = [self.labels.len(), count];
        let numbers = self.numbers.clone().slice([0..1, 0..count]).expand(shape);
        Some(self.own.clone().sub_scalar(first).expand(shape).equal(numbers))
    }
}

impl Hard {
    pub fn logits(&self, z: Tensor<2>) -> Tensor<2> {
        let harder = z.clone() * self.quadratic.clone() + self.linear;
        let harder = harder * z.clone() + self.constant.clone();
        z.clone().mask_where(self.over(z), harder)
    }

    /// The derivatives of the logits by the plain ones.
    pub fn slopes(&self, z: Tensor<2>) -> Tensor<2> {
        let steeper = z.clone() * self.quadratic.clone() * 2.0 + self.linear;
        z.ones_like().mask_where(self.over(z), steeper)
    }

    pub fn over(&self, z: Tensor<2>) -> Tensor<2, Bool> {
        let shape = z.dims();
        z.greater(self.threshold.clone().expand(shape))
    }
}

/// The most rows of a tile whose indices the device's default integer and f32 hold.
fn most_rows(device: &Device) -> usize {
    let integer = DType::from(device.settings().int_dtype);
    1 << (8 * integer.size() - 1).min(24)
}

/// One number per sample (N, 1).
pub(super) fn column<F: Precision>(numbers: &[F], device: &Device) -> Tensor<2> {
    let data = TensorData::new(numbers.to_vec(), [numbers.len(), 1]);
    Tensor::from_data(data, (device, F::dtype()))
}
