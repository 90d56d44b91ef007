//! The first sweep over the classes: what the losses need, tile by tile.

use margin_softmax::offload::{LogSumExp, NegativeLogit, SweepStats};
use ndarray::{ArrayView1, Axis};
use num_traits::Float;

use crate::binary::Logistic;
use crate::operations::{Binary, Map, Operations, Reduce};
use crate::options::number;
use crate::tiles::{Logits, Norms, Sweeps, Tile, TileRows};

/// Norms whose squares, and those of entries that count, f32 holds.
const PLAIN_NORMS: std::ops::RangeInclusive<f64> = 1e-12..=1e12;

/// What the first sweep finds.
pub(crate) struct FirstSweep<M> {
    pub stats: Vec<SweepStats>,
    /// The norms of each tile's rows.
    pub tiles: Vec<Norms<M>>,
    /// The smallest and the largest norm of a class weight.
    pub norms: (f64, f64),
    /// Whether every norm is finite.
    pub finite: bool,
}

/// What takes the place of logits that are left out.
fn lowest<D: Operations>() -> f64 {
    number(D::Float::min_value())
}

impl<D: Operations> Sweeps<'_, D> {
    /// Finds the log-sum-exp of the negatives, the nearest class, and the range of the norms.
    pub fn first(&self) -> Result<FirstSweep<D::Matrix>, D::Error> {
        let plain = self.sweep(false)?;
        let (least, most) = plain.norms;
        if plain.finite && PLAIN_NORMS.contains(&least) && PLAIN_NORMS.contains(&most) {
            return Ok(plain);
        }
        // Rare: once more, with the largest entry of each row divided out.
        self.sweep(true)
    }

    fn sweep(&self, extreme: bool) -> Result<FirstSweep<D::Matrix>, D::Error> {
        let d = self.device;
        let (mut stats, mut norms, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
        for tile in &self.tiles {
            let norm = self.norms(tile, extreme)?;
            let range = [Reduce::Smallest, Reduce::Largest, Reduce::Sum];
            let range = range.map(|reduce| d.reduce(&norm, reduce, 0));
            norms.push(d.cat(range.into_iter().collect::<Result<_, _>>()?, 1)?);
            let of_tile = match (self.normalized, extreme) {
                (false, _) => Norms::Unused,
                (true, true) => Norms::Extreme,
                (true, false) => Norms::Inverse(d.transposed(&d.map(norm, Map::Reciprocal)?)?),
            };
            stats.push(self.tile_stats(tile, &self.tile_rows(tile, &of_tile)?)?);
            tiles.push(of_tile);
        }
        let read = d.download(vec![d.cat(stats, 1)?, d.cat(norms, 0)?])?;
        let (stats, norms) = (&read[0], read[1].mapv(number));
        let least = norms.column(0).fold(f64::INFINITY, |least, norm| least.min(*norm));
        let most = norms.column(1).fold(0.0_f64, |most, norm| most.max(*norm));
        let finite = norms.column(2).iter().all(|sum| sum.is_finite());
        let stats = stats.rows().into_iter().map(|row| self.merge(row)).collect();
        Ok(FirstSweep { stats, tiles, norms: (least, most), finite })
    }

    /// Of one tile for each sample: the largest logit and its class, that of the negatives and its
    /// class, the largest of the negatives as they count, the sum of their exponentials, both also
    /// without class prior where there is one, the sum of their logits where labels are smoothed, and
    /// the logits and classes that all these leave out (N, [`width`](Self::width)). Of a binary loss a
    /// maximum of 0, and the sums of softplus and of sigmoids.
    fn tile_stats(&self, tile: &Tile, rows: &TileRows<D::Matrix>) -> Result<D::Matrix, D::Error> {
        let d = self.device;
        let Logits { plain, .. } = self.logits(tile, rows)?;
        let own = self.masks(tile, &self.own)?;
        let (best, at) = d.largest(&plain)?;
        let negatives = self.filled(plain, &own, lowest::<D>())?;
        let (nearest, nearest_at) = match own.is_empty() {
            true => (best.clone(), at.clone()),
            false => d.largest(&negatives)?,
        };
        let of_negatives = match &self.logistic {
            Some(logistic) => self.logistic_stats(logistic, tile, (negatives, &nearest), own)?,
            None => self.softmax_stats(tile, (negatives, &nearest), own)?,
        };
        d.cat([best, at, nearest, nearest_at].into_iter().chain(of_negatives).collect(), 1)
    }

    /// What a softmax needs of the negatives, whose largest is `nearest`; the masks are those of the
    /// samples' own classes.
    fn softmax_stats(
        &self,
        tile: &Tile,
        (negatives, nearest): (D::Matrix, &D::Matrix),
        mut masks: Vec<D::Mask>,
    ) -> Result<Vec<D::Matrix>, D::Error> {
        let (d, own) = (self.device, masks.len());
        let apart = self.take_largest(tile, negatives.clone(), &mut masks)?;
        let z = self.filled(negatives, &masks[own..], lowest::<D>())?;
        let plain = self.up_weighted(tile, z)?;
        let max = match self.hard.is_none() && apart.is_empty() {
            true => nearest.clone(),
            false => d.reduce(&plain, Reduce::Largest, 1)?,
        };
        let (z, max, margin_free) = match &self.log_prior {
            None => (plain, max, Vec::new()),
            Some(_) => {
                let z =
                    self.filled(self.with_prior(tile, plain.clone())?, &masks, lowest::<D>())?;
                let largest = d.reduce(&z, Reduce::Largest, 1)?;
                (z, largest, vec![max.clone(), self.sum(plain, &max)?])
            }
        };
        let sum_of_logits = match self.smoothed {
            true => Some(d.reduce(&self.filled(z.clone(), &masks, 0.0)?, Reduce::Sum, 1)?),
            false => None,
        };
        let sum = self.sum(z, &max)?;
        let sums = [max, sum].into_iter().chain(margin_free).chain(sum_of_logits);
        Ok(sums.chain(apart).collect())
    }

    /// What a binary loss needs of the negatives; `nearest` only has the shape of a result.
    fn logistic_stats(
        &self,
        logistic: &Logistic<D>,
        tile: &Tile,
        (negatives, nearest): (D::Matrix, &D::Matrix),
        own: Vec<D::Mask>,
    ) -> Result<Vec<D::Matrix>, D::Error> {
        let d = self.device;
        let z = logistic.logits(negatives)?.0;
        let sum = |numbers| d.reduce(&self.filled(numbers, &own, 0.0)?, Reduce::Sum, 1);
        let none = d.map(nearest.clone(), Map::Affine(0.0, 0.0))?;
        let margin_free = match &self.log_prior {
            Some(_) => vec![none.clone(), sum(logistic.softplus(z.clone())?)?],
            None => Vec::new(),
        };
        let z = self.with_prior(tile, z)?;
        let mut sums = vec![none, sum(logistic.softplus(z.clone())?)?];
        sums.extend(margin_free);
        sums.push(sum(logistic.sigmoid(z)?)?);
        Ok(sums)
    }

    /// Σ e^(z − max) of each sample.
    fn sum(&self, z: D::Matrix, max: &D::Matrix) -> Result<D::Matrix, D::Error> {
        let d = self.device;
        let shifted = d.combine(z, Binary::Subtract, max)?;
        d.reduce(&d.map(shifted, Map::Exp)?, Reduce::Sum, 1)
    }

    /// The largest of the negatives of a tile by their cosines, whose sums leave them out, each with
    /// its class; and where they are.
    fn take_largest(
        &self,
        tile: &Tile,
        negatives: D::Matrix,
        masks: &mut Vec<D::Mask>,
    ) -> Result<Vec<D::Matrix>, D::Error> {
        let (d, mut found) = (self.device, Vec::new());
        if self.top == 0 {
            return Ok(found);
        }
        let mut left = self.unshifted(tile, negatives)?;
        let [_, columns] = d.shape(&left);
        for _ in 0..self.top {
            let (largest, at) = d.largest(&left)?;
            let mask = d.at(&at, columns)?;
            left = d.fill(left, &mask, lowest::<D>())?;
            masks.push(mask);
            found.extend([largest, at]);
        }
        Ok(found)
    }

    /// Sums besides that of the exponentials.
    fn sums(&self) -> usize {
        usize::from(self.smoothed || self.logistic.is_some())
    }

    /// Where these sums are in the numbers of a tile: after the log-sum-exps.
    fn first_sum(&self) -> usize {
        if self.log_prior.is_some() { 8 } else { 6 }
    }

    /// The numbers of a sample in a tile.
    fn width(&self) -> usize {
        self.first_sum() + self.sums() + 2 * self.top
    }

    /// Combines what the tiles found for one sample, in f64.
    fn merge(&self, row: ArrayView1<'_, D::Float>) -> SweepStats {
        let none = LogSumExp::NONE;
        let mut found = SweepStats {
            negatives: none,
            margin_free_negatives: none,
            logit_sum: 0.0,
            nearest: 0,
            nearest_negative: None,
            apart: Vec::new(),
        };
        let (mut best, mut nearest) = (f64::NEG_INFINITY, lowest::<D>());
        let of_tiles = row.axis_chunks_iter(Axis(0), self.width());
        for (tile, numbers) in self.tiles.iter().zip(of_tiles) {
            let numbers: Vec<f64> = numbers.iter().map(|&of_tile| number(of_tile)).collect();
            let place = |at: f64| tile.first / self.rows.sub_centers + at as usize;
            if numbers[0] > best {
                best = numbers[0];
                found.nearest = place(numbers[1]);
            }
            if numbers[2] > nearest {
                nearest = numbers[2];
                let place = place(numbers[3]);
                found.nearest_negative = Some(NegativeLogit { place, logit: nearest });
            }
            // A tile without other classes has the lowest number.
            let log_sum_exp = |at: usize| match numbers[at] > lowest::<D>() {
                true => LogSumExp::new(numbers[at], numbers[at + 1]),
                false => LogSumExp::NONE,
            };
            found.negatives = found.negatives.merge(log_sum_exp(4));
            let margin_free = log_sum_exp(self.first_sum() - 2);
            found.margin_free_negatives = found.margin_free_negatives.merge(margin_free);
            let (sum, apart) = numbers[self.first_sum()..].split_at(self.sums());
            found.logit_sum += sum.iter().sum::<f64>();
            let apart = apart.chunks_exact(2).filter(|apart| apart[0] > lowest::<D>());
            let apart =
                apart.map(|apart| NegativeLogit { place: place(apart[1]), logit: apart[0] });
            found.apart.extend(apart);
        }
        found
    }

    /// The logits of all classes (N, C), without margin.
    pub fn all_logits(&self, first: &FirstSweep<D::Matrix>) -> Result<D::Matrix, D::Error> {
        let tiles = self.tiles.iter().zip(&first.tiles);
        let logits =
            tiles.map(|(tile, norms)| Ok(self.logits(tile, &self.tile_rows(tile, norms)?)?.plain));
        self.device.cat(logits.collect::<Result<_, _>>()?, 1)
    }
}
