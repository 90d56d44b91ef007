//! Classes split over ranks, whatever carries the numbers between them.

mod agreement;
mod collective;
mod ranks;
mod threads;

use std::ops::Range;

use ndarray::{ArrayRef1, ArrayRef2};

pub use collective::Collective;
pub use threads::ThreadCollective;

use crate::batch::{Batch, Forward, Gradients, Reduction};
use crate::error::Error;
use crate::head::{Head, Output, Part, ZeroEmbedding};
use crate::kernel::Real;
use crate::loss::MarginLoss;
use crate::sampling::{ClassSample, SampledGradients};
use agreement::Inputs;
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
    edge(rank.min(size))..edge((rank + 1).min(size))
}

/// What one rank brings to a step: the whole batch, and the rows of the class weights that it
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
        Shard(Batch { embeddings: x.view(), weights: w.view(), labels, bias: None })
    }

    /// The same with the bias `b` (c) of this rank's classes, for Softmax.
    pub fn with_bias(self, b: &'a ArrayRef1<F>) -> Self {
        Shard(Batch { bias: Some(b.view()), ..self.0 })
    }

    fn check(&self, range: &Range<usize>) -> Result<(), Error> {
        let Batch { embeddings, weights, labels, bias } = self.0;
        let (rows, dims) = embeddings.dim();
        Error::check_not_empty("embeddings", embeddings.shape())?;
        Error::check_shape("class weights", &[range.len(), dims], weights.shape())?;
        Error::check_shape("labels", &[rows], &[labels.len()])?;
        bias.map_or(Ok(()), |bias| Error::check_shape("bias", &[range.len()], bias.shape()))
    }
}

impl<F: Real> Gradients<F> {
    /// Zeros in the shapes of `shard`.
    pub fn zeros_for_shard(shard: &Shard<'_, F>) -> Self {
        Self::zeros_for(&shard.0)
    }
}

/// A [`Head`] whose classes are split over ranks: each holds a contiguous range of them and sees
/// the whole batch; all get the losses and gradients of one machine.
///
/// With rank $\rho$ holding the classes $J_\rho$,
///
/// $$ M_i = \max_\rho \max_{j\in J_\rho, j\ne y_i} z_{ij}, \qquad
///    \Sigma_i = \sum_\rho \sum_{j\in J_\rho, j\ne y_i} e^{z_{ij} - M_i}, \qquad
///    L_i = \log\big(1 + \Sigma_i e^{M_i - z_{iy}}\big), \qquad
///    \frac{\partial L}{\partial x_i} = \sum_\rho \Big(\frac{\partial L}{\partial x_i}\Big)_\rho $$
///
/// Three N-vectors ($M$, $\Sigma$ and $z_{iy} - M_i$ from the rank of the target) and one N×D
/// array carry loss and gradient across. Two more N-vectors carry what those three do not hold,
/// the target angles and the predictions, so that [`Forward`] is whole on every rank. Before them
/// go seven numbers a rank: whether its inputs are good, and what they look like.
///
/// The gradient of the embeddings is whole on every rank, with no factor of the number of ranks;
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
/// Where any rank refuses its input, where the batches or reductions differ, where the ranges
/// overlap or leave a class out, and for a label that no rank holds, every rank answers the same
/// error, before any gradient is written: the refusal itself where every rank has the same, else
/// [`Error::Collective`] with the first rank's words. Where a rank is lost during a step the
/// others answer [`Error::Collective`], too; their gradients then hold nothing of use.
///
/// **Source**: An et al., *Partial FC* (ICCV Workshops 2021), section 3.2.
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
    /// speaks with the others.
    pub fn new(loss: L, collective: C, class_range: Range<usize>) -> Self {
        ClassParallel { head: Head::new(loss), collective, range: class_range }
    }

    /// As [`Head::with_memory_budget`], on this rank.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        ClassParallel { head: self.head.with_memory_budget(bytes), ..self }
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

    /// What speaks with the other ranks.
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
        self.run(shard, Reduction::Sum, Ok(()), None)
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
        let checked = gradients.check(&shard.0);
        self.run(shard, reduction, checked, Some(gradients.output()))
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
        let ranks = ranks(&self.collective, shard, &self.range, reduction);
        let checked = shard.check(&self.range);
        let part = Part {
            batch: shard.0.reborrow(),
            first: self.range.start,
            sample: Some(sample),
            checked,
        };
        self.head.run_sampled(part, reduction, &ranks, gradients)
    }

    fn run<F: Real>(
        &mut self,
        shard: &Shard<'_, F>,
        reduction: Reduction<'_, F>,
        checked: Result<(), Error>,
        output: Option<Output<'_, F>>,
    ) -> Result<Forward<F>, Error>
    where
        C: Collective<F>,
    {
        let ranks = ranks(&self.collective, shard, &self.range, reduction);
        let checked = shard.check(&self.range).and(checked);
        let part =
            Part { batch: shard.0.reborrow(), first: self.range.start, sample: None, checked };
        self.head.run(part, reduction, &ranks, output)
    }
}

/// How this rank speaks with the others in one step.
fn ranks<'a, F: Real, C: Collective<F>>(
    collective: &'a C,
    shard: &'a Shard<'_, F>,
    range: &Range<usize>,
    reduction: Reduction<'a, F>,
) -> Ranks<'a, F, C> {
    let Batch { embeddings, labels, .. } = shard.0;
    let inputs = Inputs { dims: embeddings.dim(), range: range.clone(), labels, reduction };
    Ranks { collective, inputs }
}
