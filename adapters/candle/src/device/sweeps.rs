//! The two sweeps over the classes, tile by tile, by candle's own tensor operations.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, WithDType};
use margin_softmax::Real;
use margin_softmax::offload::{
    HardNegativeLogits, LogSumExp, LogitFactors, OffloadedStep, SweepStats, TargetGradients,
};

use super::ids;

/// Numbers in one of the arrays of logits of a tile, unless the rows of a tile are set.
const TILE_NUMBERS: usize = 1 << 21;

/// The class weights of a step, without the graph: `sub_centers` rows in turn for each class.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub matrix: Tensor,
    /// (rows): bias, and corrections for sampling.
    pub shift: Option<Tensor>,
    pub sub_centers: usize,
    /// Rows of a tile, where they are set.
    pub tile: Option<usize>,
}

/// What both sweeps read.
pub(super) struct Sweeps<'a> {
    rows: &'a Rows,
    tiles: Vec<Range<usize>>,
    /// The embeddings times their scale (N, D).
    pub embeddings: Tensor,
    /// The number of each sample's own class among those swept; `usize::MAX` without.
    labels: Vec<usize>,
    hard: Option<Hard>,
    normalized: bool,
    smoothed: bool,
}

/// [`HardNegativeLogits`] on the device, (N, 1) each.
struct Hard {
    threshold: Tensor,
    constant: Tensor,
    linear: f64,
    quadratic: Tensor,
}

/// The logits of one tile.
struct Logits {
    /// (N, classes), before any is up-weighted.
    plain: Tensor,
    /// Which of its rows each class takes (N, classes, K) of 0 and 1; `None` where it has one.
    chosen: Option<Tensor>,
}

/// What the first sweep finds.
pub(super) struct FirstSweep {
    pub stats: Vec<SweepStats>,
    /// The smallest and the largest norm of a class weight.
    pub norms: (f64, f64),
    /// Whether every norm is finite.
    pub finite: bool,
}

/// What the second sweep finds; `None` where it is not wanted.
#[derive(Default)]
pub(super) struct SecondSweep {
    /// Σ_j G_ij·v_j (N, D).
    pub embeddings: Option<Tensor>,
    /// What negatives that are up-weighted add to the derivatives by the norms (N, 1).
    pub radial: Option<Tensor>,
    /// The gradient of the rows, and that of the shift (rows).
    pub weights: Option<Tensor>,
    pub shift: Option<Tensor>,
}

impl<'a> Sweeps<'a> {
    /// The sweeps of `step` over `rows`.
    pub fn new<F: Real + WithDType>(
        step: &OffloadedStep<'_, F>,
        rows: &'a Rows,
        labels: Vec<usize>,
    ) -> Result<Self> {
        let (count, k) = (rows.matrix.dim(0)?, rows.sub_centers);
        let tile = rows.tile.unwrap_or((TILE_NUMBERS / labels.len().max(1)).max(2048));
        let tile = (tile / k).max(1) * k;
        let tiles = (0..count).step_by(tile).map(|start| start..(start + tile).min(count));
        let device = rows.matrix.device();
        let hard = step.hard_negative_logits().map(|hard| {
            let HardNegativeLogits { threshold, constant, linear, quadratic, .. } = &hard;
            Ok::<_, candle_core::Error>(Hard {
                threshold: column(threshold, device)?,
                constant: column(constant, device)?,
                linear: WithDType::to_f64(*linear),
                quadratic: column(quadratic, device)?,
            })
        });
        Ok(Sweeps {
            rows,
            tiles: tiles.collect(),
            embeddings: crate::tensor::tensor(step.scaled_embeddings())?.to_device(device)?,
            labels,
            hard: hard.transpose()?,
            normalized: step.is_normalized(),
            smoothed: step.is_smoothed(),
        })
    }

    /// Finds the log-sum-exp of the negatives, the nearest class, and the range of the norms.
    pub fn first(&self) -> Result<FirstSweep> {
        let (mut stats, mut norms) = (Vec::new(), Vec::new());
        for tile in &self.tiles {
            let (unit, norm) = self.unit_rows(tile)?;
            let range = [norm.min_keepdim(0)?, norm.max_keepdim(0)?, norm.sum_keepdim(0)?];
            norms.push(Tensor::cat(&range, 1)?);
            stats.push(self.tile_stats(tile, &unit)?);
        }
        let read = |parts: &[Tensor], dim| {
            Tensor::cat(parts, dim)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2::<f64>()
        };
        let (stats, norms) = (read(&stats, 1)?, read(&norms, 0)?);
        let range = norms.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), tile| {
            (least.min(tile[0]), most.max(tile[1]))
        });
        let finite = norms.iter().all(|tile| tile[2].is_finite());
        let stats = stats.iter().map(|row| self.merge(row)).collect();
        Ok(FirstSweep { stats, norms: range, finite })
    }

    /// Of one tile for each sample: the largest logit and its class, the largest of the negatives,
    /// the sum of their exponentials, and that of their logits where labels are smoothed (N, 4 or 5).
    fn tile_stats(&self, tile: &Range<usize>, unit: &Tensor) -> Result<Tensor> {
        let Logits { plain, .. } = self.logits(tile, unit)?;
        let own = self.own_classes(tile)?;
        let best = plain.max_keepdim(1)?;
        let at = plain.argmax_keepdim(1)?.to_dtype(plain.dtype())?;
        let z = self.harder(&plain)?;
        let negatives = filled(&z, own.as_ref(), self.lowest())?;
        let max = negatives.max_keepdim(1)?;
        let sum = negatives.broadcast_sub(&max)?.exp()?.sum_keepdim(1)?;
        let mut parts = vec![best, at, max, sum];
        if self.smoothed {
            parts.push(filled(&z, own.as_ref(), 0.0)?.sum_keepdim(1)?);
        }
        Tensor::cat(&parts, 1)
    }

    /// Combines what the tiles found for one sample, in f64.
    fn merge(&self, row: &[f64]) -> SweepStats {
        let mut found = SweepStats { negatives: LogSumExp::NONE, logit_sum: 0.0, nearest: 0 };
        let mut best = f64::NEG_INFINITY;
        for (tile, numbers) in self.tiles.iter().zip(row.chunks_exact(4 + self.smoothed as usize)) {
            if numbers[0] > best {
                best = numbers[0];
                found.nearest = tile.start / self.rows.sub_centers + numbers[1] as usize;
            }
            // A tile of no other class than the sample's own has the lowest number.
            if numbers[2] > self.lowest() {
                found.negatives = found.negatives.merge(LogSumExp::new(numbers[2], numbers[3]));
            }
            found.logit_sum += numbers.get(4).copied().unwrap_or(0.0);
        }
        found
    }

    /// Turns the logits into gradients of the `wanted` of embeddings and class weights, to which
    /// the `own` rows are added: their numbers among the rows of the sweep, ascending.
    pub fn second<F: Real + WithDType>(
        &self,
        factors: &LogitFactors<F>,
        (embeddings, weights): (bool, bool),
        by_norm: bool,
        own: &TargetGradients<F>,
    ) -> Result<SecondSweep> {
        let device = self.rows.matrix.device();
        let shift = column(&factors.shift, device)?;
        let coefficient = column(&factors.coefficient, device)?;
        let uniform = self.smoothed.then(|| column(&factors.uniform, device)).transpose()?;
        let mut found = SecondSweep::default();
        let mut by_shift = Vec::new();
        if weights {
            found.weights = Some(self.rows.matrix.zeros_like()?);
        }
        for tile in &self.tiles {
            let (v, norm) = self.unit_rows(tile)?;
            let Logits { plain, chosen } = self.logits(tile, &v)?;
            let z = self.harder(&plain)?;
            let mut g = z.broadcast_sub(&shift)?.exp()?.broadcast_mul(&coefficient)?;
            if let Some(uniform) = &uniform {
                g = g.broadcast_sub(uniform)?;
            }
            g = filled(&g, self.own_classes(tile)?.as_ref(), 0.0)?;
            if let Some(hard) = &self.hard {
                let slope = hard.slopes(&plain)?;
                if by_norm {
                    let part = (&g * (z - (plain * &slope)?)?)?.sum_keepdim(1)?;
                    found.radial = Some(added(found.radial.take(), part)?);
                }
                g = (g * slope)?;
            }
            if let Some(chosen) = chosen {
                g = chosen.broadcast_mul(&g.unsqueeze(2)?)?.flatten_from(1)?;
            }
            if let Some(all) = &found.weights {
                let rows = self.weight_rows(&g, &v, &norm)?;
                let rows = add_own(rows, tile, own)?.contiguous()?;
                all.slice_set(&rows, 0, tile.start)?;
                if self.rows.shift.is_some() {
                    by_shift.push(g.sum(0)?);
                }
            }
            if embeddings {
                found.embeddings = Some(added(found.embeddings.take(), g.matmul(&v)?)?);
            }
        }
        if !by_shift.is_empty() {
            found.shift = Some(Tensor::cat(&by_shift, 0)?);
        }
        Ok(found)
    }

    /// The logits of all classes (N, C), without margin.
    pub fn all_logits(&self) -> Result<Tensor> {
        let of_tile = |tile| Ok(self.logits(tile, &self.unit_rows(tile)?.0)?.plain);
        Tensor::cat(&self.tiles.iter().map(of_tile).collect::<Result<Vec<_>>>()?, 1)
    }

    /// Σ_i G_ij·a_i·u_i, projected where the class weights are normalized.
    fn weight_rows(&self, g: &Tensor, v: &Tensor, norm: &Tensor) -> Result<Tensor> {
        let rows = g.t()?.matmul(&self.embeddings)?;
        if !self.normalized {
            return Ok(rows);
        }
        let along = (&rows * v)?.sum_keepdim(1)?;
        (rows - v.broadcast_mul(&along)?)?.broadcast_div(norm)
    }

    /// The rows of a tile, divided by their norms where class weights are normalized, and the
    /// norms (rows, 1). The largest entry is divided out first: no square overflows.
    fn unit_rows(&self, tile: &Range<usize>) -> Result<(Tensor, Tensor)> {
        let weights = self.rows.matrix.narrow(0, tile.start, tile.len())?;
        let double = weights.dtype() == DType::F64;
        let tiny = if double { f64::MIN_POSITIVE } else { 1.2e-38 };
        let largest = weights.abs()?.max_keepdim(1)?.maximum(tiny)?;
        let scaled = weights.broadcast_div(&largest)?;
        let length = scaled.sqr()?.sum_keepdim(1)?.sqrt()?;
        let unit = if self.normalized { scaled.broadcast_div(&length)? } else { weights };
        Ok((unit, (length * largest)?))
    }

    fn logits(&self, tile: &Range<usize>, weights: &Tensor) -> Result<Logits> {
        let mut plain = self.embeddings.matmul(&weights.t()?)?;
        if let Some(shift) = &self.rows.shift {
            plain = plain.broadcast_add(&shift.narrow(0, tile.start, tile.len())?)?;
        }
        let k = self.rows.sub_centers;
        if k == 1 {
            return Ok(Logits { plain, chosen: None });
        }
        let by_class = plain.reshape((plain.dim(0)?, tile.len() / k, k))?;
        let rows = Tensor::arange(0, k as u32, plain.device())?.reshape((1, 1, k))?;
        let chosen = by_class.argmax_keepdim(2)?.broadcast_eq(&rows)?.to_dtype(plain.dtype())?;
        Ok(Logits { plain: by_class.max(2)?, chosen: Some(chosen) })
    }

    /// Where the logits of a tile are those of the samples' own classes (N, classes); `None` where
    /// none is.
    fn own_classes(&self, tile: &Range<usize>) -> Result<Option<Tensor>> {
        let k = self.rows.sub_centers;
        let classes = tile.start / k..tile.end / k;
        let place = |label: &usize| match classes.contains(label) {
            true => (label - classes.start) as u32,
            false => u32::MAX,
        };
        let places: Vec<u32> = self.labels.iter().map(place).collect();
        if places.iter().all(|place| *place == u32::MAX) {
            return Ok(None);
        }
        let device = self.rows.matrix.device();
        let numbers = Tensor::arange(0, classes.len() as u32, device)?.unsqueeze(0)?;
        let places = Tensor::from_vec(places, (self.labels.len(), 1), device)?;
        places.broadcast_eq(&numbers).map(Some)
    }

    fn harder(&self, z: &Tensor) -> Result<Tensor> {
        self.hard.as_ref().map_or(Ok(z.clone()), |hard| hard.logits(z))
    }

    fn lowest(&self) -> f64 {
        if self.embeddings.dtype() == DType::F64 { f64::MIN } else { f64::from(f32::MIN) }
    }
}

impl Hard {
    fn logits(&self, z: &Tensor) -> Result<Tensor> {
        let harder = z.broadcast_mul(&self.quadratic)?.affine(1.0, self.linear)?;
        let harder = (harder * z)?.broadcast_add(&self.constant)?;
        z.broadcast_gt(&self.threshold)?.where_cond(&harder, z)
    }

    /// The derivatives of the logits by the plain ones.
    fn slopes(&self, z: &Tensor) -> Result<Tensor> {
        let steeper = z.broadcast_mul(&self.quadratic)?.affine(2.0, self.linear)?;
        z.broadcast_gt(&self.threshold)?.where_cond(&steeper, &z.ones_like()?)
    }
}

/// The numbers with those of the mask replaced.
fn filled(z: &Tensor, mask: Option<&Tensor>, number: f64) -> Result<Tensor> {
    let Some(mask) = mask else { return Ok(z.clone()) };
    let number = Tensor::new(number, &Device::Cpu)?.to_dtype(z.dtype())?.to_device(z.device())?;
    mask.where_cond(&number.broadcast_as(z.shape())?, z)
}

fn added(sum: Option<Tensor>, part: Tensor) -> Result<Tensor> {
    sum.map_or(Ok(part.clone()), |sum| sum + part)
}

/// Adds those of the `own` rows that are in the tile, each of which is named once.
fn add_own<F: Real + WithDType>(
    rows: Tensor,
    tile: &Range<usize>,
    own: &TargetGradients<F>,
) -> Result<Tensor> {
    let place = |row: usize| own.rows.partition_point(|own| *own < row);
    let places = place(tile.start)..place(tile.end);
    if places.is_empty() {
        return Ok(rows);
    }
    let numbers: Vec<usize> = own.rows[places.clone()].iter().map(|row| row - tile.start).collect();
    let part = own.weights.slice_axis(ndarray::Axis(0), places.into()).to_owned();
    let part = crate::tensor::tensor(part)?.to_device(rows.device())?;
    rows.index_add(&ids(&numbers, rows.device())?, &part, 0)
}

/// One number per sample (N, 1).
pub(super) fn column<F: WithDType>(numbers: &[F], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(numbers, (numbers.len(), 1), device)
}
