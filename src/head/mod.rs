//! Embeddings and class weights straight to losses and gradients, tile by tile.
//!
//! Two sweeps over the classes: the first ([`forward`]) finds each sample's negatives, the second
//! ([`backward`]) spends each sample's share on the gradients. [`samples`] looks at everything
//! first and refuses what is wrong; [`plan`] cuts the classes into tiles; [`workspace`] keeps the
//! buffers.

mod backward;
mod classes;
mod forward;
mod plan;
mod samples;
mod step;
mod workspace;

use classes::Classes;
use samples::ELSEWHERE;
use step::{Output, nearest, step};
use workspace::Kept;

pub(crate) use classes::{contiguous, norm_of};
pub use samples::ZeroEmbedding;
pub(crate) use samples::{Inputs, checked_target};

use ndarray::{ArrayRef1, ArrayRef2};

use crate::batch::{Batch, Forward, Gradients, Reduction, check_matrices};
use crate::error::Error;
use crate::kernel::Real;
use crate::loss::MarginLoss;

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
        self.run(batch, Reduction::Sum, None)
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
        gradients.check(batch)?;
        let output = Output {
            embeddings: gradients.embeddings.view_mut(),
            weights: gradients.weights.view_mut(),
            bias: gradients.bias.as_mut().map(|bias| bias.view_mut()),
        };
        self.run(batch, reduction, Some(output))
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
            classes: Classes { weights: w.view(), bias, selected: None },
            labels: &labels,
            zero: self.zero,
        };
        let mut workspace = self.kept.take();
        let answer = nearest(&self.loss, &inputs, &mut workspace);
        self.kept.put(workspace);
        answer
    }

    fn run<F: Real>(
        &mut self,
        batch: &Batch<'_, F>,
        reduction: Reduction<'_, F>,
        output: Option<Output<'_, F>>,
    ) -> Result<Forward<F>, Error> {
        let inputs = Inputs {
            embeddings: batch.embeddings,
            classes: Classes { weights: batch.weights, bias: batch.bias, selected: None },
            labels: batch.labels,
            zero: self.zero,
        };
        let mut workspace = self.kept.take();
        let answer = step(&self.loss, &inputs, reduction, self.budget, &mut workspace, output);
        self.kept.put(workspace);
        answer
    }
}
