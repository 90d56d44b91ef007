//! Rows of a matrix in any layout, and their norms.

use ndarray::{ArrayBase, ArrayView1, Ix1, Ix2, ViewRepr};

use crate::error::Error;
use crate::kernel::{self, Real};

/// ndarray's `ArrayView1`, and [`View2`] its `ArrayView2`, with the element type named once more: a
/// struct with such a field is covariant in its lifetime, so that a copy of it may borrow for less
/// long, which one with those is not.
pub(crate) type View1<'a, F> = ArrayBase<ViewRepr<&'a F>, Ix1, F>;
pub(crate) type View2<'a, F> = ArrayBase<ViewRepr<&'a F>, Ix2, F>;

/// Appends a row, whatever its stride.
pub(super) fn extend<F: Real>(buffer: &mut Vec<F>, row: ArrayView1<'_, F>) {
    match row.to_slice() {
        Some(row) => buffer.extend_from_slice(row),
        None => buffer.extend(row.iter()),
    }
}

/// A row as a slice: in place where it is one, else copied to `buffer`.
pub(crate) fn contiguous<'s, F: Real>(row: ArrayView1<'s, F>, buffer: &'s mut Vec<F>) -> &'s [F] {
    match row.to_slice() {
        Some(row) => row,
        None => {
            buffer.clear();
            extend(buffer, row);
            buffer
        }
    }
}

/// The norm of a row in any layout; NaN where an entry is not finite.
pub(crate) fn norm_of<F: Real>(row: ArrayView1<'_, F>, buffer: &mut Vec<F>) -> f64 {
    kernel::norm(contiguous(row, buffer))
}

/// Whether a row of this norm can be normalized: neither its inverse norm nor a gradient divided by
/// its norm leaves the range of the number type.
pub(crate) fn has_direction<F: Real>(norm: f64) -> bool {
    (F::MIN_NORM..=F::MAX_NORM).contains(&norm)
}

/// Refuses an embedding whose norm is beyond the number type, in which it is reported. Its entries
/// are finite.
pub(crate) fn check_reported_norm<F: Real>(row: usize, norm: f64) -> Result<(), Error> {
    let (argument, minimum, maximum) = ("embeddings", 0.0, F::MAX);
    if norm <= maximum {
        return Ok(());
    }
    Err(Error::DegenerateNorm { argument, row, norm, minimum, maximum })
}

/// Refuses row `row` of `argument` unless its entries are finite and, where it `needs_direction`,
/// its norm can be divided by. Returns the norm.
pub(crate) fn check_norm<F: Real>(
    argument: &'static str,
    row: usize,
    values: ArrayView1<'_, F>,
    norm: f64,
    needs_direction: bool,
) -> Result<f64, Error> {
    if has_direction::<F>(norm) || (!needs_direction && norm.is_finite()) {
        return Ok(norm);
    }
    let (minimum, maximum) = (F::MIN_NORM, F::MAX_NORM);
    Err(match values.iter().position(|v| !v.is_finite()) {
        Some(column) => Error::NonFinite { argument, row, column, value: values[column].widen() },
        None => Error::DegenerateNorm { argument, row, norm, minimum, maximum },
    })
}

/// An empty list with room for `count` entries; `parameter` names their number, which may be any.
pub(crate) fn room_for<T>(parameter: &'static str, count: usize) -> Result<Vec<T>, Error> {
    let mut entries = Vec::new();
    let valid = entries.try_reserve_exact(count).is_ok();
    Error::check_parameter(parameter, count as f64, "so small that they fit into memory", valid)?;
    Ok(entries)
}
