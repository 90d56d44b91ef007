//! One matrix, in every layout a caller may hand over.

use margin_softmax::Real;
use ndarray::{Array2, s};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    Standard,
    Transposed,
    /// Both axes run backwards.
    Reversed,
    /// Every second row and third column of a larger matrix, from an offset on; NaN between.
    Strided,
}

pub const LAYOUTS: [Layout; 4] =
    [Layout::Standard, Layout::Transposed, Layout::Reversed, Layout::Strided];

/// The same entries in another layout.
pub fn lay_out<F: Real>(matrix: &Array2<F>, layout: Layout) -> Array2<F> {
    let (rows, columns) = matrix.dim();
    match layout {
        Layout::Standard => matrix.as_standard_layout().into_owned(),
        Layout::Transposed => matrix.t().as_standard_layout().into_owned().reversed_axes(),
        Layout::Reversed => {
            let mut out = matrix.slice(s![..;-1, ..;-1]).as_standard_layout().into_owned();
            out.invert_axis(ndarray::Axis(0));
            out.invert_axis(ndarray::Axis(1));
            out
        }
        Layout::Strided => {
            let base = Array2::from_elem((2 * rows + 1, 3 * columns + 2), F::nan());
            let mut out = base.slice_move(s![1..;2, 2..;3]);
            out.assign(matrix);
            out
        }
    }
}
