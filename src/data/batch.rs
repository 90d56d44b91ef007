//! What goes into a step.

use ndarray::{ArrayRef1, ArrayRef2, ArrayView1, ArrayView2};

use super::rows::{View1, View2};
use super::sample::ClassSample;
use crate::error::Error;
use crate::kernel::Real;

/// One batch, borrowed: embeddings, class weights and labels, and what else a step is to know.
///
/// Any strides are accepted: transposed, sliced and reversed views are read in place. Nothing is
/// checked here: the step checks everything together, in one order, and on ranks all of them return
/// the same error.
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Error, Head};
/// use ndarray::array;
///
/// let x = array![[1.0_f32, 2.0], [0.5, -1.0]];              // (N, D)
/// let w = array![[1.0_f32, 0.0], [0.0, 1.0], [1.0, 1.0]];   // (C, D)
/// let head = Head::new(ArcFace::default());
/// assert!(head.forward(&Batch::new(&x, &w, &[2, 1])).is_ok());
/// let refused = head.forward(&Batch::new(&x, &w, &[2, 3])).unwrap_err();
/// assert_eq!(refused, Error::Label { row: 1, label: 3, classes: 3 });
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, F> {
    pub(crate) embeddings: View2<'a, F>,
    pub(crate) weights: View2<'a, F>,
    pub(crate) bias: Option<View1<'a, F>>,
    pub(crate) log_prior: Option<View1<'a, F>>,
    pub(crate) samples: Samples<'a>,
}

/// What a batch says of its samples and classes beside their numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Samples<'a> {
    /// `None` in inference.
    pub labels: Option<&'a [usize]>,
    pub ignored: Option<usize>,
    /// Rows of each class.
    pub sub_centers: usize,
    /// The classes that are active, if not all.
    pub sample: Option<&'a ClassSample>,
    /// What the loss is told of the first sample: its row in a larger batch.
    pub first_row: usize,
}

impl<'a> Samples<'a> {
    pub fn new(labels: Option<&'a [usize]>) -> Self {
        Samples { labels, ignored: None, sub_centers: 1, sample: None, first_row: 0 }
    }
}

impl<'a, F: Real> Batch<'a, F> {
    /// A batch of N embeddings `x` (N, D) with `labels` (N) among C classes of weights `w` (C, D).
    /// On ranks `w` has the rows of this rank's classes alone, any number of them, even none, and
    /// the labels number the classes of all ranks. [`labels_from`](crate::labels_from) converts
    /// labels of other integer types.
    pub fn new(x: &'a ArrayRef2<F>, w: &'a ArrayRef2<F>, labels: &'a [usize]) -> Self {
        Self::from_views(x.view(), w.view(), Some(labels))
    }

    /// A batch without labels, for inference: [`Head::predict`](crate::Head::predict) and
    /// [`Head::top_k`](crate::Head::top_k). Every other step refuses it.
    pub fn unlabeled(x: &'a ArrayRef2<F>, w: &'a ArrayRef2<F>) -> Self {
        Self::from_views(x.view(), w.view(), None)
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
    /// [`Error::Shape`] where a slice does not hold whole rows.
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
        Ok(Self::from_views(x, w, Some(labels)))
    }

    fn from_views(
        embeddings: View2<'a, F>,
        weights: View2<'a, F>,
        labels: Option<&'a [usize]>,
    ) -> Self {
        let samples = Samples::new(labels);
        Batch { embeddings, weights, bias: None, log_prior: None, samples }
    }

    /// The same batch with a bias `b` (C), one entry per row of `w`, for the logits of Softmax. An
    /// angular loss returns [`Error::Bias`] when the step runs.
    pub fn with_bias(self, b: &'a ArrayRef1<F>) -> Self {
        Batch { bias: Some(b.view()), ..self }
    }

    /// The same batch with a class prior `p` (C), one entry per class, which is added to its logits in
    /// training: balanced softmax for p_j = log π_j with the share π_j of class j among the samples,
    /// logit adjustment for p_j = τ·log π_j. It takes away what the frequency of a class would teach
    /// the class weights.
    ///
    /// ```text
    /// L_i = −log( e^(z_iy + p_y) / Σ_j e^(z_ij + p_j) )     with the logits z of any loss
    /// ```
    ///
    /// It is no parameter and gets no gradient. Predictions, accuracy, margin-free losses,
    /// [`predict`](crate::Head::predict) and [`top_k`](crate::Head::top_k) are without it. On ranks
    /// `p` has the entries of this rank's classes, and every rank has one or none has. The step
    /// refuses another length with [`Error::Shape`], and an entry that is not finite, such as the
    /// logarithm of a count of 0, with [`Error::NonFinite`].
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.6, 0.8]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let log_prior = array![900.0_f64, 100.0].ln() - 1000.0_f64.ln();
    /// let head = Head::new(CosFace::new(4.0, 0.0)?);
    /// let of_the_rare = Batch::new(&x, &w, &[1]);
    /// let balanced = head.forward(&of_the_rare.with_log_prior(&log_prior))?;
    /// let plain = head.forward(&of_the_rare)?;
    /// assert!(balanced.mean() > plain.mean());
    /// assert_eq!(balanced.predictions(), [1]);
    /// assert_eq!(balanced.margin_free_losses(), plain.margin_free_losses());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Ren et al., *Balanced Meta-Softmax* (NeurIPS 2020), eq. 4; Menon et al.,
    /// *Long-tail learning via logit adjustment* (ICLR 2021), eq. 10.
    pub fn with_log_prior(self, p: &'a ArrayRef1<F>) -> Self {
        Batch { log_prior: Some(p.view()), ..self }
    }

    /// The same batch with K sub-centers per class: `w` has C·K rows, of which rows j·K to
    /// j·K + K − 1 belong to class j, and the cosine of an embedding with a class is that with the
    /// nearest of its rows. The gradient goes to that row alone.
    ///
    /// ```text
    /// cos θ_ij = max_k x_i·w_{jK+k} / (‖x_i‖·‖w_{jK+k}‖)
    /// ```
    ///
    /// Of equals the first row counts. For Softmax, whose logits are no cosines, the row with the
    /// largest logit is the nearest. [`Forward::sub_centers`](crate::Forward::sub_centers) tells
    /// which row each sample chose. The step refuses K = 0 with [`Error::Parameter`], and rows
    /// that are no multiple of K with [`Error::Shape`].
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]; // two classes, K = 2
    /// let x = array![[0.1, 2.0], [-3.0, 0.5]];
    /// let batch = Batch::new(&x, &w, &[0, 1]).with_sub_centers(2);
    /// let forward = Head::new(ArcFace::default()).forward(&batch)?;
    /// assert_eq!(forward.predictions(), [0, 1]);
    /// assert_eq!(forward.sub_centers(), [1, 0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// **Source**: Deng et al., *Sub-center ArcFace* (ECCV 2020), section 3.2; K = 3 there.
    pub fn with_sub_centers(self, k: usize) -> Self {
        Batch { samples: Samples { sub_centers: k, ..self.samples }, ..self }
    }

    /// The same batch without the samples of this label: their loss and gradient are 0, they count
    /// neither in the mean nor in the accuracy, and their prediction is
    /// [`IGNORED`](crate::IGNORED).
    ///
    /// `label` is the number of a class, or [`IGNORED`](crate::IGNORED), which no class has;
    /// [`labels_from_ignoring`](crate::labels_from_ignoring) turns the -1 or -100 of other
    /// libraries into it. Without this call a label [`IGNORED`](crate::IGNORED) is refused.
    pub fn with_ignored_label(self, label: usize) -> Self {
        Batch { samples: Samples { ignored: Some(label), ..self.samples }, ..self }
    }

    /// The same batch among the classes of `sample` alone (Partial FC): time and memory of a step
    /// depend on the number of sampled classes. `w` still holds all class weights, and labels and
    /// predictions number all classes; gradients of class weights and bias have the rows of the
    /// sample. On ranks each has a sample of its own classes.
    ///
    /// The gradient with respect to every row that was not drawn is exactly 0. A sample of classes of
    /// your own choice is made by [`ClassSample::of`](crate::sampling::ClassSample::of).
    ///
    /// ```
    /// use margin_softmax::sampling::ClassSampler;
    /// use margin_softmax::{Batch, CosFace, Gradients, Head, Reduction};
    /// use ndarray::{Array2, array};
    ///
    /// let w = Array2::from_shape_fn((100, 2), |(j, k)| (j as f64 + 1.5 * k as f64).sin());
    /// let (x, labels) = (array![[0.3, 1.0], [-0.8, 0.1]], [7, 31]);
    /// let sample = ClassSampler::new(100, 0.1, 42)?.sample(&labels)?;
    /// let batch = Batch::new(&x, &w, &labels).with_sample(&sample);
    /// let mut gradients = Gradients::zeros_for(&batch);
    /// Head::new(CosFace::default()).forward_backward(&batch, Reduction::Mean, &mut gradients)?;
    /// assert_eq!(gradients.weights.dim(), (10, 2)); // of rows `sample.classes` of w
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_sample(self, sample: &'a ClassSample) -> Self {
        Batch { samples: Samples { sample: Some(sample), ..self.samples }, ..self }
    }

    /// The same batch as a part of a larger one, whose row `first` its first sample is. A loss with
    /// margins by row, as [`ElasticFace`](crate::ElasticFace), gives each part margins of its own;
    /// to every other loss it makes no difference. Errors name the rows of this batch.
    ///
    /// ```
    /// use margin_softmax::{Batch, ElasticFace, Head};
    /// use ndarray::{array, concatenate, s, Axis};
    ///
    /// let (x, w) = (array![[1.0, 0.2], [0.4, 1.0], [0.9, -0.3]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let (labels, head) = ([0, 1, 0], Head::new(ElasticFace::arc(16.0, 0.5, 0.05, 7)?));
    /// let whole = head.forward(&Batch::new(&x, &w, &labels))?;
    /// let (first, rest) = (x.slice(s![..2, ..]), x.slice(s![2.., ..]));
    /// let first = head.forward(&Batch::new(&first, &w, &labels[..2]))?;
    /// let rest = head.forward(&Batch::new(&rest, &w, &labels[2..]).with_first_row(2))?;
    /// assert_eq!(concatenate![Axis(0), first.losses, rest.losses], whole.losses);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_first_row(self, first: usize) -> Self {
        Batch { samples: Samples { first_row: first, ..self.samples }, ..self }
    }

    /// The same batch for inference.
    pub(crate) fn without_labels(self) -> Self {
        Batch { samples: Samples { labels: None, ignored: None, ..self.samples }, ..self }
    }

    /// Rows of the gradient of the class weights: those of the sample, if there is one. No sample
    /// that a step accepts has more than all.
    pub(super) fn active_rows(&self) -> usize {
        let (Samples { sample, sub_centers, .. }, all) = (self.samples, self.weights.nrows());
        let of_sample = |sample: &ClassSample| sample.classes.len().saturating_mul(sub_centers);
        sample.map_or(all, |sample| of_sample(sample).min(all))
    }
}

/// Refuses a number of sub-centers that is 0.
pub(crate) fn check_sub_centers(k: usize) -> Result<usize, Error> {
    Error::check_parameter("sub-centers per class k", k as f64, ">= 1", k >= 1)?;
    Ok(k)
}

/// Refuses a number of sub-centers that does not fit `rows` of class weights; returns how many
/// classes there are.
pub(crate) fn check_rows_of_sub_centers(rows: usize, k: usize) -> Result<usize, Error> {
    let classes = rows / check_sub_centers(k)?;
    let expected = classes.max(1).saturating_mul(k);
    Error::check_shape("rows of class weights", &[expected], &[rows])?;
    Ok(classes)
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
