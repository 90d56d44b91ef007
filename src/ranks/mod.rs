//! Classes split over ranks, with any communication layer.

mod agreement;
mod collective;
mod ranks;
mod threads;

use std::ops::Range;

use ndarray::{ArrayRef1, ArrayRef2, ArrayView2};

pub use collective::Collective;
pub use threads::ThreadCollective;

use crate::data::{Batch, BatchMut, ClassSample, Forward, Gradients, Reduction, SampledGradients};
use crate::error::Error;
use crate::head::{Head, StepInput, ZeroEmbedding};
use crate::kernel::{Precision, Real};
use crate::loss::MarginLoss;
use crate::update::WeightUpdate;
use agreement::RankInput;
use ranks::Ranks;

/// The classes of `rank` where `classes` are split evenly over `size` ranks: contiguous, in the
/// order of the ranks, the first ones with one more where it does not come out even.
///
/// Rows that are concatenated in the order of the ranks are those of one machine, so weights
/// saved from any number of ranks load on any other: each rank takes its range of the rows.
///
/// ```
/// use margin_softmax::class_range;
///
/// let ranges: Vec<_> = (0..3).map(|rank| class_range(10, rank, 3)).collect();
/// assert_eq!(ranges, [0..4, 4..7, 7..10]);
/// ```
pub fn class_range(classes: usize, rank: usize, size: usize) -> Range<usize> {
    let size = size.max(1);
    let edge = |rank: usize| rank * (classes / size) + rank.min(classes % size);
    edge(rank.min(size))..edge(rank.saturating_add(1).min(size))
}

/// The input of one rank: the whole batch, and the rows of the class weights that it
/// holds, any number of them, even none.
///
/// Nothing is checked here: an input that only one rank finds wrong must be refused by all, so
/// the step does it, together.
#[derive(Debug, Clone, Copy)]
pub struct Shard<'a, F>(Batch<'a, F>);

impl<'a, F: Real> Shard<'a, F> {
    /// All embeddings `x` (N, D) with their `labels` (N), which number all classes, and the rows
    /// `w` of this rank's classes, (c, D).
    pub fn new(x: &'a ArrayRef2<F>, w: &'a ArrayRef2<F>, labels: &'a [usize]) -> Self {
        let (embeddings, weights) = (x.view(), w.view());
        let (bias, ignored, sub_centers) = (None, None, 1);
        Shard(Batch { embeddings, weights, labels, bias, ignored, sub_centers })
    }

    /// The same with the bias `b` (c) of this rank's classes, for Softmax.
    pub fn with_bias(self, b: &'a ArrayRef1<F>) -> Self {
        Shard(Batch { bias: Some(b.view()), ..self.0 })
    }

    /// As [`Batch::with_sub_centers`], with the rows of this rank's classes, (c·K, D): the same
    /// number on every rank. Checked when the step runs.
    pub fn with_sub_centers(self, k: usize) -> Self {
        Shard(Batch { sub_centers: k, ..self.0 })
    }

    /// As [`Batch::with_ignored_label`]: the same on every rank.
    pub fn with_ignored_label(self, label: usize) -> Self {
        Shard(self.0.with_ignored_label(label))
    }
}

/// A [`Shard`] whose class weights, and bias, a step updates: [`ClassParallel::step`].
#[derive(Debug)]
pub struct ShardMut<'a, F>(BatchMut<'a, F>);

impl<'a, F: Real> ShardMut<'a, F> {
    /// As [`Shard::new`], with rows `w` (c, D) that a step moves.
    pub fn new(x: &'a ArrayRef2<F>, w: &'a mut ArrayRef2<F>, labels: &'a [usize]) -> Self {
        ShardMut(BatchMut::unchecked(x, w, labels))
    }

    /// The same with the bias `b` (c) of this rank's classes, for Softmax, which a step moves too.
    pub fn with_bias(self, b: &'a mut ArrayRef1<F>) -> Self {
        ShardMut(BatchMut { bias: Some(b.view_mut()), ..self.0 })
    }

    /// As [`Shard::with_sub_centers`].
    pub fn with_sub_centers(self, k: usize) -> Self {
        ShardMut(BatchMut { sub_centers: k, ..self.0 })
    }

    /// As [`Batch::with_ignored_label`]: the same on every rank.
    pub fn with_ignored_label(self, label: usize) -> Self {
        ShardMut(self.0.with_ignored_label(label))
    }
}

impl<F: Real> Gradients<F> {
    /// Zeros in the shapes of `shard`.
    pub fn zeros_for_shard(shard: &Shard<'_, F>) -> Self {
        Self::zeros_for(&shard.0)
    }

    /// As [`embeddings_only`](Self::embeddings_only), for `shard`: on every rank or on none.
    pub fn embeddings_only_for_shard(shard: &Shard<'_, F>) -> Self {
        Self::embeddings_only(&shard.0)
    }

    /// As [`weights_only`](Self::weights_only), for `shard`: on every rank or on none.
    pub fn weights_only_for_shard(shard: &Shard<'_, F>) -> Self {
        Self::weights_only(&shard.0)
    }
}

/// A [`Head`] whose classes are split over ranks: each holds a contiguous range of them and sees
/// the whole batch; all get the losses and gradients of one machine.
///
/// With rank ρ holding the classes J_ρ:
///
/// ```text
/// M_i = max_ρ max_{j∈J_ρ, j≠y_i} z_ij     Σ_i = Σ_ρ Σ_{j∈J_ρ, j≠y_i} e^{z_ij − M_i}
/// L_i = log(1 + Σ_i·e^{M_i − z_iy})       ∂L/∂x_i = Σ_ρ (∂L/∂x_i)_ρ
/// ```
///
/// Three N-vectors (M, Σ, and z_iy − M_i from the rank of the target) and one N×D array carry loss
/// and gradient between the ranks. Three more N-vectors carry what is needed for reporting only,
/// the target angles, the predictions and the margin-free target logits, so that [`Forward`] is
/// complete on every rank. Label smoothing adds one N-vector, the mean of the logits; a penalty one;
/// hard negatives two, the targets that are compared and the largest plain logits. Fourteen numbers
/// per rank precede them: whether its input is valid, how many of its classes take part, its
/// shapes and precision, and digests of labels and reduction, of the loss and of the embeddings.
///
/// The gradient of the embeddings is complete on every rank, with no factor of the number of ranks;
/// the gradient of its rows stays on each rank. [`Reduction::Mean`] divides by the N of the whole
/// batch.
///
/// ```
/// use margin_softmax::{
///     ArcFace, ClassParallel, Gradients, Reduction, Shard, ThreadCollective, class_range,
/// };
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
///             let shard = Shard::new(x, &rows, labels);
///             let mut gradients = Gradients::zeros_for_shard(&shard);
///             let mut head = ClassParallel::new(ArcFace::default(), collective, range);
///             let forward = head.forward_backward(&shard, Reduction::Mean, &mut gradients)?;
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
/// Where any rank refuses its input, where embeddings, labels, reductions or losses (with all their
/// parameters) differ, where the ranges overlap or leave a class out, and for a label that no rank
/// holds, every rank returns the same error, before any gradient is written: the refusal itself
/// where every rank has the same, else [`Error::Collective`] with the first rank's message. Where a
/// rank is lost during a step the others return [`Error::Collective`], too; their gradients are
/// then undefined. What a lost rank leaves of a step that moves the weights is said at
/// [`step`](Self::step).
///
/// **Source**: An et al., *Partial FC* (ICCV Workshops 2021), section 3.2.
///
/// [`ClassParallel::step`]: Self::step
///
#[doc = include_str!("../../docs/scaling.md")]
#[derive(Debug)]
pub struct ClassParallel<L, C> {
    head: Head<L>,
    collective: C,
    range: Range<usize>,
}

impl<L: MarginLoss, C> ClassParallel<L, C> {
    /// The part of `loss` over the classes of `class_range` that is this rank's; `collective`
    /// connects it with the others.
    pub fn new(loss: L, collective: C, class_range: Range<usize>) -> Self {
        ClassParallel { head: Head::new(loss), collective, range: class_range }
    }

    /// As [`Head::with_memory_budget`], on this rank.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        ClassParallel { head: self.head.with_memory_budget(bytes), ..self }
    }

    /// As [`Head::with_precision`]: the same on every rank.
    pub fn with_precision(self, precision: Precision) -> Self {
        ClassParallel { head: self.head.with_precision(precision), ..self }
    }

    /// As [`Head::with_zero_embeddings`]: the same on every rank.
    pub fn with_zero_embeddings(self, zero: ZeroEmbedding) -> Self {
        ClassParallel { head: self.head.with_zero_embeddings(zero), ..self }
    }

    /// The loss.
    pub fn loss(&self) -> &L {
        self.head.loss()
    }

    /// The loss, to be changed between steps: the same on every rank.
    pub fn loss_mut(&mut self) -> &mut L {
        self.head.loss_mut()
    }

    /// The connection with the other ranks.
    pub fn collective(&self) -> &C {
        &self.collective
    }

    /// The classes that this rank holds.
    pub fn class_range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The losses of the batch, without gradients; the same on every rank.
    ///
    /// # Errors
    /// See [`ClassParallel`].
    pub fn forward<F: Real>(&mut self, shard: &Shard<'_, F>) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let (input, ranks) = self.input(shard, None);
        self.head.run(&input, &ranks, None)
    }

    /// The losses of the batch, and the gradients of the reduced losses with respect to all
    /// embeddings and this rank's rows, which are overwritten.
    ///
    /// # Errors
    /// See [`ClassParallel`].
    pub fn forward_backward<F: Real>(
        &mut self,
        shard: &Shard<'_, F>,
        reduction: Reduction<'_, F>,
        gradients: &mut Gradients<F>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let (input, ranks) = self.input(shard, Some(reduction));
        self.head.run(&input, &ranks, Some(gradients.output()))
    }

    /// The same over the classes that each rank drew from its own, by a
    /// [`ClassSampler::for_range`](crate::ClassSampler::for_range). Equals one machine's step over
    /// all the drawn classes together.
    ///
    /// # Errors
    /// See [`ClassParallel`].
    pub fn forward_backward_sampled<F: Real>(
        &mut self,
        shard: &Shard<'_, F>,
        sample: &ClassSample,
        reduction: Reduction<'_, F>,
        gradients: &mut SampledGradients<F>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let (input, ranks) = self.input(shard, Some(reduction));
        let input = StepInput { sample: Some(sample), ..input };
        self.head.run_sampled(&input, &ranks, gradients)
    }

    /// As [`Head::step`], with weights, bias and state of this rank's classes, and the gradient `dx`
    /// (N, D) of the embeddings complete on every rank.
    ///
    /// # Errors
    /// See [`ClassParallel`]: where any rank refuses its input or its update, weights, bias, state
    /// and `dx` are as they were on every rank, and also where a rank is lost before weights move.
    /// Afterwards only the sum of the embeddings' gradients over the ranks can fail, where a rank
    /// is lost: weights and state have then moved, and `dx` is undefined.
    pub fn step<F: Real, U: WeightUpdate<F> + ?Sized>(
        &mut self,
        shard: &mut ShardMut<'_, F>,
        reduction: Reduction<'_, F>,
        mut update: &mut U,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        self.update(shard, None, reduction, (&mut update, dx))
    }

    /// The same over the classes that each rank drew from its own: only their rows move.
    ///
    /// # Errors
    /// See [`step`](Self::step).
    pub fn step_sampled<F: Real, U: WeightUpdate<F> + ?Sized>(
        &mut self,
        shard: &mut ShardMut<'_, F>,
        sample: &ClassSample,
        reduction: Reduction<'_, F>,
        mut update: &mut U,
        dx: &mut ArrayRef2<F>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        self.update(shard, Some(sample), reduction, (&mut update, dx))
    }

    fn update<F: Real>(
        &self,
        shard: &mut ShardMut<'_, F>,
        sample: Option<&ClassSample>,
        reduction: Reduction<'_, F>,
        target: (&mut dyn WeightUpdate<F>, &mut ArrayRef2<F>),
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let BatchMut { embeddings, labels, ignored, .. } = shard.0;
        let ranks = self.ranks(embeddings, labels, ignored, Some(reduction));
        self.head.run_update(&mut shard.0, (self.range.clone(), sample), reduction, &ranks, target)
    }

    /// The input of a step on this rank, and its communication with the others.
    fn input<'a, F: Real>(
        &'a self,
        shard: &'a Shard<'_, F>,
        reduction: Option<Reduction<'a, F>>,
    ) -> (StepInput<'a, F>, Ranks<'a, F, C>) {
        let input = StepInput { reduction, ..self.head.input_of(&shard.0, self.range.clone()) };
        let Batch { embeddings, labels, ignored, .. } = shard.0.reborrow();
        (input, self.ranks(embeddings, labels, ignored, reduction))
    }

    /// The communication of a step with the other ranks.
    fn ranks<'a, F: Real>(
        &'a self,
        embeddings: ArrayView2<'a, F>,
        labels: &'a [usize],
        ignored: Option<usize>,
        reduction: Option<Reduction<'a, F>>,
    ) -> Ranks<'a, F, C> {
        let range = self.range.clone();
        let input = RankInput { embeddings, range, labels, ignored, reduction };
        Ranks { collective: &self.collective, input }
    }
}
