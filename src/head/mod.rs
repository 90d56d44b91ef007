//! Embeddings and class weights straight to losses and gradients, tile by tile.
//!
//! Two sweeps over the classes: the first ([`forward`]) finds each sample's negatives, the second
//! ([`backward`]) spends each sample's share on the gradients. [`samples`] looks at everything
//! first and refuses what is wrong; [`plan`] cuts the classes into tiles; [`workspace`] keeps the
//! buffers.

mod backward;
mod classes;
mod exchange;
mod forward;
mod plan;
mod samples;
mod step;
mod workspace;

use step::{nearest, step};
use workspace::Kept;

pub(crate) use classes::{Classes, contiguous, norm_of};
use exchange::Alone;
pub(crate) use exchange::{Exchange, Finding, Own};
pub use samples::ZeroEmbedding;
pub(crate) use samples::{ELSEWHERE, Inputs, checked_target};
pub(crate) use step::{Output, Task};

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{ArrayRef1, ArrayRef2};

use crate::batch::{Batch, Forward, Gradients, Reduction, check_matrices};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::sampling::{ClassSample, SampledGradients};

/// Bytes that logits may take between the sweeps, unless the caller says otherwise.
const MEMORY_BUDGET: usize = 256 << 20;

/// A loss applied to embeddings and class weights, without ever holding the N×C logits.
///
/// One step costs three matrix products. Besides what it is given, a step needs memory that does
/// not grow with the number of classes: where $N \le D$ the logits wait in the rows of the weight
/// gradient; where $N > D$ they wait in a workspace of at most
/// [`with_memory_budget`](Self::with_memory_budget) bytes (256 MB by default), and what does not
/// fit is computed twice. The head keeps its buffers: use one head for a whole training run.
///
/// The results are the same, bit for bit, from run to run and for any number of threads (rayon's
/// pool).
///
/// ```
/// use margin_softmax::{ArcFace, Batch, Gradients, Head, Reduction};
/// use ndarray::array;
///
/// let x = array![[0.9_f32, 0.1], [-0.2, 0.8]];
/// let w = array![[1.0_f32, 0.0], [0.0, 1.0]];
/// let mut head = Head::new(ArcFace::new(64.0, 0.5)?);
/// let batch = Batch::new(&x, &w, &[0, 1])?;
/// let mut gradients = Gradients::zeros_for(&batch);
/// let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
/// assert_eq!(forward.accuracy(), 1.0);
/// assert_eq!(gradients.weights.dim(), (2, 2));
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug)]
pub struct Head<L> {
    loss: L,
    budget: usize,
    zero: ZeroEmbedding,
    kept: Kept,
}

impl<L: MarginLoss> Head<L> {
    /// A head for `loss`.
    pub fn new(loss: L) -> Self {
        Head { loss, budget: MEMORY_BUDGET, zero: ZeroEmbedding::Error, kept: Kept::default() }
    }

    /// The same head, whose logits may take `bytes` between the sweeps where $N > D$. With 0 they
    /// are always computed twice: four matrix products instead of three.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Head { budget: bytes, ..self }
    }

    /// The same head with another rule for embeddings that are zero.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        Head { zero, ..self }
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The loss, to be changed between steps: annealing, margin schedules.
    pub fn loss_mut(&mut self) -> &mut L {
        &mut self.loss
    }

    /// The losses of a batch, without gradients.
    ///
    /// # Errors
    /// [`Error::Bias`], [`Error::NonFinite`], [`Error::DegenerateNorm`], [`Error::Overflow`],
    /// [`Error::Target`].
    pub fn forward<F: Real>(&mut self, batch: &Batch<'_, F>) -> Result<Forward<F>, Error> {
        self.run(Part::whole(batch), Reduction::Sum, &Alone, None)
    }

    /// The losses of a batch, and the gradients of the reduced losses, which are overwritten.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where `gradients` are not in the shapes of `batch` or
    /// the weights of the reduction are not one finite number for each sample. `gradients` are
    /// then as they were.
    pub fn forward_backward<F: Real>(
        &mut self,
        batch: &Batch<'_, F>,
        reduction: Reduction<'_, F>,
        gradients: &mut Gradients<F>,
    ) -> Result<Forward<F>, Error> {
        let checked = gradients.check(batch);
        let part = Part { checked, ..Part::whole(batch) };
        self.run(part, reduction, &Alone, Some(gradients.output()))
    }

    /// The losses of a batch among the classes of `sample` alone, and the gradients of their
    /// rows: a step whose time and memory follow the sampled count. `batch` holds all class
    /// weights and the original labels; the predictions of the answer are classes of the batch,
    /// too. `gradients` take the shapes of the sample.
    ///
    /// The gradient with respect to every row that was not drawn is exactly 0.
    ///
    /// ```
    /// use margin_softmax::{Batch, ClassSampler, CosFace, Head, Reduction, SampledGradients};
    /// use ndarray::{Array2, array};
    ///
    /// let w = Array2::from_shape_fn((100, 2), |(j, k)| (j as f64 + 1.5 * k as f64).sin());
    /// let (x, labels) = (array![[0.3, 1.0], [-0.8, 0.1]], [7, 31]);
    /// let batch = Batch::new(&x, &w, &labels)?;
    /// let mut head = Head::new(CosFace::default());
    /// let mut sampler = ClassSampler::new(100, 0.1, 42)?;
    /// let mut gradients = SampledGradients::default();
    ///
    /// let sample = sampler.sample(&labels)?;
    /// head.forward_backward_sampled(&batch, &sample, Reduction::Mean, &mut gradients)?;
    /// assert_eq!(gradients.weights.dim(), (10, 2)); // of rows `sample.classes` of w
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), and [`Error::Sample`] where `sample` was
    /// drawn for another batch. `gradients` are then as they were.
    pub fn forward_backward_sampled<F: Real>(
        &mut self,
        batch: &Batch<'_, F>,
        sample: &ClassSample,
        reduction: Reduction<'_, F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error> {
        let part = Part { sample: Some(sample), ..Part::whole(batch) };
        self.run_sampled(part, reduction, &Alone, gradients)
    }

    /// The nearest class of every embedding (N), without margin: inference. Embeddings `x` (N, D),
    /// class weights `w` (C, D) and, for Softmax, the bias (C). Of classes that are equally near the
    /// lowest is taken. Memory does not grow with C.
    ///
    /// For the cosines themselves, or scaled logits, see
    /// [`MarginLoss::margin_free_logits`](crate::MarginLoss::margin_free_logits).
    ///
    /// ```
    /// use margin_softmax::{CosFace, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.1, 2.0], [1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// assert_eq!(Head::new(CosFace::default()).predict(&x, &w, None)?, [1, 0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::Bias`], [`Error::NonFinite`],
    /// [`Error::DegenerateNorm`], [`Error::Overflow`].
    pub fn predict<F: Real>(
        &mut self,
        x: &ArrayRef2<F>,
        w: &ArrayRef2<F>,
        bias: Option<&ArrayRef1<F>>,
    ) -> Result<Vec<usize>, Error> {
        check_matrices(x, w)?;
        if let Some(bias) = bias {
            Error::check_shape("bias", &[w.nrows()], bias.shape())?;
        }
        let (bias, labels) = (bias.map(|bias| bias.view()), vec![ELSEWHERE; x.nrows()]);
        let inputs = Inputs {
            embeddings: x.view(),
            classes: Classes::all(w.view(), bias),
            labels: &labels,
            zero: self.zero,
        };
        let mut workspace = self.kept.take();
        let answer = nearest(&self.loss, inputs, &mut workspace);
        self.kept.put(workspace);
        answer
    }

    /// A step over sampled classes, on one rank or on all there is.
    pub(crate) fn run_sampled<F: Real>(
        &mut self,
        part: Part<'_, F>,
        reduction: Reduction<'_, F>,
        exchange: &impl Exchange<F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error> {
        let mut fresh = gradients.fresh_unless_fit(&part.batch, part.sample);
        let output = fresh.as_mut().unwrap_or(gradients).output();
        let forward = self.run(part, reduction, exchange, Some(output))?;
        if let Some(fresh) = fresh {
            *gradients = fresh;
        }
        Ok(forward)
    }

    /// Every step there is.
    pub(crate) fn run<F: Real>(
        &mut self,
        part: Part<'_, F>,
        reduction: Reduction<'_, F>,
        exchange: &impl Exchange<F>,
        output: Option<Output<'_, F>>,
    ) -> Result<Forward<F>, Error> {
        let Part { batch, first, sample, checked } = part;
        let range = first..first + batch.weights.nrows();
        let checked = checked.and_then(|()| {
            sample.map_or(Ok(()), |sample| sample.check(batch.labels, range.clone()))
        });
        let offsets = sample.and_then(ClassSample::offsets);
        let labels = match sample {
            Some(sample) => Cow::from(&sample.labels),
            None if first == 0 && batch.labels.iter().all(|label| range.contains(label)) => {
                Cow::from(batch.labels)
            }
            None => batch.labels.iter().map(|&label| here(label, &range)).collect(),
        };
        let classes = Classes {
            weights: batch.weights,
            bias: batch.bias,
            selected: sample.map(|sample| &sample.classes[..]),
            offsets: offsets.as_deref(),
            first,
        };
        let inputs =
            Inputs { embeddings: batch.embeddings, classes, labels: &labels, zero: self.zero };
        let reduction = output.is_some().then_some(reduction);
        let task = Task { inputs, labels: batch.labels, reduction, checked };
        let mut workspace = self.kept.take();
        let answer = step(&self.loss, &task, self.budget, &mut workspace, exchange, output);
        self.kept.put(workspace);
        answer
    }
}

/// The row of a class among those in `range`.
pub(crate) fn here(class: usize, range: &Range<usize>) -> usize {
    if range.contains(&class) { class - range.start } else { ELSEWHERE }
}

/// The part of all classes that a step sees.
pub(crate) struct Part<'a, F> {
    /// The rows that are here; the labels name all classes.
    pub batch: Batch<'a, F>,
    /// The class of the first row.
    pub first: usize,
    /// Which of the rows take part, if not all.
    pub sample: Option<&'a ClassSample>,
    /// What is already found wrong.
    pub checked: Result<(), Error>,
}

impl<'a, F> Part<'a, F> {
    /// All classes.
    fn whole(batch: &'a Batch<'_, F>) -> Self {
        Part { batch: batch.reborrow(), first: 0, sample: None, checked: Ok(()) }
    }
}
