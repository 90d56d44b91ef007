use ndarray::ArrayRef2;

use crate::error::Error;
use crate::real::Real;
use crate::unit::unit_rows;

/// The cosines of the pairs `(i, j)` of rows of `x`, in their order, computed as those of
/// [`Verification::from_pairs`](crate::Verification::from_pairs): for
/// [`k_folds`](crate::k_folds) and other protocols over given pairs.
///
/// # Errors
/// [`Error::Empty`] for no embeddings or no pairs, [`Error::PairRow`] for a row that does not exist,
/// [`Error::NonFinite`] and [`Error::ZeroEmbedding`] for any row of `x`.
///
/// ```
/// use margin_softmax_evaluation::pair_cosines;
///
/// let x = ndarray::array![[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]];
/// assert_eq!(pair_cosines(&x, &[(0, 1), (0, 2)])?, [0.0, -1.0]);
/// # Ok::<(), margin_softmax_evaluation::Error>(())
/// ```
pub fn pair_cosines<F: Real>(
    x: &ArrayRef2<F>,
    pairs: &[(usize, usize)],
) -> Result<Vec<f64>, Error> {
    Error::check_not_empty("embeddings", x.shape())?;
    Error::check_not_empty("pairs", &[pairs.len()])?;
    let rows = x.nrows();
    for (position, &(i, j)) in pairs.iter().enumerate() {
        let row = i.max(j);
        if row >= rows {
            return Err(Error::PairRow { position, row, rows });
        }
    }
    let order: Vec<usize> = (0..rows).collect();
    let unit = unit_rows("embeddings", x, &order)?;
    let cosine = |&(i, j): &(usize, usize)| -> f64 { unit.row(i).dot(&unit.row(j)).as_() };
    Ok(pairs.iter().map(|pair| cosine(pair).clamp(-1.0, 1.0)).collect())
}
