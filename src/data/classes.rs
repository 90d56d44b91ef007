//! The class weights of a step: all rows of a matrix or a selection of them, in any layout.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, Axis};

use super::rows::extend;
use crate::kernel::Real;

/// The classes that take part in a step. They are numbered from 0 in the order of their rows:
/// class `j` is row `selected[j]`, or row `j`. A *label* is the caller's number of a class.
#[derive(Clone, Copy)]
pub(crate) struct Classes<'a, F> {
    pub weights: ArrayView2<'a, F>,
    pub bias: Option<ArrayView1<'a, F>>,
    pub selected: Option<&'a [usize]>,
    /// Added to the logit of each class; not a parameter, so without a gradient.
    pub offsets: Option<&'a [F]>,
    /// The label of row 0; the others follow.
    pub first: usize,
}

impl<'a, F: Real> Classes<'a, F> {
    /// All rows of `weights`, which hold the classes from label 0 on.
    pub fn all(weights: ArrayView2<'a, F>, bias: Option<ArrayView1<'a, F>>) -> Self {
        Classes { weights, bias, selected: None, offsets: None, first: 0 }
    }

    pub fn len(&self) -> usize {
        self.selected.map_or(self.weights.nrows(), <[usize]>::len)
    }

    /// The class with this label; `None` where it does not take part.
    pub fn find(&self, label: usize) -> Option<usize> {
        let row = label.checked_sub(self.first).filter(|&row| row < self.weights.nrows())?;
        match self.selected {
            Some(selected) => selected.binary_search(&row).ok(),
            None => Some(row),
        }
    }

    /// The row of the caller's matrix that holds class `j`.
    pub fn row_of(&self, j: usize) -> usize {
        self.selected.map_or(j, |selected| selected[j])
    }

    /// The label of class `j`.
    pub fn label_of(&self, j: usize) -> usize {
        self.first + self.row_of(j)
    }

    /// The weight of class `j`, as the caller laid it out.
    pub fn weight(&self, j: usize) -> ArrayView1<'a, F> {
        self.weights.index_axis_move(Axis(0), self.row_of(j))
    }

    /// Whether anything is added to the logits.
    pub fn are_shifted(&self) -> bool {
        self.bias.is_some() || self.offsets.is_some()
    }

    /// What is added to the logit of class `j`: its bias and its offset, 0 without them.
    pub fn bias_of(&self, j: usize) -> F {
        let bias = self.bias.map_or(F::zero(), |bias| bias[self.row_of(j)]);
        bias + self.offsets.map_or(F::zero(), |offsets| offsets[j])
    }

    /// The weights of a tile, row after row: in place where they lie so, else copied to `packed`.
    pub fn tile<'s>(&'s self, tile: Range<usize>, packed: &'s mut Vec<F>) -> &'s [F] {
        if let (None, Some(all)) = (self.selected, self.weights.to_slice()) {
            let dims = self.weights.ncols();
            return &all[tile.start * dims..tile.end * dims];
        }
        packed.clear();
        for j in tile {
            extend(packed, self.weight(j));
        }
        packed
    }
}
