//! The two sweeps over the classes, tile by tile.

use margin_softmax::offload::{
    LogSumExp, NegativeLogit, OffloadedBackward, SweepStats, TargetGradients,
};
use ndarray::{Array2, ArrayView1, Axis};
use num_traits::Float;

use crate::operations::{Binary, Map, Operations, Reduce};
use crate::options::number;
use crate::tiles::{Logits, Norms, Sweeps, Tile, TileRows, column};

/// Norms whose squares, and those of entries that count, f32 holds.
const PLAIN_NORMS: std::ops::RangeInclusive<f64> = 1e-12..=1e12;

/// What the first sweep finds.
pub(crate) struct FirstSweep<M> {
    pub stats: Vec<SweepStats>,
    tiles: Vec<Norms<M>>,
    /// The smallest and the largest norm of a class weight.
    pub norms: (f64, f64),
    /// Whether every norm is finite.
    pub finite: bool,
}

/// What the second sweep finds; `None` and empty where it is not wanted.
pub(crate) struct SecondSweep<M> {
    /// Σ_j G_ij·v_j (N, D).
    pub embeddings: Option<M>,
    /// What up-weighted negatives add to the derivatives by the norms (N, 1).
    pub radial: Option<M>,
    /// The gradients of the matrices, the samples' own classes among them.
    pub weights: Vec<M>,
    /// The gradient of the shift (1, rows), without the samples' own classes.
    pub shift: Option<M>,
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
        let mut masks = self.masks(tile, &self.own)?;
        let (best, at) = d.largest(&plain)?;
        let negatives = self.filled(plain, &masks, lowest::<D>())?;
        let (nearest, nearest_at) = match masks.is_empty() {
            true => (best.clone(), at.clone()),
            false => d.largest(&negatives)?,
        };
        if let Some(logistic) = &self.logistic {
            let z = logistic.logits(negatives)?.0;
            let sum = |numbers| d.reduce(&self.filled(numbers, &masks, 0.0)?, Reduce::Sum, 1);
            let none = d.map(best.clone(), Map::Affine(0.0, 0.0))?;
            let margin_free = match &self.log_prior {
                Some(_) => vec![none.clone(), sum(logistic.softplus(z.clone())?)?],
                None => Vec::new(),
            };
            let z = self.with_prior(tile, z)?;
            let sums = [none, sum(logistic.softplus(z.clone())?)?].into_iter().chain(margin_free);
            let found = [best, at, nearest, nearest_at].into_iter().chain(sums);
            return d.cat(found.chain([sum(logistic.sigmoid(z)?)?]).collect(), 1);
        }
        let own = masks.len();
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
        let found = [best, at, nearest, nearest_at, max, sum].into_iter().chain(margin_free);
        d.cat(found.chain(sum_of_logits).chain(apart).collect(), 1)
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

    /// Turns the logits into gradients of the `wanted` of embeddings and class weights.
    pub fn second(
        &self,
        (backward, own): (&OffloadedBackward<'_, '_, D::Float>, &TargetGradients<D::Float>),
        first: &FirstSweep<D::Matrix>,
        (embeddings, weights): (bool, bool),
        by_norm: bool,
    ) -> Result<SecondSweep<D::Matrix>, D::Error> {
        let d = self.device;
        let factors = backward.logit_factors();
        let (shift, coefficient) = (column(d, &factors.shift)?, column(d, &factors.coefficient)?);
        let uniform = self.smoothed.then(|| column(d, &factors.uniform)).transpose()?;
        let mut apart = self.own.clone();
        apart.iter_mut().zip(factors.apart).for_each(|(own, others)| own.extend(others));
        let (mut dx, mut radial) = (None, None);
        let (mut dw, mut db) = (Vec::new(), Vec::new());
        for (tile, norms) in self.tiles.iter().zip(&first.tiles) {
            let rows = self.tile_rows(tile, norms)?;
            let Logits { plain, chosen } = self.logits(tile, &rows)?;
            let z = self.up_weighted(tile, plain.clone())?;
            let g = match &self.logistic {
                Some(logistic) => {
                    let (z, slope) = logistic.logits(plain.clone())?;
                    let share = logistic.sigmoid(self.with_prior(tile, z)?)?;
                    d.combine(share, Binary::Multiply, &slope)?
                }
                None => {
                    let z = self.with_prior(tile, z.clone())?;
                    d.map(d.combine(z, Binary::Subtract, &shift)?, Map::Exp)?
                }
            };
            let mut g = d.combine(g, Binary::Multiply, &coefficient)?;
            if let Some(uniform) = &uniform {
                g = d.combine(g, Binary::Subtract, uniform)?;
            }
            g = self.filled(g, &self.masks(tile, &apart)?, 0.0)?;
            if let Some(hard) = &self.hard {
                let unshifted = self.unshifted(tile, plain.clone())?;
                let slope = self.slopes(hard, &unshifted)?;
                if by_norm {
                    let linear = d.combine(unshifted, Binary::Multiply, &slope)?;
                    let part = self.unshifted(tile, z)?;
                    let part = d.combine(part, Binary::Subtract, &linear)?;
                    let part = d.combine(part, Binary::Multiply, &g)?;
                    radial = Some(self.added(radial, d.reduce(&part, Reduce::Sum, 1)?)?);
                }
                g = d.combine(g, Binary::Multiply, &slope)?;
            }
            let products = match weights && self.normalized {
                true => {
                    let products = d.combine(plain, Binary::Multiply, &g)?;
                    let products = self.by_row(products, chosen.as_ref())?;
                    Some(d.reduce(&products, Reduce::Sum, 0)?)
                }
                false => None,
            };
            g = self.by_row(g, chosen.as_ref())?;
            let shifted = weights && self.rows.shift.is_some();
            let sums = shifted.then(|| d.reduce(&g, Reduce::Sum, 0)).transpose()?;
            if let Some(factor) = &rows.factor {
                g = d.combine(g, Binary::Multiply, factor)?;
            }
            if weights {
                let along = self.along(tile, products, sums.as_ref())?;
                let gradient = self.weight_rows(&g, &rows, along)?;
                let gradient = self.with_own(gradient, tile, (&own.rows, &own.weights))?;
                self.place(&mut dw, tile, gradient)?;
            }
            db.extend(sums);
            if embeddings {
                dx = Some(self.added(dx, d.product(&g, &rows.weights)?)?);
            }
        }
        let shift = (!db.is_empty()).then(|| d.cat(db, 1)).transpose()?;
        Ok(SecondSweep { embeddings: dx, radial, weights: dw, shift })
    }

    /// The logits of all classes (N, C), without margin.
    pub fn all_logits(&self, first: &FirstSweep<D::Matrix>) -> Result<D::Matrix, D::Error> {
        let tiles = self.tiles.iter().zip(&first.tiles);
        let logits =
            tiles.map(|(tile, norms)| Ok(self.logits(tile, &self.tile_rows(tile, norms)?)?.plain));
        self.device.cat(logits.collect::<Result<_, _>>()?, 1)
    }

    fn added(&self, sum: Option<D::Matrix>, part: D::Matrix) -> Result<D::Matrix, D::Error> {
        match sum {
            Some(sum) => self.device.combine(sum, Binary::Add, &part),
            None => Ok(part),
        }
    }

    /// Numbers of each class (N, classes) as those of the row that it takes (N, rows), 0 for others.
    fn by_row(
        &self,
        classes: D::Matrix,
        chosen: Option<&D::Matrix>,
    ) -> Result<D::Matrix, D::Error> {
        let Some(chosen) = chosen else { return Ok(classes) };
        let of_rows = self.device.repeat(&classes, self.rows.sub_centers)?;
        self.device.combine(of_rows, Binary::Multiply, chosen)
    }

    /// What normalized rows lose along themselves (rows, 1): without its shift, g·z is the product
    /// of a row with its gradient.
    fn along(
        &self,
        tile: &Tile,
        products: Option<D::Matrix>,
        sums: Option<&D::Matrix>,
    ) -> Result<Option<D::Matrix>, D::Error> {
        let (d, Some(mut products)) = (self.device, products) else { return Ok(None) };
        if let (Some(sums), Some(shift)) = (sums, self.shift(tile)?) {
            let shifted = d.combine(sums.clone(), Binary::Multiply, &shift)?;
            products = d.combine(products, Binary::Subtract, &shifted)?;
        }
        d.transposed(&products).map(Some)
    }

    /// Σ_i G_ij·a_i·u_i, less what lies `along` the rows where class weights are normalized.
    fn weight_rows(
        &self,
        g: &D::Matrix,
        rows: &TileRows<D::Matrix>,
        along: Option<D::Matrix>,
    ) -> Result<D::Matrix, D::Error> {
        let d = self.device;
        let mut gradient = d.product(&d.transposed(g)?, &self.embeddings)?;
        if let Some(mut along) = along {
            if let Some(factor) = &rows.factor {
                let squares = d.map(d.transposed(factor)?, Map::Square)?;
                along = d.combine(along, Binary::Multiply, &squares)?;
            }
            let lost = d.combine(rows.weights.clone(), Binary::Multiply, &along)?;
            gradient = d.combine(gradient, Binary::Subtract, &lost)?;
        }
        match &rows.divisor {
            Some(divisor) => d.combine(gradient, Binary::Divide, divisor),
            None => Ok(gradient),
        }
    }

    /// Adds what the samples' own classes add to the rows of a tile.
    fn with_own(
        &self,
        gradient: D::Matrix,
        tile: &Tile,
        (rows, weights): (&[usize], &Array2<D::Float>),
    ) -> Result<D::Matrix, D::Error> {
        let end = tile.first + tile.rows.len();
        let own = rows.partition_point(|row| *row < tile.first);
        let own = own..rows.partition_point(|row| *row < end);
        if own.is_empty() {
            return Ok(gradient);
        }
        let numbers: Vec<usize> = rows[own.clone()].iter().map(|row| row - tile.first).collect();
        let part = self.device.upload(weights.slice_axis(Axis(0), own.into()).to_owned())?;
        self.device.add_rows(gradient, &numbers, part)
    }

    /// Puts the rows of a tile into the gradient of its matrix.
    fn place(
        &self,
        matrices: &mut Vec<D::Matrix>,
        tile: &Tile,
        rows: D::Matrix,
    ) -> Result<(), D::Error> {
        let shape = self.device.shape(&self.rows.matrices[tile.matrix]);
        let whole = if tile.rows.len() == shape[0] {
            rows
        } else {
            // With no second handle the rows are written in place.
            let begun = if tile.rows.start == 0 { None } else { matrices.pop() };
            let begun = begun.map_or_else(|| self.device.zeros(shape), Ok)?;
            self.device.put_rows(begun, tile.rows.start, rows)?
        };
        matrices.push(whole);
        Ok(())
    }
}
