//! The two sweeps over the classes, tile by tile, by burn's own tensor operations.

use burn::tensor::{DType, Device, FloatDType, IndexingUpdateOp, Tensor, TensorData, Transaction};
use margin_softmax::Error;
use margin_softmax::offload::{LogSumExp, LogitFactors, SweepStats};

use super::tiles::{Logits, Norms, Sweeps, Tile, TileRows, column};
use super::{device_error, ids, read};
use crate::memory::Precision;

/// Norms whose squares, and those of entries that count, f32 holds.
const PLAIN_NORMS: std::ops::RangeInclusive<f64> = 1e-12..=1e12;

/// What the first sweep finds.
pub(super) struct FirstSweep {
    pub stats: Vec<SweepStats>,
    tiles: Vec<Norms>,
    /// The smallest and the largest norm of a class weight.
    pub norms: (f64, f64),
    /// Whether every norm is finite.
    pub finite: bool,
}

/// What the second sweep finds.
pub(super) struct SecondSweep {
    /// Σ_j G_ij·v_j (N, D).
    pub embeddings: Option<Tensor<2>>,
    /// What negatives that are up-weighted add to the derivatives by the norms (N, 1).
    pub radial: Option<Tensor<2>>,
    /// The gradients of the matrices, and of the shift (rows).
    pub weights: Option<(Vec<Tensor<2>>, Option<Tensor<1>>)>,
}

impl Sweeps<'_> {
    /// Finds the log-sum-exp of the negatives, the nearest class, and the range of the norms.
    pub fn first(&self) -> Result<FirstSweep, Error> {
        let plain = self.sweep(false)?;
        let (least, most) = plain.norms;
        if plain.finite && PLAIN_NORMS.contains(&least) && PLAIN_NORMS.contains(&most) {
            return Ok(plain);
        }
        // Rare: once more, with the largest entry of each row divided out.
        self.sweep(true)
    }

    fn sweep(&self, extreme: bool) -> Result<FirstSweep, Error> {
        let (mut stats, mut norms, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for tile in &self.tiles {
            let norm = if extreme { self.unit_rows(tile).1 } else { self.plain_norms(tile) };
            let (least, most) = (norm.clone().min_dim(0), norm.clone().max_dim(0));
            norms.push(Tensor::cat(vec![least, most, norm.clone().sum_dim(0)], 1));
            let of_tile = match (self.normalized, extreme) {
                (false, _) => Norms::Unused,
                (true, true) => Norms::Extreme,
                (true, false) => Norms::Plain(norm.recip().transpose()),
            };
            stats.push(self.tile_stats(tile, &self.tile_rows(tile, &of_tile)));
            kept.push(of_tile);
        }
        let (stats, norms) = (Tensor::cat(stats, 1), Tensor::cat(norms, 0));
        let both = Transaction::default().register(stats).register(norms);
        match &read(&self.device, both)?[..] {
            [stats, norms] => Ok(self.merge(stats, norms, kept)),
            _ => Err(device_error(&self.device, "it did not return what was read")),
        }
    }

    /// Of one tile for each sample: the largest logit and its class, the largest of the negatives,
    /// the sum of their exponentials, and that of their logits where labels are smoothed (N, 4 or 5).
    fn tile_stats(&self, tile: &Tile, rows: &TileRows) -> Tensor<2> {
        let Logits { plain, .. } = self.logits(tile, rows);
        let own = self.own_classes(tile);
        let (best, at) = plain.clone().max_dim_with_indices(1);
        // Not by the device's default float, which may be f16: it holds no index above 2048.
        let at = at.cast(FloatDType::from(self.dtype));
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
    fn merge(&self, stats: &TensorData, norms: &TensorData, tiles: Vec<Norms>) -> FirstSweep {
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
        let of_tiles = norms.chunks_exact(3);
        let range = of_tiles.clone().fold((f64::INFINITY, 0.0_f64), |(least, most), tile| {
            (least.min(tile[0]), most.max(tile[1]))
        });
        let finite = of_tiles.clone().all(|tile| tile[2].is_finite());
        FirstSweep { stats: samples.collect(), tiles, norms: range, finite }
    }

    /// Turns the logits into gradients of the `wanted` of embeddings and class weights.
    pub fn second<F: Precision>(
        &self,
        factors: &LogitFactors<F>,
        first: &FirstSweep,
        (embeddings, weights): (bool, bool),
        by_norm: bool,
    ) -> SecondSweep {
        let column = |numbers: &[F]| column(numbers, &self.device);
        let shift = column(&factors.shift);
        let coefficient = column(&factors.coefficient);
        let uniform = self.smoothed.then(|| column(&factors.uniform));
        let (mut dx, mut radial) = (None, None);
        let mut dw = Vec::new();
        let mut bias = Vec::new();
        for (tile, norms) in self.tiles.iter().zip(&first.tiles) {
            let rows = self.tile_rows(tile, norms);
            let Logits { plain, chosen } = self.logits(tile, &rows);
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
                    let part = (g.clone() * (z - plain.clone() * slope.clone())).sum_dim(1);
                    radial = Some(added(radial, part));
                }
                g = g * slope;
            }
            let products = (weights && self.normalized)
                .then(|| self.by_row(g.clone() * plain, chosen.as_ref()).sum_dim(0));
            g = self.by_row(g, chosen.as_ref());
            let sums = self.rows.shift.as_ref().filter(|_| weights).map(|_| g.clone().sum_dim(0));
            // What normalized rows lose along themselves: without its shift, g·z is the product of
            // a row with its gradient.
            let along = products.map(|products| match (&sums, self.shift(tile)) {
                (Some(sums), Some(shift)) => (products - sums.clone() * shift).transpose(),
                _ => products.transpose(),
            });
            bias.extend(sums);
            if let Some(factor) = &rows.factor {
                g = g * factor.clone();
            }
            if weights {
                let gradient = self.weight_rows(g.clone(), &rows, along);
                self.place(&mut dw, tile, gradient);
            }
            if embeddings {
                dx = Some(added(dx, g.matmul(rows.weights)));
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
    pub fn all_logits(&self, first: &FirstSweep) -> Tensor<2> {
        let tiles = self.tiles.iter().zip(&first.tiles);
        let logits = tiles.map(|(tile, norms)| self.logits(tile, &self.tile_rows(tile, norms)));
        Tensor::cat(logits.map(|logits| logits.plain).collect(), 1)
    }

    /// Numbers of each class (N, classes) as those of the row that it takes (N, rows), 0 for others.
    fn by_row(&self, classes: Tensor<2>, chosen: Option<&Tensor<3>>) -> Tensor<2> {
        let Some(chosen) = chosen else { return classes };
        let [samples, count, k] = chosen.dims();
        (chosen.clone() * classes.unsqueeze_dim::<3>(2)).reshape([samples, count * k])
    }

    /// Σ_i G_ij·a_i·u_i, less what lies `along` the rows where class weights are normalized.
    fn weight_rows(&self, g: Tensor<2>, rows: &TileRows, along: Option<Tensor<2>>) -> Tensor<2> {
        let mut gradient = g.transpose().matmul(self.embeddings.clone());
        if let Some(mut along) = along {
            if let Some(factor) = &rows.factor {
                let factor = factor.clone().transpose();
                along = along * factor.clone() * factor;
            }
            gradient = gradient - rows.weights.clone() * along;
        }
        match &rows.divisor {
            Some(divisor) => gradient / divisor.clone(),
            None => gradient,
        }
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
}

fn added(sum: Option<Tensor<2>>, part: Tensor<2>) -> Tensor<2> {
    match sum {
        Some(sum) => sum + part,
        None => part,
    }
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
