//! The two sweeps over the classes, tile by tile, by burn's own tensor operations.

use std::ops::Range;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData, Transaction};
use margin_softmax::{Error, HardLogits, LogSumExp, OffloadedStep, SweepStats};

use super::{device_error, ids, read};
use crate::config::whole_classes;
use crate::memory::{Precision, number, with_dtype};

/// Numbers in one of the arrays of logits of a tile, unless the rows of a tile are set.
const TILE_NUMBERS: usize = 1 << 21;

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
struct Tile {
    matrix: usize,
    rows: Range<usize>,
    /// The number of its first row over all matrices.
    first: usize,
}

/// What both sweeps read.
pub(super) struct Sweeps<'a> {
    rows: &'a Rows,
    tiles: Vec<Tile>,
    device: Device,
    dtype: DType,
    /// The embeddings times their scale (N, D).
    embeddings: Tensor<2>,
    /// The number of each sample's own class (N, 1), and the same in main memory; -1 without.
    own: Tensor<2, Int>,
    labels: Vec<i64>,
    /// 0, 1, … (1, classes of a tile).
    numbers: Tensor<2, Int>,
    hard: Option<Hard>,
    normalized: bool,
    smoothed: bool,
}

/// [`HardLogits`] on the device, (N, 1) each.
struct Hard {
    threshold: Tensor<2>,
    constant: Tensor<2>,
    linear: f64,
    quadratic: Tensor<2>,
}

/// The logits of one tile.
struct Logits {
    /// The rows of the class weights that the logits are products with (rows, D).
    weights: Tensor<2>,
    /// (N, classes), before any counts harder.
    plain: Tensor<2>,
    /// Which of its rows each class takes (N, classes, K) of 0 and 1; `None` where it has one.
    chosen: Option<Tensor<3>>,
}

/// What the first sweep finds.
pub(super) struct FirstSweep {
    pub stats: Vec<SweepStats>,
    /// The smallest and the largest norm of a class weight.
    pub norms: (f64, f64),
    /// Whether every norm is finite.
    pub finite: bool,
}

/// What the second sweep finds.
pub(super) struct SecondSweep {
    /// Σ_j G_ij·v_j (N, D).
    pub embeddings: Option<Tensor<2>>,
    /// What negatives that count harder add to the derivatives by the norms (N, 1).
    pub radial: Option<Tensor<2>>,
    /// The gradients of the matrices, and of the shift (rows).
    pub weights: Option<(Vec<Tensor<2>>, Option<Tensor<1>>)>,
}

impl Rows {
    fn tiles(&self, samples: usize) -> Vec<Tile> {
        let k = self.sub_centers;
        let rows = self.tile.unwrap_or((TILE_NUMBERS / samples.max(1)).max(2048));
        let rows = whole_classes(rows, k);
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
        let tiles = rows.tiles(labels.len());
        let widest = tiles.iter().map(|tile| tile.rows.len()).max().unwrap_or(0);
        let device = device.clone().without_autodiff();
        let column = |numbers: &[F]| column(numbers, &device);
        let hard = step.hard_logits().map(|hard| {
            let HardLogits { threshold, constant, linear, quadratic, .. } = &hard;
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

    /// Finds the log-sum-exp of the negatives, the nearest class, and the range of the norms.
    pub fn first(&self) -> Result<FirstSweep, Error> {
        let (mut stats, mut norms) = (Vec::new(), Vec::new());
        for tile in &self.tiles {
            let (unit, norm) = self.unit_rows(tile);
            let total = norm.clone().sum_dim(0);
            norms.push(Tensor::cat(vec![norm.clone().min_dim(0), norm.max_dim(0), total], 1));
            stats.push(self.tile_stats(tile, unit));
        }
        let (stats, norms) = (Tensor::cat(stats, 1), Tensor::cat(norms, 0));
        let both = Transaction::default().register(stats).register(norms);
        match &read(&self.device, both)?[..] {
            [stats, norms] => Ok(self.merge(stats, norms)),
            _ => Err(device_error(&self.device, "it did not return what was read")),
        }
    }

    /// Of one tile for each sample: the largest logit and its class, the largest of the negatives,
    /// the sum of their exponentials, and that of their logits where labels are smoothed (N, 4 or 5).
    fn tile_stats(&self, tile: &Tile, unit: Tensor<2>) -> Tensor<2> {
        let Logits { plain, .. } = self.logits(tile, unit);
        let own = self.own_classes(tile);
        let (best, at) = plain.clone().max_dim_with_indices(1);
        let at = with_dtype(at.float(), self.dtype);
        let untouched = own.is_none() && self.hard.is_none();
        let z = match &self.hard {
            Some(hard) => hard.logits(plain),
            None => plain,
        };
        let lowest = if self.dtype == DType::F64 { f64::MIN } else { f64::from(f32::MIN) };
        let negatives = match &own {
            Some(own) => z.clone().mask_fill(own.clone(), lowest),
            None => z.clone(),
        };
        let max = if untouched { best.clone() } else { negatives.clone().max_dim(1) };
        let sum = (negatives - max.clone()).exp().sum_dim(1);
        let mut parts = vec![best, at, max, sum];
        if self.smoothed {
            let counted = match own {
                Some(own) => z.mask_fill(own, 0.0),
                None => z,
            };
            parts.push(counted.sum_dim(1));
        }
        Tensor::cat(parts, 1)
    }

    /// Combines the tiles in f64.
    fn merge(&self, stats: &TensorData, norms: &TensorData) -> FirstSweep {
        let vectors = if self.smoothed { 5 } else { 4 };
        let lowest = if self.dtype == DType::F64 { f64::MIN } else { f64::from(f32::MIN) };
        let stats: Vec<f64> = stats.iter::<f64>().collect();
        let of_sample = |row: &[f64]| {
            let mut found = SweepStats { negatives: LogSumExp::NONE, logit_sum: 0.0, nearest: 0 };
            let mut best = f64::NEG_INFINITY;
            for (tile, numbers) in self.tiles.iter().zip(row.chunks_exact(vectors)) {
                if numbers[0] > best {
                    best = numbers[0];
                    found.nearest = tile.first / self.rows.sub_centers + numbers[1] as usize;
                }
                // A tile of no other class than the sample's own.
                if numbers[2] > lowest {
                    let negatives = LogSumExp::new(numbers[2], numbers[3]);
                    found.negatives = found.negatives.merge(negatives);
                }
                found.logit_sum += numbers.get(4).copied().unwrap_or(0.0);
            }
            found
        };
        let samples = stats.chunks_exact((vectors * self.tiles.len()).max(1)).map(of_sample);
        let norms: Vec<f64> = norms.iter::<f64>().collect();
        let tiles = norms.chunks_exact(3);
        let range = tiles.clone().fold((f64::INFINITY, 0.0_f64), |(least, most), tile| {
            (least.min(tile[0]), most.max(tile[1]))
        });
        let finite = tiles.clone().all(|tile| tile[2].is_finite());
        FirstSweep { stats: samples.collect(), norms: range, finite }
    }

    /// Turns the logits into gradients of the `wanted` of embeddings and class weights.
    pub fn second<F: Precision>(
        &self,
        step: &OffloadedStep<'_, F>,
        (embeddings, weights): (bool, bool),
        by_norm: bool,
    ) -> SecondSweep {
        let factors = step.logit_factors();
        let column = |numbers: &[F]| column(numbers, &self.device);
        let shift = column(&factors.shift);
        let coefficient = column(&factors.coefficient);
        let uniform = self.smoothed.then(|| column(&factors.uniform));
        let (mut dx, mut radial) = (None, None);
        let mut dw = Vec::new();
        let mut bias = Vec::new();
        for tile in &self.tiles {
            let (unit, norm) = self.unit_rows(tile);
            let Logits { weights: v, plain, chosen } = self.logits(tile, unit);
            let z = self.hard.as_ref().map_or(plain.clone(), |hard| hard.logits(plain.clone()));
            let mut g = (z.clone() - shift.clone()).exp() * coefficient.clone();
            if let Some(uniform) = &uniform {
                g = g - uniform.clone();
            }
            if let Some(own) = self.own_classes(tile) {
                g = g.mask_fill(own, 0.0);
            }
            if let Some(hard) = &self.hard {
                let slope = hard.slopes(plain.clone());
                if by_norm {
                    let part = (g.clone() * (z - plain * slope.clone())).sum_dim(1);
                    radial = Some(added(radial, part));
                }
                g = g * slope;
            }
            if let Some(chosen) = chosen {
                let [samples, classes, k] = chosen.dims();
                g = (chosen * g.unsqueeze_dim::<3>(2)).reshape([samples, classes * k]);
            }
            if weights {
                let rows = self.weight_rows(g.clone(), v.clone(), norm);
                self.place(&mut dw, tile, rows);
                if self.rows.shift.is_some() {
                    bias.push(g.clone().sum_dim(0));
                }
            }
            if embeddings {
                dx = Some(added(dx, g.matmul(v)));
            }
        }
        let bias = (!bias.is_empty()).then(|| Tensor::cat(bias, 1).squeeze_dim::<1>(0));
        let weights = weights.then_some((dw, bias));
        SecondSweep { embeddings: dx, radial, weights }
    }

    /// The embeddings times their scale (N, D).
    pub fn embeddings(&self) -> Tensor<2> {
        self.embeddings.clone()
    }

    /// The logits of all classes (N, C), without margin.
    pub fn all_logits(&self) -> Tensor<2> {
        let tile = |tile| self.logits(tile, self.unit_rows(tile).0).plain;
        Tensor::cat(self.tiles.iter().map(tile).collect(), 1)
    }

    /// Σ_i G_ij·a_i·u_i, projected where the class weights are normalised.
    fn weight_rows(&self, g: Tensor<2>, v: Tensor<2>, norm: Tensor<2>) -> Tensor<2> {
        let rows = g.transpose().matmul(self.embeddings.clone());
        if !self.normalized {
            return rows;
        }
        let along = (rows.clone() * v.clone()).sum_dim(1);
        (rows - v * along) / norm
    }

    /// Puts the rows of a tile into the gradient of its matrix.
    fn place(&self, matrices: &mut Vec<Tensor<2>>, tile: &Tile, rows: Tensor<2>) {
        let [count, dims] = self.rows.matrices[tile.matrix].dims();
        if tile.rows.len() == count {
            matrices.push(rows);
            return;
        }
        // With no second handle the rows are written in place.
        let matrix = if tile.rows.start == 0 {
            Tensor::zeros([count, dims], (&self.device, self.dtype))
        } else {
            matrices.pop().expect("the tiles of a matrix follow each other")
        };
        matrices.push(matrix.slice_assign([tile.rows.clone()], rows));
    }

    /// The rows of a tile, divided by their norms where class weights are normalised, and the
    /// norms (rows, 1). The largest entry is divided out first: no square overflows.
    fn unit_rows(&self, tile: &Tile) -> (Tensor<2>, Tensor<2>) {
        let weights = self.rows.matrices[tile.matrix].clone().slice([tile.rows.clone()]);
        let weights = with_dtype(weights, self.dtype);
        let tiny = if self.dtype == DType::F64 { f64::MIN_POSITIVE } else { 1.2e-38 };
        let largest = weights.clone().max_abs_dim(1).clamp_min(tiny);
        let scaled = weights.clone() / largest.clone();
        let length = scaled.clone().square().sum_dim(1).sqrt();
        let unit = if self.normalized { scaled / length.clone() } else { weights };
        (unit, length * largest)
    }

    fn logits(&self, tile: &Tile, weights: Tensor<2>) -> Logits {
        let mut plain = self.embeddings.clone().matmul(weights.clone().transpose());
        if let Some(shift) = &self.rows.shift {
            let range = tile.first..tile.first + tile.rows.len();
            plain = plain + shift.clone().slice([range]).unsqueeze_dim(0);
        }
        let k = self.rows.sub_centers;
        if k == 1 {
            return Logits { weights, plain, chosen: None };
        }
        let [samples, rows] = plain.dims();
        let by_class = plain.reshape([samples, rows / k, k]);
        let (largest, at) = by_class.max_dim_with_indices(2);
        let rows_of_class = ids(&(0..k as i64).collect::<Vec<_>>(), &self.device);
        let rows_of_class = rows_of_class.cast(at.dtype()).reshape([1, 1, k]);
        let shape = [samples, rows / k, k];
        let chosen = at.expand(shape).equal(rows_of_class.expand(shape)).float();
        let chosen = with_dtype(chosen, self.dtype);
        Logits { weights, plain: largest.squeeze_dim(2), chosen: Some(chosen) }
    }

    /// Where the logits of a tile are those of the samples' own classes (N, classes); `None` where
    /// none is.
    fn own_classes(&self, tile: &Tile) -> Option<Tensor<2, burn::tensor::Bool>> {
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
    fn logits(&self, z: Tensor<2>) -> Tensor<2> {
        let harder = z.clone() * self.quadratic.clone() + self.linear;
        let harder = harder * z.clone() + self.constant.clone();
        z.clone().mask_where(self.over(z), harder)
    }

    /// The derivatives of the logits by the plain ones.
    fn slopes(&self, z: Tensor<2>) -> Tensor<2> {
        let steeper = z.clone() * self.quadratic.clone() * 2.0 + self.linear;
        z.ones_like().mask_where(self.over(z), steeper)
    }

    fn over(&self, z: Tensor<2>) -> Tensor<2, burn::tensor::Bool> {
        let shape = z.dims();
        z.greater(self.threshold.clone().expand(shape))
    }
}

fn added(sum: Option<Tensor<2>>, part: Tensor<2>) -> Tensor<2> {
    match sum {
        Some(sum) => sum + part,
        None => part,
    }
}

/// One number per sample (N, 1).
pub(super) fn column<F: Precision>(numbers: &[F], device: &Device) -> Tensor<2> {
    let data = TensorData::new(numbers.to_vec(), [numbers.len(), 1]);
    Tensor::from_data(data, (device, F::dtype()))
}

/// Adds rows, each of which is named once, to a matrix.
pub(super) fn add_rows(to: Tensor<2>, rows: &[i64], added: Tensor<2>) -> Tensor<2> {
    let rows = ids(rows, &to.device());
    to.select_assign(0, rows, added, IndexingUpdateOp::Add)
}

/// The device computes other norms than main memory.
pub(super) fn wrong_norms(device: &Device, norms: (f64, f64)) -> Error {
    let reason = format!("it found norms of class weights in {norms:?}, which are others");
    device_error(device, &reason)
}
