//! What goes into a step and what comes out of it.

use ndarray::{Array1, Array2, ArrayRef1, ArrayRef2, ArrayView1, ArrayView2};

use crate::cross_entropy::{CrossEntropy, Negatives};
use crate::error::Error;
use crate::head::Output;
use crate::kernel::Real;

/// One batch, borrowed: embeddings, class weights, labels, and a bias for Softmax.
///
/// Any strides will do: transposed, sliced and reversed views are taken as they are.
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
}

impl<'a, F: Real> Batch<'a, F> {
    /// A batch of N embeddings `x` (N, D) with `labels` (N) among C class weights `w` (C, D).
    ///
    /// # Errors
    /// [`Error::Empty`] for an empty axis, [`Error::Shape`] where the shapes do not agree,
    /// [`Error::Label`] for a label ≥ C. Numbers are looked at when the step runs.
    pub fn new(
        x: &'a ArrayRef2<F>,
        w: &'a ArrayRef2<F>,
        labels: &'a [usize],
    ) -> Result<Self, Error> {
        check_matrices(x, w)?;
        Error::check_shape("labels", &[x.nrows()], &[labels.len()])?;
        Error::check_labels(labels, w.nrows())?;
        Ok(Batch { embeddings: x.view(), weights: w.view(), labels, bias: None })
    }

    /// The same batch with a bias `b` (C) for the logits of Softmax.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `b` has one entry a class. An angular loss answers
    /// [`Error::Bias`] when the step runs.
    pub fn with_bias(self, b: &'a ArrayRef1<F>) -> Result<Self, Error> {
        Error::check_shape("bias", &[self.weights.nrows()], b.shape())?;
        Ok(Batch { bias: Some(b.view()), ..self })
    }
}

impl<F> Batch<'_, F> {
    /// The same for a shorter time; ndarray's views do not shorten by themselves.
    pub(crate) fn reborrow(&self) -> Batch<'_, F> {
        Batch {
            embeddings: self.embeddings.view(),
            weights: self.weights.view(),
            labels: self.labels,
            bias: self.bias.as_ref().map(|bias| bias.view()),
        }
    }
}

/// Refuses embeddings and weights that are empty or of different dimensions.
pub(crate) fn check_matrices<F>(x: &ArrayRef2<F>, w: &ArrayRef2<F>) -> Result<(), Error> {
    Error::check_not_empty("embeddings", x.shape())?;
    Error::check_not_empty("class weights", w.shape())?;
    Error::check_shape("class weights", &[w.nrows(), x.ncols()], w.shape())
}

/// How the losses of a batch become the objective whose gradient is taken.
#[derive(Debug, Clone, Copy)]
pub enum Reduction<'a, F> {
    /// The mean over the samples: $\frac1N\sum_i L_i$.
    Mean,
    /// The sum over the samples: $\sum_i L_i$.
    Sum,
    /// $\partial \text{objective}/\partial L_i$ for each sample (N): per-sample weights, upstream
    /// gradients, or their product. Nothing is divided by N.
    Weighted(&'a ArrayRef1<F>),
}

impl<F: Real> Reduction<'_, F> {
    /// Refuses weights that are not one finite number for each of `samples`.
    pub(crate) fn check(&self, samples: usize) -> Result<(), Error> {
        let Reduction::Weighted(weights) = self else { return Ok(()) };
        Error::check_shape("reduction weights", &[samples], weights.shape())?;
        check_finite("reduction weights", &weights.view())
    }

    /// $g_i = \partial \text{objective}/\partial L_i$, where `counted` samples have a loss.
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

/// What the forward pass says of a batch; `losses` are not reduced and not capped.
///
/// Accuracy, predictions and target angles are free of the margin, as they are at inference, and
/// come from the same sweep as the losses.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward<F> {
    /// $L_i$ (N).
    pub losses: Array1<F>,
    target_angles: Array1<F>,
    predictions: Vec<usize>,
    pub(crate) negatives: Vec<Negatives>,
    pub(crate) misses: Vec<f64>,
    counted: usize,
    correct: usize,
}

/// What the forward pass found for one sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub negatives: Negatives,
    pub cross_entropy: CrossEntropy,
    pub target_angle: f64,
    pub prediction: usize,
}

impl<F: Real> Forward<F> {
    /// Room for `samples`; each counts, with loss 0 and a right angle, once it is recorded.
    pub(crate) fn with_samples(samples: usize) -> Self {
        Forward {
            losses: Array1::zeros(samples),
            target_angles: Array1::from_elem(samples, F::narrow(std::f64::consts::FRAC_PI_2)),
            predictions: vec![0; samples],
            negatives: vec![Negatives::NONE; samples],
            misses: vec![0.0; samples],
            counted: 0,
            correct: 0,
        }
    }

    /// Takes down what was found for sample `i` of class `label`.
    pub(crate) fn record(&mut self, i: usize, label: usize, outcome: Outcome) {
        self.losses[i] = F::narrow(outcome.cross_entropy.loss);
        self.target_angles[i] = F::narrow(outcome.target_angle);
        self.predictions[i] = outcome.prediction;
        self.negatives[i] = outcome.negatives;
        self.misses[i] = outcome.cross_entropy.miss;
        self.counted += 1;
        self.correct += usize::from(outcome.prediction == label);
    }

    /// The mean loss over the samples that count; 0 where every sample was left out.
    pub fn mean(&self) -> F {
        F::narrow(self.total() / self.counted.max(1) as f64)
    }

    /// The sum of the losses.
    pub fn sum(&self) -> F {
        F::narrow(self.total())
    }

    /// The share of samples whose nearest class is their own, without margin, in $[0, 1]$. Of
    /// classes that are equally near, the one with the lowest number is taken.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.counted.max(1) as f64
    }

    /// The nearest class of each sample, without margin (N).
    pub fn predictions(&self) -> &[usize] {
        &self.predictions
    }

    /// The angle between each embedding and the weight of its class, in radians (N).
    pub fn target_angles(&self) -> &Array1<F> {
        &self.target_angles
    }

    fn total(&self) -> f64 {
        self.losses.iter().map(|loss| loss.widen()).sum()
    }
}

/// Gradients with respect to everything that a batch holds; a step overwrites them.
#[derive(Debug, Clone, PartialEq)]
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
        Gradients {
            embeddings: Array2::zeros(batch.embeddings.dim()),
            weights: Array2::zeros(batch.weights.dim()),
            bias: batch.bias.map(|b| Array1::zeros(b.len())),
        }
    }

    /// Where a step writes.
    pub(crate) fn output(&mut self) -> Output<'_, F> {
        Output {
            embeddings: self.embeddings.view_mut(),
            weights: self.weights.view_mut(),
            bias: self.bias.as_mut().map(|bias| bias.view_mut()),
        }
    }

    /// Refuses gradients that are not in the shapes of `batch`.
    pub(crate) fn check(&self, batch: &Batch<'_, F>) -> Result<(), Error> {
        let (x, w) = (batch.embeddings.shape(), batch.weights.shape());
        Error::check_shape("gradients of embeddings", x, self.embeddings.shape())?;
        Error::check_shape("gradients of class weights", w, self.weights.shape())?;
        let shape = |bias: Option<usize>| bias.map_or(vec![], |classes| vec![classes]);
        let expected = shape(batch.bias.map(|b| b.len()));
        let actual = shape(self.bias.as_ref().map(|b| b.len()));
        Error::check_shape("gradients of bias", &expected, &actual)
    }
}
