//! Embeddings checked, normalized and sorted by identity.

use ndarray::{Array2, ArrayRef2, ArrayView1};
use rayon::prelude::*;

use crate::error::Error;
use crate::labels::{Labels, Sorted};
use crate::real::Real;

/// Unit rows, those of one identity next to each other: the genuine pairs of a row are a range.
pub(crate) struct UnitRows<F> {
    /// Unit vectors (M, D), by place.
    pub rows: Array2<F>,
    /// The place of every row.
    pub sorted: Sorted,
}

impl<F: Real> UnitRows<F> {
    /// Checks every row. The names are those of the arguments in errors: the embeddings, their
    /// identities, their groups.
    pub fn new(
        [argument, identities, groups]: [&'static str; 3],
        x: &ArrayRef2<F>,
        labels: Labels<'_>,
    ) -> Result<Self, Error> {
        Error::check_not_empty(argument, x.shape())?;
        labels.check([identities, groups], x.nrows())?;
        let sorted = labels.sorted();
        Ok(UnitRows { rows: unit_rows(argument, x, &sorted.order)?, sorted })
    }
}

/// The rows of `x` in this order, divided by their norms. The error names the first bad row.
pub(crate) fn unit_rows<F: Real>(
    argument: &'static str,
    x: &ArrayRef2<F>,
    order: &[usize],
) -> Result<Array2<F>, Error> {
    let mut unit = Array2::zeros((order.len(), x.ncols()));
    let refused = unit
        .as_slice_mut()
        .unwrap_or_default()
        .par_chunks_mut(x.ncols())
        .zip(order)
        .filter_map(|(out, &row)| Some((row, normalize(argument, row, x.row(row), out).err()?)))
        .min_by_key(|&(row, _)| row);
    refused.map_or(Ok(unit), |(_, error)| Err(error))
}

/// Writes `x / ‖x‖` to `out`. The norm is computed in f64 from the entries divided by the largest,
/// so that no square over- or underflows.
fn normalize<F: Real>(
    argument: &'static str,
    row: usize,
    x: ArrayView1<'_, F>,
    out: &mut [F],
) -> Result<(), Error> {
    let values = || x.iter().map(|&value| -> f64 { value.as_() });
    if let Some(column) = values().position(|value| !value.is_finite()) {
        return Err(Error::NonFinite { argument, row, column, value: x[column].as_() });
    }
    let largest = values().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if largest == 0.0 {
        return Err(Error::ZeroEmbedding { argument, row });
    }
    let norm = values().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt();
    for (out, value) in out.iter_mut().zip(values()) {
        *out = F::narrow(value / largest / norm);
    }
    Ok(())
}

/// The largest error of a cosine of two such rows of `dims` entries.
///
/// The norm's sum has a relative error of at most `(D + 3)·2⁻⁵³`, half of which is in its root; two
/// divisions and the rounding to F follow, for each of the two vectors. A sum of D products in any
/// order has an error of at most `γ_D·Σ|u_k·v_k| ≤ γ_D`, `γ_D = D·ε / (1 − D·ε)`.
pub(crate) fn cosine_error<F: Real>(dims: usize) -> f64 {
    let (dims, roundoff) = (dims as f64, F::UNIT_ROUNDOFF);
    let per_row = 0.5 * (dims + 7.0) * f64::UNIT_ROUNDOFF + roundoff;
    let sum = dims * roundoff / (1.0 - dims * roundoff).max(f64::MIN_POSITIVE);
    // Second-order terms are below a tenth while the bound is below 0.1, and cosines are clamped.
    (1.1 * (2.0 * per_row + sum)).min(2.0)
}

/// Refuses queries or probes that are the gallery itself: the same rows with the same identities.
pub(crate) fn check_not_gallery<F: Real>(
    argument: &'static str,
    (x, identities): (&ArrayRef2<F>, &[usize]),
    (gallery, gallery_identities): (&ArrayRef2<F>, &[usize]),
) -> Result<(), Error> {
    if identities == gallery_identities && x == gallery {
        return Err(Error::SameSet { argument, rows: x.nrows() });
    }
    Ok(())
}
