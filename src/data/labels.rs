//! Conversion of labels of any integer type.

use num_traits::PrimInt;

use crate::error::Error;

/// The label of samples to leave out, for `batch.with_ignored_label(IGNORED)`. It is also the
/// prediction of every sample that was left out.
pub const IGNORED: usize = usize::MAX;

/// Labels of any integer type as class numbers.
///
/// ```
/// use margin_softmax::{Error, labels_from};
///
/// assert_eq!(labels_from(&[2_i64, 0, 1])?, [2, 0, 1]);
/// assert_eq!(labels_from(&[3_i64, -1]).unwrap_err(), Error::LabelValue { row: 1, label: -1 });
/// # Ok::<(), Error>(())
/// ```
///
/// # Errors
/// [`Error::LabelValue`] for a label that is negative or does not fit `usize`. Whether a label is
/// below the number of classes is checked where the classes are known.
pub fn labels_from<T: PrimInt>(labels: &[T]) -> Result<Vec<usize>, Error> {
    convert(labels, None)
}

/// As [`labels_from`], with `ignored` (-1 or -100 in other libraries) read as [`IGNORED`].
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Head, IGNORED, labels_from_ignoring};
/// use ndarray::array;
///
/// let labels = labels_from_ignoring(&[1_i64, -1], -1)?;
/// assert_eq!(labels, [1, IGNORED]);
///
/// let (x, w) = (array![[0.0, 2.0], [5.0, 1.0]], array![[1.0, 0.0], [0.0, 1.0]]);
/// let batch = Batch::new(&x, &w, &labels).with_ignored_label(IGNORED);
/// let forward = Head::new(ArcFace::default()).forward(&batch)?;
/// assert_eq!((forward.accuracy(), forward.losses[1]), (1.0, 0.0));
/// # Ok::<(), margin_softmax::Error>(())
/// ```
///
/// # Errors
/// As [`labels_from`], for the other labels.
pub fn labels_from_ignoring<T: PrimInt>(labels: &[T], ignored: T) -> Result<Vec<usize>, Error> {
    convert(labels, Some(ignored))
}

fn convert<T: PrimInt>(labels: &[T], ignored: Option<T>) -> Result<Vec<usize>, Error> {
    let convert = |(row, &label): (usize, &T)| {
        if Some(label) == ignored {
            return Ok(IGNORED);
        }
        // No integer has more than 128 bits; a u128 above the largest i128 is shown as that.
        let refused = || Error::LabelValue { row, label: label.to_i128().unwrap_or(i128::MAX) };
        label.to_usize().filter(|&label| label != IGNORED).ok_or_else(refused)
    };
    labels.iter().enumerate().map(convert).collect()
}
