//! Where a step writes its gradients.

use ndarray::{Array1, Array2};

use super::batch::Batch;
use crate::error::Error;
use crate::kernel::Real;

/// Gradients with respect to everything that a batch holds; a step overwrites them. Of a sampled
/// batch those of class weights and bias have the rows of the sample.
///
/// An empty array of embeddings or class weights is not requested: nothing is computed or
/// multiplied for it. [`embeddings_only`](Self::embeddings_only) and
/// [`weights_only`](Self::weights_only) make such gradients.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gradients<F> {
    /// With respect to the embeddings (N, D).
    pub embeddings: Array2<F>,
    /// With respect to the class weights (C, D).
    pub weights: Array2<F>,
    /// With respect to the bias (C), where the batch has one.
    pub bias: Option<Array1<F>>,
}

impl<F: Real> Gradients<F> {
    /// Zeros in the shapes of `batch`.
    pub fn zeros_for(batch: &Batch<'_, F>) -> Self {
        let embeddings = Array2::zeros(batch.embeddings.dim());
        Gradients { embeddings, ..Self::weights_only(batch) }
    }

    /// For frozen class weights: the gradient of the embeddings alone.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Gradients, Head, Reduction};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// let batch = Batch::new(&x, &w, &[0]);
    /// let mut all = Gradients::zeros_for(&batch);
    /// let mut part = Gradients::embeddings_only(&batch);
    /// let head = Head::new(ArcFace::default());
    /// head.forward_backward(&batch, Reduction::Mean, &mut all)?;
    /// head.forward_backward(&batch, Reduction::Mean, &mut part)?;
    /// assert_eq!(part.embeddings, all.embeddings);
    /// assert!(part.weights.is_empty());
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn embeddings_only(batch: &Batch<'_, F>) -> Self {
        let weights = Array2::zeros((0, batch.weights.ncols()));
        Gradients { embeddings: Array2::zeros(batch.embeddings.dim()), weights, bias: None }
    }

    /// For a frozen network: the gradients of class weights and bias alone.
    pub fn weights_only(batch: &Batch<'_, F>) -> Self {
        Gradients {
            embeddings: Array2::zeros((0, batch.embeddings.ncols())),
            weights: Array2::zeros((batch.active_rows(), batch.weights.ncols())),
            bias: batch.bias.map(|_| Array1::zeros(batch.active_rows())),
        }
    }

    /// Refuses gradients that are not in the shapes of a batch of `embeddings` and `classes`
    /// classes, with a bias or without. The gradient of the bias is requested together with that of
    /// the class weights.
    pub(crate) fn check(
        &self,
        (rows, dims): (usize, usize),
        classes: usize,
        bias: bool,
    ) -> Result<(), Error> {
        let Gradients { embeddings, weights, bias: of_bias } = self;
        if !embeddings.is_empty() {
            Error::check_shape("gradients of embeddings", &[rows, dims], embeddings.shape())?;
        }
        if !weights.is_empty() {
            Error::check_shape("gradients of class weights", &[classes, dims], weights.shape())?;
        }
        let requested = bias && (!weights.is_empty() || classes == 0);
        let expected = if requested { vec![classes] } else { vec![] };
        let actual: Vec<usize> = of_bias.iter().map(|bias| bias.len()).collect();
        Error::check_shape("gradients of bias", &expected, &actual)
    }
}
