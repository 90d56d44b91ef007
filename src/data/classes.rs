//! The class weights of a step: all rows of a matrix or a selection of them, in any layout.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayViewMut1, ArrayViewMut2, Axis, s};

use super::form::Scale;
use super::rows::{View1, View2, extend, norm_of};
use crate::kernel::Real;

/// The active classes of a step, or some of them. They are numbered from 0 in the order of
/// their rows: class `j` is row `selected[j]` of the caller's matrix, or row `start + j`. A *label* is
/// the caller's number of a class. With sub-centers every so many rows in turn are those of one
/// label, and each row is a class of its own here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Classes<'a, F> {
    pub weights: View2<'a, F>,
    pub bias: Option<View1<'a, F>>,
    pub selected: Option<&'a [usize]>,
    /// Added to the logit of each class; not a parameter, so without a gradient.
    pub offsets: Option<&'a [F]>,
    /// The class prior, by label from `first` on: added to the logits in training, but not where
    /// they are compared without margin.
    pub log_prior: Option<View1<'a, F>>,
    /// The label of the caller's row 0; the others follow.
    pub first: usize,
    /// Rows of each label.
    pub sub_centers: usize,
    /// The caller's row that is the first of `weights` and `bias`.
    pub start: usize,
    /// Takes the place of the products, where it is known.
    pub given: Option<Given<'a, F>>,
    /// Whether `weights` holds the selected rows alone, side by side. Other parts than single rows
    /// are then not there to be read.
    pub gathered: bool,
}

/// The cosines of all embeddings of the batch with some classes (N, C).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a, F> {
    pub cosines: View2<'a, F>,
    /// The norms of the class weights. `None` where there are no vectors: embeddings and weights then
    /// have one dimension, and hold their norms.
    pub norms: Option<&'a [f64]>,
}

impl<'a, F: Real> Classes<'a, F> {
    /// All rows of `weights`, which hold the classes from label 0 on.
    pub fn all(weights: View2<'a, F>, bias: Option<View1<'a, F>>) -> Self {
        Classes {
            weights,
            bias,
            selected: None,
            offsets: None,
            log_prior: None,
            first: 0,
            sub_centers: 1,
            start: 0,
            given: None,
            gathered: false,
        }
    }

    /// The rows `selected` of matrices that are elsewhere, gathered in `weights`; `bias` is whole.
    pub fn gathered(
        weights: View2<'a, F>,
        bias: Option<View1<'a, F>>,
        selected: &'a [usize],
    ) -> Self {
        let selected = Some(selected);
        Classes { selected, gathered: true, ..Classes::all(weights, bias) }
    }

    pub fn len(&self) -> usize {
        self.selected.map_or(self.weights.nrows(), <[usize]>::len)
    }

    /// How many labels there are.
    pub fn labels(&self) -> usize {
        self.len() / self.sub_centers
    }

    /// The first of the classes with this label; `None` where it is not active.
    pub fn find(&self, label: usize) -> Option<usize> {
        let row = label.checked_sub(self.first)?.checked_mul(self.sub_centers)?;
        match self.selected {
            Some(selected) => selected.binary_search(&row).ok(),
            None => Some(row).filter(|row| *row < self.weights.nrows()),
        }
    }

    /// The norm of the weight of class `j` in f64.
    pub fn norm(&self, j: usize, buffer: &mut Vec<F>) -> f64 {
        let known = self.given.and_then(|given| given.norms);
        known.map_or_else(|| norm_of(self.weight(j), buffer), |norms| norms[j])
    }

    /// What multiplies the products of a class, whose weight has this norm, to logits.
    pub fn factor(&self, scale: Scale, norm: f64) -> F {
        let normalized = scale != Scale::Unnormalized;
        match self.given {
            None if normalized => F::narrow(norm.recip()),
            Some(_) if !normalized => F::narrow(norm),
            _ => F::one(),
        }
    }

    /// The row of the caller's matrix that holds class `j`.
    pub fn row_of(&self, j: usize) -> usize {
        self.selected.map_or(self.start + j, |selected| selected[j])
    }

    /// The rows of the caller's matrix from the first to the last of a range of classes, which is
    /// not empty.
    pub fn span(&self, range: &Range<usize>) -> Range<usize> {
        self.row_of(range.start)..self.row_of(range.end - 1) + 1
    }

    /// The classes of a range that is not empty, numbered from 0.
    pub fn part(&self, range: Range<usize>) -> Self {
        let span = self.span(&range);
        let rows = span.start - self.start..span.end - self.start;
        Classes {
            weights: self.weights.slice_move(s![rows.clone(), ..]),
            bias: self.bias.map(|bias| bias.slice_move(s![rows.clone()])),
            selected: self.selected.map(|selected| &selected[range.clone()]),
            offsets: self.offsets.map(|offsets| &offsets[range]),
            start: span.start,
            given: self.given.map(|Given { cosines, norms }| Given {
                cosines: cosines.slice_move(s![.., rows.clone()]),
                norms: norms.map(|norms| &norms[rows]),
            }),
            ..*self
        }
    }

    /// The label of class `j`.
    pub fn label_of(&self, j: usize) -> usize {
        self.first + self.row_of(j) / self.sub_centers
    }

    /// Which of the rows of its label class `j` is.
    pub fn sub_center_of(&self, j: usize) -> usize {
        self.row_of(j) % self.sub_centers
    }

    /// The weight of class `j`, as the caller laid it out.
    pub fn weight(&self, j: usize) -> ArrayView1<'a, F> {
        let row = if self.gathered { j } else { self.row_of(j) - self.start };
        self.weights.index_axis_move(Axis(0), row)
    }

    /// Whether anything is added to the logits.
    pub fn are_shifted(&self) -> bool {
        self.bias.is_some() || self.offsets.is_some()
    }

    /// The class prior of class `j`; 0 without.
    pub fn log_prior_of(&self, j: usize) -> F {
        let place = self.row_of(j) / self.sub_centers;
        self.log_prior.map_or(F::zero(), |prior| prior[place])
    }

    /// What is added to the logit of class `j`, apart from the class prior: its bias and its offset,
    /// 0 without them.
    pub fn bias_of(&self, j: usize) -> F {
        let bias = self.bias.map_or(F::zero(), |bias| bias[self.row_of(j) - self.start]);
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

    /// The class prior of a tile, where there is one.
    pub fn log_priors<'s>(&self, tile: Range<usize>, priors: &'s mut [F]) -> Option<&'s [F]> {
        self.log_prior?;
        Some(filled(priors, tile.map(|j| self.log_prior_of(j))))
    }

    /// What is added to the logits of a tile apart from the class prior, where anything is.
    pub fn biases<'s>(&self, tile: Range<usize>, biases: &'s mut [F]) -> Option<&'s [F]> {
        self.are_shifted().then(|| filled(biases, tile.map(|j| self.bias_of(j))))
    }
}

fn filled<F>(slots: &mut [F], values: impl Iterator<Item = F>) -> &[F] {
    slots.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
    slots
}

/// The same classes, whose parameters move.
pub(crate) struct ClassesMut<'a, F> {
    pub weights: ArrayViewMut2<'a, F>,
    pub bias: Option<ArrayViewMut1<'a, F>>,
    /// All else that is known of them, without weights and bias.
    pub known: Classes<'a, F>,
}

impl<'a, F: Real> ClassesMut<'a, F> {
    /// The classes as they are now.
    pub fn view(&self) -> Classes<'_, F> {
        let (weights, bias) = (self.weights.view(), self.bias.as_ref().map(|bias| bias.view()));
        Classes { weights, bias, ..self.known }
    }

    /// Splits before class `at`, which is there: the classes before it, and the others numbered
    /// from 0.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let known = self.known;
        let start = known.row_of(at);
        let row = start - known.start;
        let (weights, others) = self.weights.split_at(Axis(0), row);
        let (bias, other_bias) = self.bias.map(|bias| bias.split_at(Axis(0), row)).unzip();
        let (selected, other_selected) = known.selected.map(|all| all.split_at(at)).unzip();
        let (offsets, other_offsets) = known.offsets.map(|all| all.split_at(at)).unzip();
        let before = Classes { selected, offsets, ..known };
        let after = Classes { selected: other_selected, offsets: other_offsets, start, ..known };
        (
            ClassesMut { weights, bias, known: before },
            ClassesMut { weights: others, bias: other_bias, known: after },
        )
    }
}
