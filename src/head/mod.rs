//! From embeddings and class weights to losses and gradients, tile by tile.
//!
//! Every step runs in this order: [`prepare`] checks the input and computes norms and target pairs;
//! the [`first_sweep`] over the classes finds the log-sum-exp of each sample's negatives; [`step`]
//! turns it into losses and coefficients, with the other ranks where the classes are split
//! ([`communication`]); the [`second_sweep`] turns these into gradients. [`plan`] cuts the classes
//! into tiles; [`workspace`] holds the buffers.

mod communication;
mod first_sweep;
mod hard_samples;
mod offload;
mod parameters;
mod plan;
mod prepare;
mod run;
mod second_sweep;
mod step;
mod target_gradients;
mod update;
mod workspace;

pub(crate) use communication::{
    Agreement, Communication, SampleStats, Shared, SingleRank, StepReport, TargetLogit,
};
pub use offload::{
    EmbeddingGradient, HardLogits, LogitFactors, OffloadedClasses, OffloadedStep, SweepStats,
    TargetGradients,
};
pub(crate) use prepare::StepInput;
pub use prepare::ZeroEmbedding;

use ndarray::{Array1, ArrayRef1, ArrayRef2};

use crate::data::{
    Batch, BatchMut, ClassSample, Classes, Forward, Gradients, Reduction, SampledGradients,
    check_matrices, check_rows_of_sub_centers,
};
use crate::error::Error;
use crate::kernel::{Level, Precision, Real};
use crate::loss::MarginLoss;
use crate::update::WeightUpdate;
use run::{Nearest, TargetAngles};
use workspace::WorkspaceCache;

/// Bytes that logits may take between the sweeps by default.
const MEMORY_BUDGET: usize = 256 << 20;

/// A loss applied to embeddings and class weights, without ever holding the N×C logits.
///
/// One step costs three matrix products. Besides its arguments, a step needs memory that does not
/// grow with the number of classes: where N ≤ D the logits wait in the rows of the weight gradient;
/// where N > D they wait in a workspace of at most [`with_memory_budget`](Self::with_memory_budget)
/// bytes (256 MB by default), and what does not fit is computed twice. The head keeps its buffers:
/// use one head for a whole training run.
///
/// Every method takes `&self`, and no lock is held during a step: steps of one head may run side by
/// side, on threads of your own or inside rayon's, each with buffers of its own. A clone starts
/// without buffers.
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
/// let head = Head::new(ArcFace::new(64.0, 0.5)?);
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
    settings: Settings,
    workspaces: WorkspaceCache,
}

/// How a head computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Bytes that logits may take between the sweeps.
    pub budget: usize,
    pub zero: ZeroEmbedding,
    pub precision: Precision,
    /// The vector instructions of products and loops over tiles.
    pub level: Level,
}

impl<L: Clone> Clone for Head<L> {
    fn clone(&self) -> Self {
        let workspaces = WorkspaceCache::default();
        Head { loss: self.loss.clone(), settings: self.settings, workspaces }
    }
}

impl<L: MarginLoss> Head<L> {
    /// A head for `loss`.
    pub fn new(loss: L) -> Self {
        let (zero, precision) = (ZeroEmbedding::Error, Precision::Full);
        let settings = Settings { budget: MEMORY_BUDGET, zero, precision, level: Level::detect() };
        Head { loss, settings, workspaces: WorkspaceCache::default() }
    }

    /// The same head, whose logits may take `bytes` between the sweeps where N > D. With 0 they
    /// are always computed twice: four matrix products instead of three.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Head { settings: Settings { budget: bytes, ..self.settings }, ..self }
    }

    /// The same head with another rule for embeddings that are zero.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        Head { settings: Settings { zero, ..self.settings }, ..self }
    }

    /// The same head, whose matrix products are computed at `precision`; by default
    /// [`Precision::Full`].
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head, Precision};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.9_f32, 0.3], [-0.2, 0.8]], array![[1.0_f32, 0.1], [0.0, 1.0]]);
    /// let batch = Batch::new(&x, &w, &[0, 1])?;
    /// let head = Head::new(ArcFace::default());
    /// let exact = head.forward(&batch)?.mean();
    /// let rounded = head.with_precision(Precision::Bf16).forward(&batch)?.mean();
    /// approx::assert_relative_eq!(rounded, exact, max_relative = 0.02);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_precision(self, precision: Precision) -> Self {
        Head { settings: Settings { precision, ..self.settings }, ..self }
    }

    /// The same head for each level of vector instructions that this CPU has, for tests: a head
    /// takes the highest.
    #[doc(hidden)]
    pub fn at_every_level(&self) -> impl Iterator<Item = Self> + use<'_, L>
    where
        L: Clone,
    {
        Level::available()
            .map(|level| Head { settings: Settings { level, ..self.settings }, ..self.clone() })
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
    pub fn forward<F: Real>(&self, batch: &Batch<'_, F>) -> Result<Forward<F>, Error> {
        self.run(&self.input(batch)?, &SingleRank, None)
    }

    /// The losses of a batch, and the gradients of the reduced losses, which are overwritten.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where `gradients` are not in the shapes of `batch` or
    /// the weights of the reduction are not one finite number for each sample. `gradients` are
    /// then unchanged.
    pub fn forward_backward<F: Real>(
        &self,
        batch: &Batch<'_, F>,
        reduction: Reduction<'_, F>,
        gradients: &mut Gradients<F>,
    ) -> Result<Forward<F>, Error> {
        let input = StepInput { reduction: Some(reduction), ..self.input(batch)? };
        self.run(&input, &SingleRank, Some(gradients.output()))
    }

    /// The losses of a batch among the classes of `sample` alone, and the gradients of their rows:
    /// a step whose time and memory depend on the number of sampled classes. `batch` holds all
    /// class weights and the original labels; the predictions are classes of the batch, too.
    /// `gradients` take the shapes of the sample.
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
    /// let head = Head::new(CosFace::default());
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
    /// As [`forward_backward`](Self::forward_backward), and [`Error::Sample`] or
    /// [`Error::SampledRange`] where `sample` was drawn for another batch or for another number of
    /// classes. `gradients` are then unchanged.
    pub fn forward_backward_sampled<F: Real>(
        &self,
        batch: &Batch<'_, F>,
        sample: &ClassSample,
        reduction: Reduction<'_, F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error> {
        let input = self.input(batch)?;
        let input = StepInput { reduction: Some(reduction), sample: Some(sample), ..input };
        self.run_sampled(&input, &SingleRank, gradients)
    }

    /// The losses of a batch, the class weights moved by their gradients, and the gradient `dx`
    /// (N, D) of the embeddings: [`forward_backward`](Self::forward_backward) and an `update` in
    /// one, without the C×D gradient.
    ///
    /// ```text
    /// dX ← ∂objective/∂X        (w_j, state_j) ← update(w_j, ∂objective/∂w_j, state_j)
    /// ```
    ///
    /// Every gradient is that of the weights before the step. Rows move tile by tile in the second
    /// sweep, as soon as their gradient is made. Weights, state, bias and `dx` get the bits of the
    /// separate calls. An empty `dx` is not asked for: nothing is computed for it.
    ///
    /// Logits wait between the sweeps in the workspace, within
    /// [`with_memory_budget`](Self::with_memory_budget), for N ≤ D too; the others are computed
    /// again.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, BatchMut, Head, Reduction, Sgd};
    /// use ndarray::{Array2, array};
    ///
    /// let x = array![[0.9_f32, 0.1], [-0.2, 0.8]];
    /// let mut w = array![[1.0_f32, 0.2], [0.3, 1.0]];
    /// let head = Head::new(ArcFace::new(16.0, 0.5)?);
    /// let mut update = Sgd::new(0.01)?.with_momentum(0.9)?;
    /// let mut dx = Array2::zeros(x.dim());
    /// let mut losses = vec![];
    /// for _ in 0..5 {
    ///     let mut batch = BatchMut::new(&x, &mut w, &[0, 1])?;
    ///     losses.push(head.step(&mut batch, Reduction::Mean, &mut update, &mut dx)?.mean());
    /// }
    /// assert!(losses.is_sorted_by(|earlier, later| earlier > later));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), and those of [`WeightUpdate`]. Weights,
    /// bias, state and `dx` are then as they were. [`Error::UpdateOverflow`] is found from bounds on
    /// the gradient, since the gradient is not known before weights move.
    pub fn step<F: Real, U: WeightUpdate<F> + ?Sized>(
        &self,
        batch: &mut BatchMut<'_, F>,
        reduction: Reduction<'_, F>,
        mut update: &mut U,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error> {
        let classes = batch.view().classes()?;
        self.run_update(batch, (0..classes, None), reduction, &SingleRank, (&mut update, dx))
    }

    /// The same among the classes of `sample` alone, as
    /// [`forward_backward_sampled`](Self::forward_backward_sampled). Only the rows that were drawn
    /// move; the others keep their weights and their state, bit for bit.
    ///
    /// # Errors
    /// As [`forward_backward_sampled`](Self::forward_backward_sampled) and [`step`](Self::step).
    pub fn step_sampled<F: Real, U: WeightUpdate<F> + ?Sized>(
        &self,
        batch: &mut BatchMut<'_, F>,
        sample: &ClassSample,
        reduction: Reduction<'_, F>,
        mut update: &mut U,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error> {
        let classes = batch.view().classes()?;
        let taking_part = (0..classes, Some(sample));
        self.run_update(batch, taking_part, reduction, &SingleRank, (&mut update, dx))
    }

    /// The nearest class of every embedding (N), without margin: inference. Embeddings `x` (N, D),
    /// class weights `w` (C, D) and, for Softmax, the bias (C). Of classes that are equally near
    /// the lowest is taken. Memory does not grow with C.
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
        &self,
        x: &ArrayRef2<F>,
        w: &ArrayRef2<F>,
        bias: Option<&ArrayRef1<F>>,
    ) -> Result<Vec<usize>, Error> {
        self.predict_sub_centers(x, w, 1, bias)
    }

    /// As [`predict`](Self::predict), with `k` sub-centres per class: class weights `w` (C·K, D) and
    /// for Softmax a bias (C·K); see [`Batch::with_sub_centers`]. Returns the classes.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Head};
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]];
    /// let x = array![[0.1, 2.0], [-3.0, 0.5]];
    /// assert_eq!(Head::new(ArcFace::default()).predict_sub_centers(&x, &w, 2, None)?, [0, 1]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`predict`](Self::predict), [`Error::Parameter`] for K = 0, and [`Error::Shape`] where the
    /// rows are no multiple of K.
    pub fn predict_sub_centers<F: Real>(
        &self,
        x: &ArrayRef2<F>,
        w: &ArrayRef2<F>,
        k: usize,
        bias: Option<&ArrayRef1<F>>,
    ) -> Result<Vec<usize>, Error> {
        check_matrices(x, w)?;
        let classes = check_rows_of_sub_centers(w.nrows(), k)?;
        if let Some(bias) = bias {
            Error::check_shape("bias", &[w.nrows()], bias.shape())?;
        }
        let bias = bias.map(|bias| bias.view());
        let input = StepInput {
            embeddings: x.view(),
            classes: Classes { sub_centers: k, ..Classes::all(w.view(), bias) },
            labels: None,
            ignored: None,
            range: 0..classes,
            sample: None,
            zero: self.settings.zero,
            precision: self.settings.precision,
            level: self.settings.level,
            reduction: None,
        };
        F::run::<Nearest<'_, '_>>((self.engine(), &input))
    }

    /// The angle between each embedding and the weight of its class, in radians (N), without a
    /// sweep over the classes: for losses whose parameters depend on the batch. π/2 for a sample
    /// that is left out.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 1.0], [0.0, 3.0]], array![[2.0, 0.0], [0.0, 1.0]]);
    /// let angles = Head::new(ArcFace::default()).target_angles(&Batch::new(&x, &w, &[0, 1])?)?;
    /// approx::assert_relative_eq!(angles, array![std::f64::consts::FRAC_PI_4, 0.0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward`](Self::forward), as far as embeddings and the weights of the batch's classes
    /// are concerned: no other weight is read.
    pub fn target_angles<F: Real>(&self, batch: &Batch<'_, F>) -> Result<Array1<F>, Error> {
        let input = self.input(batch)?;
        input.check_shapes()?;
        let angles = F::run::<TargetAngles<'_, '_>>((self.engine(), &input));
        Ok(angles?.into_iter().map(F::narrow).collect())
    }
}
