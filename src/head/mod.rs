//! A loss applied to embeddings and class weights, without ever holding the N×C logits.
//!
//! Every step runs in this order: the preparation of [`step`](crate::step) checks the input and
//! computes norms and target pairs; the first sweep over the classes finds the log-sum-exp of each
//! sample's negatives; [`step`] turns it into losses and coefficients, with the other ranks where
//! the classes are split; the second sweep turns these into gradients.

mod materialized;
mod nearest;
mod run;
mod sample_stats;
mod step;
mod sweep;
mod top_k;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use ndarray::{Array1, ArrayRef2};

use crate::data::{Batch, BatchMut, Forward, Gradients, Reduction};
use crate::error::Error;
use crate::kernel::{Level, Precision, Real};
use crate::loss::MarginLoss;
use crate::step::{Collective, Ranks, Settings, SingleProcess, WorkspaceCache, ZeroEmbedding};
use crate::update::WeightUpdate;
pub(crate) use run::Engine;
pub use top_k::TopK;

/// A loss applied to embeddings and class weights, without ever holding the N×C logits.
///
/// One step costs three matrix products. Besides its arguments, a step needs memory that does not
/// grow with the number of classes: where N ≤ D the logits wait in the rows of the weight gradient;
/// where N > D they wait in a workspace of at most [`with_memory_budget`](Self::with_memory_budget)
/// bytes (256 MB by default), and what does not fit is computed twice.
///
/// **Keep the head**: it holds its buffers from step to step. A head made anew for each step touches
/// fresh pages of memory each time, which costs up to as much as the rest of the step where N > D. Use
/// one head for a whole training run.
///
/// Made by [`new`](Self::new), a head holds all classes; made by [`on_ranks`](Self::on_ranks), those
/// of one rank, with the same methods and the results of one machine.
///
/// Every method takes `&self`, and no lock is held during a step: steps of one head may run side by
/// side, on threads of your own or inside rayon's, each with buffers of its own; on ranks one after
/// the other. A clone starts without buffers.
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
/// let batch = Batch::new(&x, &w, &[0, 1]);
/// let mut gradients = Gradients::zeros_for(&batch);
/// let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
/// assert_eq!(forward.accuracy(), 1.0);
/// assert_eq!(gradients.weights.dim(), (2, 2));
/// # Ok::<(), margin_softmax::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Head<L, C = SingleProcess> {
    loss: L,
    settings: Settings,
    workspaces: WorkspaceCache,
    collective: C,
    /// The classes of this rank, where classes are split.
    range: Option<Range<usize>>,
    /// Held while a step of this rank is in progress.
    busy: Arc<Mutex<()>>,
}

impl<L: MarginLoss> Head<L> {
    /// A head for `loss`, with all classes in this process.
    pub fn new(loss: L) -> Self {
        Self::with_range(loss, SingleProcess, None)
    }
}

impl<L: MarginLoss, C> Head<L, C> {
    /// A head for `loss` on one of several ranks, which hold a range of the classes each:
    /// `class_range` is this rank's, and `collective` connects it with the others. Every rank gets
    /// the whole batch and makes the same calls; all get the losses and gradients of one machine.
    ///
    /// With rank ρ holding the classes J_ρ:
    ///
    /// ```text
    /// M_i = max_ρ max_{j∈J_ρ, j≠y_i} z_ij     Σ_i = Σ_ρ Σ_{j∈J_ρ, j≠y_i} e^{z_ij − M_i}
    /// L_i = log(1 + Σ_i·e^{M_i − z_iy})       ∂L/∂x_i = Σ_ρ (∂L/∂x_i)_ρ
    /// ```
    ///
    /// What a step sends is listed in [`ranks`](crate::ranks). The gradient of the embeddings is
    /// complete on every rank, with no factor of the number of ranks; the gradient of its rows
    /// stays on each rank. [`Reduction::Mean`] divides by the N of the whole batch.
    ///
    /// ```
    /// use margin_softmax::ranks::{ThreadCollective, class_range};
    /// use margin_softmax::{ArcFace, Batch, Gradients, Head, Reduction};
    /// use ndarray::{Array2, s};
    ///
    /// let x = Array2::from_shape_fn((4, 3), |(i, k)| (1.0 + 5.0 * i as f64 + k as f64).sin());
    /// let w = Array2::from_shape_fn((7, 3), |(j, k)| (2.0 + 3.0 * j as f64 + k as f64).cos());
    /// let labels = [6, 0, 2, 2];
    /// let means: Vec<f64> = std::thread::scope(|scope| {
    ///     let ranks = ThreadCollective::group(2).into_iter().enumerate().map(|(rank, collective)| {
    ///         let (x, w, labels) = (&x, &w, &labels);
    ///         scope.spawn(move || {
    ///             let range = class_range(7, rank, 2);
    ///             let rows = w.slice(s![range.clone(), ..]);
    ///             let batch = Batch::new(x, &rows, labels); // all embeddings, own weights
    ///             let mut gradients = Gradients::zeros_for(&batch);
    ///             let head = Head::on_ranks(ArcFace::default(), collective, range);
    ///             let forward = head.forward_backward(&batch, Reduction::Mean, &mut gradients)?;
    ///             Ok(forward.mean())
    ///         })
    ///     });
    ///     let ranks: Vec<_> = ranks.collect();
    ///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Result<_, _>>()
    /// })?;
    /// assert_eq!(means[0], means[1]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// Every method returns the same error on every rank, before anything is written, where any
    /// rank refuses its input; where embeddings, labels, reductions, precision or losses (with all
    /// their parameters) differ; where the ranges overlap or omit a class; and for a label that no
    /// rank holds: the refusal itself where every rank has the same, else [`Error::Collective`] with
    /// the first rank's message. Where a rank is lost during a step the others return
    /// [`Error::Collective`], too; their gradients are then undefined. A second step on a rank while
    /// one is in progress returns [`Error::Busy`]. Losses are compared by their scale and their
    /// `Debug` text, which for a loss of your own has to show every parameter, and nothing that
    /// differs from process to process.
    ///
    /// **Source**: An et al., *Partial FC* (ICCV Workshops 2021), section 3.2.
    pub fn on_ranks(loss: L, collective: C, class_range: Range<usize>) -> Self {
        Self::with_range(loss, collective, Some(class_range))
    }

    fn with_range(loss: L, collective: C, range: Option<Range<usize>>) -> Self {
        let (settings, workspaces) = (Settings::default(), WorkspaceCache::default());
        Head { loss, settings, workspaces, collective, range, busy: Arc::default() }
    }

    /// The same head, whose logits may take `bytes` between the sweeps where N > D. With 0 they
    /// are always computed twice: four matrix products instead of three.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Head { settings: self.settings.with_memory_budget(bytes), ..self }
    }

    /// The same head with another rule for embeddings that are zero.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        Head { settings: self.settings.with_zero_embeddings(zero), ..self }
    }

    /// The same head, whose matrix products are computed at `precision`; by default
    /// [`Precision::Full`].
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head, Precision};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.9_f32, 0.3], [-0.2, 0.8]], array![[1.0_f32, 0.1], [0.0, 1.0]]);
    /// let batch = Batch::new(&x, &w, &[0, 1]);
    /// let head = Head::new(ArcFace::default());
    /// let exact = head.forward(&batch)?.mean();
    /// let rounded = head.with_precision(Precision::Bf16).forward(&batch)?.mean();
    /// approx::assert_relative_eq!(rounded, exact, max_relative = 0.02);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    pub fn with_precision(self, precision: Precision) -> Self {
        Head { settings: self.settings.with_precision(precision), ..self }
    }

    /// The same head with all these settings.
    pub fn with_settings(self, settings: Settings) -> Self {
        Head { settings, ..self }
    }

    /// The same head for each level of vector instructions that this CPU has, for tests: a head
    /// takes the highest.
    #[doc(hidden)]
    pub fn at_every_level(&self) -> impl Iterator<Item = Self> + use<'_, L, C>
    where
        L: Clone,
        C: Clone,
    {
        Level::available()
            .map(|level| Head { settings: Settings { level, ..self.settings }, ..self.clone() })
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        &self.loss
    }

    /// The loss, to be changed between steps: annealing, margin schedules. On ranks the same on
    /// every rank.
    pub fn loss_mut(&mut self) -> &mut L {
        &mut self.loss
    }

    /// The connection with the other ranks.
    pub fn collective(&self) -> &C {
        &self.collective
    }

    /// The classes of this rank, where classes are split.
    pub fn class_range(&self) -> Option<Range<usize>> {
        self.range.clone()
    }

    /// The losses of a batch, without gradients.
    ///
    /// # Errors
    /// [`Error::Bias`], [`Error::NonFinite`], [`Error::DegenerateNorm`], [`Error::Overflow`],
    /// [`Error::Target`].
    pub fn forward<F: Real>(&self, batch: &Batch<'_, F>) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        run::forward(self.engine(), *batch, None)
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
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        run::forward(self.engine(), *batch, Some((reduction, gradients)))
    }

    /// The losses of a batch, the class weights updated by their gradients, and the gradient `dx`
    /// (N, D) of the embeddings: [`forward_backward`](Self::forward_backward) and an `update` in
    /// one, without the C×D gradient.
    ///
    /// ```text
    /// dX ← ∂objective/∂X        (w_j, state_j) ← update(w_j, ∂objective/∂w_j, state_j)
    /// ```
    ///
    /// Every gradient is that of the weights before the step. Rows are updated tile by tile in the second
    /// sweep, as soon as their gradient is made. Weights, state, bias and `dx` get the bits of the
    /// separate calls. An empty `dx` is not requested: nothing is computed for it.
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
    ///     let mut batch = BatchMut::new(&x, &mut w, &[0, 1]);
    ///     losses.push(head.step(&mut batch, Reduction::Mean, &mut update, &mut dx)?.mean());
    /// }
    /// assert!(losses.is_sorted_by(|earlier, later| earlier > later));
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), and those of [`WeightUpdate`]. Weights,
    /// bias, state and `dx` are then as they were. [`Error::Overflow`] is found from bounds on
    /// the gradient, since the gradient is not known before weights are updated.
    pub fn step<F: Real, U: WeightUpdate<F> + ?Sized>(
        &self,
        batch: &mut BatchMut<'_, F>,
        reduction: Reduction<'_, F>,
        mut update: &mut U,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        run::with_update(self.engine(), batch, reduction, &mut update, dx)
    }

    /// The nearest class of every embedding (N), without margin: inference. Labels are not read. Of
    /// classes that are equally near the lowest is taken. Memory does not grow with C.
    ///
    /// For the cosines themselves, or scaled logits, see
    /// [`MarginLoss::margin_free_logits`](crate::MarginLoss::margin_free_logits).
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[0.1, 2.0], [1.0, 0.2]], array![[1.0, 0.0], [0.0, 1.0]]);
    /// assert_eq!(Head::new(CosFace::default()).predict(&Batch::unlabeled(&x, &w))?, [1, 0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Shape`], [`Error::Parameter`] for zero sub-centers,
    /// [`Error::Bias`], [`Error::NonFinite`], [`Error::DegenerateNorm`], [`Error::Overflow`].
    pub fn predict<F: Real>(&self, batch: &Batch<'_, F>) -> Result<Vec<usize>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        Ok(run::top_k(self.engine(), *batch, None)?.classes.into_iter().collect())
    }

    /// The `k` classes with the largest logits of every embedding, without margin, from the largest
    /// on; of equal logits the lower class first. Memory does not grow with C. Labels are not read;
    /// an embedding that is skipped has classes [`IGNORED`](crate::IGNORED) and logits NaN.
    ///
    /// ```
    /// use margin_softmax::{Batch, CosFace, Head};
    /// use ndarray::array;
    ///
    /// let w = array![[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]];
    /// let head = Head::new(CosFace::new(10.0, 0.2)?);
    /// let nearest = head.top_k(&Batch::unlabeled(&array![[0.6, 0.8]], &w), 2)?;
    /// assert_eq!(nearest.classes, array![[1, 0]]);
    /// approx::assert_relative_eq!(nearest.logits, array![[8.0, 6.0]], max_relative = 1e-12);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`predict`](Self::predict), and [`Error::Parameter`] unless 1 ≤ k ≤ C.
    pub fn top_k<F: Real>(&self, batch: &Batch<'_, F>, k: usize) -> Result<TopK<F>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        run::top_k(self.engine(), *batch, Some(k))
    }

    /// The angle between each embedding and the weight of its class, in radians (N), without a
    /// sweep over the classes: for losses whose parameters depend on the batch. π/2 for a sample
    /// that is ignored.
    ///
    /// ```
    /// use margin_softmax::{ArcFace, Batch, Head};
    /// use ndarray::array;
    ///
    /// let (x, w) = (array![[1.0, 1.0], [0.0, 3.0]], array![[2.0, 0.0], [0.0, 1.0]]);
    /// let angles = Head::new(ArcFace::default()).target_angles(&Batch::new(&x, &w, &[0, 1]))?;
    /// approx::assert_relative_eq!(angles, array![std::f64::consts::FRAC_PI_4, 0.0]);
    /// # Ok::<(), margin_softmax::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward`](Self::forward), as far as embeddings and the weights of the batch's classes
    /// are concerned: no other weight is read.
    pub fn target_angles<F: Real>(&self, batch: &Batch<'_, F>) -> Result<Array1<F>, Error>
    where
        C: Collective<F>,
    {
        let _turn = self.turn()?;
        run::target_angles(self.engine(), *batch)
    }

    pub(crate) fn engine<F: Real>(&self) -> Engine<'_, F>
    where
        C: Collective<F>,
    {
        let Head { loss, settings, workspaces, range, .. } = self;
        let ranks = Ranks(range.as_ref().map(|_| &self.collective as _));
        Engine { loss, settings: *settings, workspaces, ranks, range: range.clone() }
    }

    /// The turn of a step, on ranks: their calls must not mix, and none waits for another.
    fn turn(&self) -> Result<Option<MutexGuard<'_, ()>>, Error> {
        let turn = || match self.busy.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::Busy),
            Err(TryLockError::Poisoned(turn)) => Ok(turn.into_inner()),
            Ok(turn) => Ok(turn),
        };
        self.range.as_ref().map(|_| turn()).transpose()
    }
}
