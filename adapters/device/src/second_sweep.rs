//! The second sweep over the classes: from the logits to gradients, tile by tile.

use margin_softmax::offload::{OffloadedBackward, TargetGradients};
use ndarray::{Array2, Axis};

use crate::first_sweep::FirstSweep;
use crate::operations::{Binary, Map, Operations, Reduce};
use crate::tiles::{Logits, Sweeps, Tile, TileRows, column};

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

impl<D: Operations> Sweeps<'_, D> {
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
