//! Updates of class weights and bias by their gradients.
//!
//! The state of an update belongs to rows. An update works on disjoint ranges of rows at a time, so
//! that a step can hand it a few rows as soon as their gradient is known, on any thread.

mod adamw;
mod apply;
mod optimizer;
mod rules;
mod sgd;
mod state;
#[cfg(feature = "serde")]
mod stored;
mod updater;

use std::fmt::Debug;
use std::ops::Range;

use ndarray::{ArrayRef1, ArrayRef2, ArrayView1, ArrayViewMut1, Axis};

pub use adamw::AdamW;
use apply::{Begin, Input, apply};
pub use sgd::Sgd;

use crate::error::Error;
use crate::kernel::Real;

/// What turns the gradient of class weights and bias into their new values, with a state per row.
///
/// ```text
/// (w_j, state_j) ← update(w_j, ∂L/∂w_j, state_j)          for every active row j
/// ```
///
/// A row's update depends on nothing but this row, its gradient and its state. Hence:
///
/// - A row that is not active keeps its weights and its state, bit for bit. It is not decayed, and
///   its momentum does not move it. The docs of [`Sgd`] and [`AdamW`] state how that differs from a
///   dense optimizer.
/// - All rows by [`apply_rows`](Self::apply_rows) and [`apply`](Self::apply) give the same bits.
/// - The bits depend neither on the number of threads nor on the CPU's vector instructions: each
///   number is computed in `f64`, without fused operations, and rounded once to `F`.
///
/// The first call gives the state its shape: that of the class weights (C, D), or of the rows of
/// one rank. The bias (C) has a state of its own. One update belongs to one pair of class weights
/// and bias; for other hyper-parameters of the bias, such as no weight decay, give it an update of
/// its own.
///
/// **Errors**: every method returns, with parameters and state unchanged,
///
/// - [`Error::Shape`] for a gradient of another shape, and for class weights or a bias of another
///   shape than the state,
/// - [`Error::Empty`] for rows without entries; a matrix without rows is accepted,
/// - [`Error::NonFinite`] for a number that is NaN or infinite,
/// - [`Error::Rows`] for row numbers that do not ascend, occur twice or are too high,
/// - [`Error::Overflow`] where a new value may exceed the largest number of `F`.
///
/// Two methods are required. [`check`](Self::check) refuses what the state or the numbers of a step
/// do not allow. [`begin`](Self::begin) prepares a step that passed, and splits the state into
/// updaters of ranges of rows, which the other methods call, and
/// [`Head::step`](crate::Head::step).
///
/// ```
/// use margin_softmax::Sgd;
/// use margin_softmax::update::WeightUpdate;
/// use ndarray::array;
///
/// let mut w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
/// let mut update = Sgd::new(0.5)?.with_momentum(0.9)?;
/// update.apply(&mut w, &array![[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])?;
/// assert_eq!(w, array![[1.0, -0.5], [-0.5, 1.0], [-1.0, 0.0]]);
///
/// // Only row 2 is active; row 0 and row 1 keep their momentum for later.
/// update.apply_rows(&mut w, &[2], &array![[2.0, 0.0]])?;
/// assert_eq!(w, array![[1.0, -0.5], [-0.5, 1.0], [-2.0, 0.0]]);
/// # Ok::<(), margin_softmax::Error>(())
/// ```
pub trait WeightUpdate<F: Real>: Debug + Send {
    /// Refuses what [`begin`](Self::begin) would refuse, and changes nothing: ranks that hold
    /// parts of the class weights ask all updates before any begins.
    ///
    /// # Errors
    /// As the trait. [`Error::Overflow`] is found from the magnitudes in `step`.
    fn check(&self, step: &UpdateStep<'_>) -> Result<(), Error>;

    /// Prepares a step and returns one updater for each of its ranges of rows, in their order.
    ///
    /// Everything that can be refused is refused here, as by [`check`](Self::check); the updaters
    /// cannot fail. They are independent: they may run on different threads, and a row's bits do not
    /// depend on how the rows are split. A row is updated once or, if it is not active, not at all.
    ///
    /// ```
    /// use margin_softmax::Sgd;
    /// use margin_softmax::update::{Magnitudes, UpdateStep, WeightUpdate};
    /// use ndarray::array;
    ///
    /// let mut w = array![[1.0], [2.0], [3.0]];
    /// let mut update = Sgd::new(1.0)?.with_momentum(0.9)?;
    /// let step = UpdateStep {
    ///     shape: (3, 1),
    ///     chunks: &[0..1, 1..3],
    ///     weights: Some(Magnitudes { value: 3.0, gradient: 0.5 }),
    ///     bias: None,
    /// };
    /// let mut updaters = update.begin(&step)?;
    /// updaters[0].update_row(0, w.row_mut(0), array![0.5].view());
    /// updaters[1].update_row(2, w.row_mut(2), array![-0.5].view());
    /// assert_eq!(w, array![[0.5], [2.0], [3.5]]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`check`](Self::check); nothing has changed then.
    fn begin<'s>(
        &'s mut self,
        step: &UpdateStep<'_>,
    ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error>;

    /// Updates class weights `w` (C, D) by their `gradient` (C, D), in any layout.
    ///
    /// # Errors
    /// As the trait.
    fn apply(&mut self, w: &mut ArrayRef2<F>, gradient: &ArrayRef2<F>) -> Result<(), Error> {
        check_entries(w.dim())?; // before the rows are listed: there may be any number of empty ones
        self.apply_rows(w, &Vec::from_iter(0..w.nrows()), gradient)
    }

    /// Updates the rows `rows` (S), ascending, of class weights `w` (C, D) by the `gradient` (S, D)
    /// of these rows. `rows` are the [`rows`](crate::sampling::ClassSample::rows) of a sample,
    /// `gradient` the [`weights`](crate::Gradients::weights) of the gradients of a batch with it.
    ///
    /// # Errors
    /// As the trait.
    fn apply_rows(
        &mut self,
        w: &mut ArrayRef2<F>,
        rows: &[usize],
        gradient: &ArrayRef2<F>,
    ) -> Result<(), Error> {
        let (values, gradient) = (w.view_mut(), gradient.view());
        let begin: Box<Begin<'_, F>> = Box::new(move |step| self.begin(step));
        apply(Input { begin, is_bias: false, values, rows, gradient })
    }

    /// Updates a bias `b` (C) by its `gradient` (C), in any layout. The hyper-parameters are those
    /// of the class weights, weight decay included.
    ///
    /// # Errors
    /// As the trait.
    fn apply_bias(&mut self, b: &mut ArrayRef1<F>, gradient: &ArrayRef1<F>) -> Result<(), Error> {
        self.apply_bias_rows(b, &Vec::from_iter(0..b.len()), gradient)
    }

    /// Updates the entries `rows` (S), ascending, of a bias `b` (C) by the `gradient` (S) of these
    /// entries.
    ///
    /// # Errors
    /// As the trait.
    fn apply_bias_rows(
        &mut self,
        b: &mut ArrayRef1<F>,
        rows: &[usize],
        gradient: &ArrayRef1<F>,
    ) -> Result<(), Error> {
        let values = b.view_mut().insert_axis(Axis(1));
        let gradient = gradient.view().insert_axis(Axis(1));
        let begin: Box<Begin<'_, F>> = Box::new(move |step| self.begin(step));
        apply(Input { begin, is_bias: true, values, rows, gradient })
    }
}

/// Updates rows of one range; [`WeightUpdate::begin`] makes it.
pub trait RowUpdate<F: Real>: Send {
    /// Updates `weights` (D), which are row `row` of the class weights, by their `gradient` (D).
    ///
    /// # Panics
    /// If `row` lies outside the range of this updater, a length is not D, or the step has no class
    /// weights.
    fn update_row(
        &mut self,
        row: usize,
        weights: ArrayViewMut1<'_, F>,
        gradient: ArrayView1<'_, F>,
    );

    /// Updates entry `row` of the bias by its `gradient`.
    ///
    /// # Panics
    /// If `row` lies outside the range of this updater, or the step has no bias.
    fn update_bias(&mut self, row: usize, bias: &mut F, gradient: F);
}

/// What is updated in a step of a [`WeightUpdate`].
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateStep<'a> {
    /// The shape (C, D) of the class weights.
    pub shape: (usize, usize),
    /// Disjoint ranges of rows, ascending; rows outside them are not active.
    pub chunks: &'a [Range<usize>],
    /// The magnitudes of the class weights, where they are updated.
    pub weights: Option<Magnitudes>,
    /// The magnitudes of the bias, where it is updated.
    pub bias: Option<Magnitudes>,
}

/// Bounds on the absolute values of the numbers in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Magnitudes {
    /// No parameter exceeds it.
    pub value: f64,
    /// No entry of the gradient exceeds it.
    pub gradient: f64,
}

macro_rules! through_pointer {
    ($($pointer:ty),*) => {$(
        impl<F: Real, U: WeightUpdate<F> + ?Sized> WeightUpdate<F> for $pointer {
            fn check(&self, step: &UpdateStep<'_>) -> Result<(), Error> {
                (**self).check(step)
            }

            fn begin<'s>(
                &'s mut self,
                step: &UpdateStep<'_>,
            ) -> Result<Vec<Box<dyn RowUpdate<F> + 's>>, Error> {
                (**self).begin(step)
            }
        }
    )*};
}

through_pointer!(&mut U, Box<U>);

impl UpdateStep<'_> {
    /// Refuses rows without entries, more of them than any memory holds, and ranges that overlap, do
    /// not ascend or end too late.
    fn check<F: Real>(&self) -> Result<(), Error> {
        check_entries(self.shape)?;
        let (rows, dims) = self.shape;
        let most = isize::MAX as usize / size_of::<F>();
        let valid = rows.checked_mul(dims).is_some_and(|entries| entries <= most);
        let (entries, expected) = (rows as f64 * dims as f64, "so small that they fit into memory");
        Error::check_parameter("number of class weights", entries, expected, valid)?;
        let mut least = 0;
        for (position, range) in self.chunks.iter().enumerate() {
            let row = match range {
                range if range.start < least => range.start,
                range if range.end < range.start => range.end,
                range if range.end > rows => range.end - 1,
                range => {
                    least = range.end;
                    continue;
                }
            };
            return Err(Error::Rows { argument: "chunks", position, row, rows });
        }
        Ok(())
    }
}

/// Refuses rows without entries.
fn check_entries((rows, dims): (usize, usize)) -> Result<(), Error> {
    if dims == 0 {
        return Err(Error::Empty { argument: "class weights", actual: vec![rows, dims] });
    }
    Ok(())
}
