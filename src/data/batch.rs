//! What goes into a step.

use ndarray::{ArrayRef1, ArrayRef2, ArrayView1, ArrayView2};

use super::labels::IGNORED;
use crate::error::Error;
use crate::kernel::Real;

/// One batch, borrowed: embeddings, class weights, labels, and a bias for Softmax.
///
/// Any strides are accepted: transposed, sliced and reversed views are read in place.
///
/// ```
/// use margin_softmax::{Batch, Error};
/// use ndarray::array;
///
/// let x = array![[1.0_f32, 2.0], [0.5, -1.0]];              // (N, D)
/// let w = array![[1.0_f32, 0.0], [0.0, 1.0], [1.0, 1.0]];   // (C, D)
/// assert!(Batch::new(&x, &w, &[2, 1]).is_ok());
/// let refused = Batch::new(&x, &w, &[2, 3]).unwrap_err();
/// assert_eq!(refused, Error::Label { row: 1, label: 3, classes: 3 });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, F> {
    pub(crate) embeddings: ArrayView2<'a, F>,
    pub(crate) weights: ArrayView2<'a, F>,
    pub(crate) labels: &'a [usize],
    pub(crate) bias: Option<ArrayView1<'a, F>>,
    pub(crate) ignored: Option<usize>,
    pub(crate) sub_centers: usize,
}

impl<'a, F: Real> Batch<'a, F> {
    /// A batch of N embeddings `x` (N, D) with `labels` (N) among C class weights `w` (C, D).
    /// [`labels_from`](crate::labels_from) converts labels of other integer types.
    ///
    /// # Errors
    /// [`Error::Empty`] for an empty axis, [`Error::Shape`] where the shapes do not agree,
    /// [`Error::Label`] for a label ≥ C other than [`IGNORED`]. Values are checked when the step
    /// runs.
    pub fn new(
        x: &'a ArrayRef2<F>,
        w: &'a ArrayRef2<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        Self::from_views(x.view(), w.view(), labels)
    }

    /// A batch from plain slices, row after row: N·`dims` numbers `x` for N `labels`, and C·`dims`
    /// numbers `w`.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    ///
    /// let x = [3.0_f32, 0.0, 0.5, 2.0];
    /// let w = [1.0_f32, 0.0, 0.0, 1.0, -1.0, 0.0];
    /// let batch = Batch::from_slices(&x, &w, &[0, 1], 2)?;
    /// assert_eq!(Head::new(ArcFace::default()).forward(&batch)?.accuracy(), 1.0);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Shape`] where a slice does not hold whole rows.
    pub fn from_slices(
        x: &'a [F],
        w: &'a [F],
        labels: &'a [usize],
        dims: usize,
    ) -> Result<Self, Error> {
        let shapes = check_slices(x.len(), w.len(), labels.len(), dims)?;
        let [x, w] = [(x, shapes[0]), (w, shapes[1])].map(|(values, shape)| {
            ArrayView2::from_shape(shape, values).expect("the length has been checked")
        });
        Self::from_views(x, w, labels)
    }

    fn from_views(
        embeddings: ArrayView2<'a, F>,
        weights: ArrayView2<'a, F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        check_views(&embeddings, &weights, labels)?;
        Ok(Batch { embeddings, weights, labels, bias: None, ignored: None, sub_centers: 1 })
    }

    /// The same batch with a bias `b` (C), one entry per row of `w`, for the logits of Softmax.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `b` has one entry per row. An angular loss returns
    /// [`Error::Bias`] when the step runs.
    pub fn with_bias(self, b: &'a ArrayRef1<F>) -> Result<Self, Error> {
        Error::check_shape("bias", &[self.weights.nrows()], b.shape())?;
        Ok(Batch { bias: Some(b.view()), ..self })
    }

    /// The same batch with K sub-centres per class: `w` has C·K rows, of which rows j·K to
    /// j·K + K − 1 belong to class j, and the cosine of an embedding with a class is that with the
    /// nearest of its rows. The gradient goes to that row alone.
    ///
    /// ```text
    /// cos θ_ij = max_k x_i·w_{jK+k} / (‖x_i‖·‖w_{jK+k}‖)
    /// ```
    ///
    /// Of equals the first row counts. For Softmax, whose logits are no cosines, the row with the
    /// largest logit is the nearest. [`Forward::sub_centers`](crate::Forward::sub_centers) tells
    /// which row each sample chose.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]; // two classes, K = 2
    /// let x = array![[0.1, 2.0], [-3.0, 0.5]];
    /// let batch = Batch::new(&x, &w, &[0, 1])?.with_sub_centers(2)?;
    /// let forward = Head::new(ArcFace::default()).forward(&batch)?;
    /// assert_eq!(forward.predictions(), [0, 1]);
    /// assert_eq!(forward.sub_centers(), [1, 0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Deng et al., *Sub-center ArcFace* (ECCV 2020), section 3.2; K = 3 there.
    ///
    /// # Errors
    /// [`Error::Parameter`] for K = 0, [`Error::Shape`] where the rows are no multiple of K, and
    /// [`Error::Label`] for a label ≥ C.
    pub fn with_sub_centers(self, k: usize) -> Result<Self, Error> {
        check_labels_of_sub_centers(self.labels, self.weights.nrows(), k)?;
        Ok(Batch { sub_centers: k, ..self })
    }

    /// The same batch without the samples of this label: their loss and gradient are 0, they count
    /// neither in the mean nor in the accuracy, and their prediction is [`IGNORED`].
    ///
    /// `label` is the number of a class, or [`IGNORED`], which no class has;
    /// [`labels_from_ignoring`](crate::labels_from_ignoring) turns the -1 or -100 of other
    /// libraries into it. Without this call a label [`IGNORED`] is refused when the step runs.
    pub fn with_ignored_label(self, label: usize) -> Self {
        Batch { ignored: Some(label), ..self }
    }
}

impl<F> Batch<'_, F> {
    /// How many classes there are; refuses labels that are none, but for the ignored one.
    pub(crate) fn classes(&self) -> Result<usize, Error> {
        let classes = self.weights.nrows() / self.sub_centers;
        Error::check_labels(self.labels, classes, self.ignored)?;
        Ok(classes)
    }

    /// The same batch with a shorter lifetime, to which ndarray's views do not coerce.
    pub(crate) fn reborrow(&self) -> Batch<'_, F> {
        Batch {
            embeddings: self.embeddings.view(),
            weights: self.weights.view(),
            labels: self.labels,
            bias: self.bias.as_ref().map(|bias| bias.view()),
            ignored: self.ignored,
            sub_centers: self.sub_centers,
        }
    }
}

/// Refuses embeddings, weights and labels that do not fit each other.
pub(super) fn check_views<F>(
    x: &ArrayRef2<F>,
    w: &ArrayRef2<F>,
    labels: &[usize],
) -> Result<(), Error> {
    check_matrices(x, w)?;
    Error::check_shape("labels", &[x.nrows()], &[labels.len()])?;
    Error::check_labels(labels, w.nrows(), Some(IGNORED))
}

/// Refuses a number of sub-centres that is 0.
pub(crate) fn check_sub_centers(k: usize) -> Result<usize, Error> {
    Error::check_parameter("sub-centres per class k", k as f64, ">= 1", k >= 1)?;
    Ok(k)
}

/// Refuses a number of sub-centres that does not fit `rows` of class weights; returns how many
/// classes there are.
pub(crate) fn check_rows_of_sub_centers(rows: usize, k: usize) -> Result<usize, Error> {
    let classes = rows / check_sub_centers(k)?;
    let expected = classes.max(1).saturating_mul(k);
    if rows != expected {
        let (expected, actual) = (vec![expected], vec![rows]);
        return Err(Error::Shape { argument: "rows of class weights", expected, actual });
    }
    Ok(classes)
}

/// Refuses a number of sub-centres that does not fit `rows` of class weights, and labels that do
/// not fit the classes.
pub(super) fn check_labels_of_sub_centers(
    labels: &[usize],
    rows: usize,
    k: usize,
) -> Result<(), Error> {
    Error::check_labels(labels, check_rows_of_sub_centers(rows, k)?, Some(IGNORED))
}

/// The shapes of embeddings and class weights in slices of these lengths, which must hold whole
/// rows.
pub(super) fn check_slices(
    x: usize,
    w: usize,
    samples: usize,
    dims: usize,
) -> Result<[(usize, usize); 2], Error> {
    let shape = |argument: &'static str, values: usize, rows: usize| {
        if rows.checked_mul(dims) == Some(values) {
            return Ok((rows, dims));
        }
        Err(Error::Shape { argument, expected: vec![rows, dims], actual: vec![values] })
    };
    let classes = w.checked_div(dims).unwrap_or_default();
    Ok([shape("embeddings", x, samples)?, shape("class weights", w, classes)?])
}

/// Refuses embeddings and weights that are empty or of different dimensions.
pub(crate) fn check_matrices<F>(x: &ArrayRef2<F>, w: &ArrayRef2<F>) -> Result<(), Error> {
    Error::check_not_empty("embeddings", x.shape())?;
    Error::check_not_empty("class weights", w.shape())?;
    Error::check_shape("class weights", &[w.nrows(), x.ncols()], w.shape())
}

/// How the losses of a batch become the objective whose gradient is taken.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Reduction<'a, F> {
    /// The mean over the samples that count: 1/N · Σ_i L_i.
    Mean,
    /// The sum over the samples: Σ_i L_i.
    Sum,
    /// ∂objective/∂L_i for each sample (N): per-sample weights, upstream gradients, or their
    /// product. Nothing is divided by N.
    Weighted(&'a ArrayRef1<F>),
}

impl<F: Real> Reduction<'_, F> {
    /// Refuses weights that are not one finite number for each of `samples`.
    pub(crate) fn check(&self, samples: usize) -> Result<(), Error> {
        let Reduction::Weighted(weights) = self else { return Ok(()) };
        Error::check_shape("reduction weights", &[samples], weights.shape())?;
        check_finite("reduction weights", &weights.view())
    }

    /// g_i = ∂objective/∂L_i, where `counted` samples have a loss.
    pub(crate) fn weight(&self, sample: usize, counted: usize) -> f64 {
        match self {
            Reduction::Mean => 1.0 / counted as f64,
            Reduction::Sum => 1.0,
            Reduction::Weighted(weights) => weights[sample].widen(),
        }
    }
}

/// Refuses a vector with an entry that is not finite.
pub(crate) fn check_finite<F: Real>(
    argument: &'static str,
    values: &ArrayView1<'_, F>,
) -> Result<(), Error> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(row) => Err(Error::NonFinite { argument, row, column: 0, value: values[row].widen() }),
        None => Ok(()),
    }
}
